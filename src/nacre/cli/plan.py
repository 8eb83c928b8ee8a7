"""What `nacre run --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nacre.cli.screen import WARNING, Grid, say, screen

if TYPE_CHECKING:
    from nacre.runs.plan import PlannedPart, PlannedStage, RunPlan

FOLDER = {
    "new": "",
    "begun": " (begun; it would be continued after the last finished task)",
    "finished": " (finished; nothing would be run)",
}


def print_plan(plan: RunPlan) -> None:
    """The method's parts, the settings, a row for each task, and what is missing."""
    console = screen()
    for name, text in _lines(plan):
        say(console, f"{name:<15}{text}")
    console.print()
    _stages(plan).print(console)
    if plan.estimate is not None:
        say(console, str(plan.estimate))
    for sentence in plan.missing:
        say(console, f"Missing: {sentence}", WARNING)


def _lines(plan: RunPlan) -> Iterator[tuple[str, str]]:
    recipe, optim = plan.recipe, plan.recipe.optim
    yield "method", f"{recipe.method}: {plan.title}"
    yield "adapter", plan.adapter
    yield "start", plan.start.settings
    yield "penalties", ", ".join(part.settings for part in plan.penalties) or "none"
    yield "memory", plan.memory.settings if plan.memory else "none"
    yield "curriculum", plan.curriculum
    yield from _in_order(plan.gradient_rules, optim.max_grad_norm)
    warmup = f", after a warm-up over {optim.warmup:g} of the steps" if optim.warmup else ""
    yield (
        "optimizer",
        f"AdamW, betas {optim.betas[0]:g} and {optim.betas[1]:g}, weight decay {optim.weight_decay:g}, rate "
        f"{optim.schedule}{warmup}",
    )
    yield "rows a step", f"{optim.batch_size}, in {optim.accumulation} micro-batch(es) on each device"
    yield "lengths", f"{optim.max_source_length} tokens of input, {optim.max_target_length} of target"
    yield "model", recipe.model
    yield "needs", "unknown" if plan.needs is None else str(plan.needs)
    yield "stream", recipe.stream_name
    yield "data", recipe.data or "none"
    yield "identity", f"{recipe.identity} (lines in the prompt that name the task)"
    if recipe.head != "growing":
        yield "head", f"{recipe.head} (the task is given in training and at test)"
    answers = "" if plan.answers is None else f", {plan.answers:,} answers in all"
    yield "measured", f"{recipe.matrix} matrix, on {recipe.measure_on} rows{answers}"
    for key, probe in recipe.probes.items():
        if (summary := probe.summary()) is not None:
            yield key.replace("_", " "), summary
    yield "seed", str(recipe.seed)
    yield "output", f"{recipe.output}{FOLDER[plan.folder]}"


def _in_order(rules: list[PlannedPart], norm: float | None) -> Iterator[tuple[str, str]]:
    """What acts between gradients and step, in its order."""
    acting = [rule.settings for rule in rules] + ([] if norm is None else [f"clipping to norm {norm:g}"])
    for number, rule in enumerate(acting, start=1):
        yield "" if number > 1 else "gradient rules", f"{number}. {rule}"
    if not acting:
        yield "gradient rules", "none"


def _stages(plan: RunPlan) -> Grid:
    stored = () if plan.memory is None else ("stored",)
    penalties = (part.key for part in plan.penalties)
    headings = ("task", "rows", *stored, "epochs", "rate", "steps", "answers", *penalties)
    return Grid("", headings, [_stage_row(stage, plan.memory is not None) for stage in plan.stages])


def _stage_row(stage: PlannedStage, stores: bool) -> list[str]:
    return [
        stage.name,
        _count(stage.rows),
        *([_count(stage.kept)] if stores else []),
        str(stage.epochs),
        f"{stage.learning_rate:g}",
        _count(stage.steps),
        _count(stage.answers),
        *[f"{weight:g}" for weight in stage.penalties.values()],
    ]


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
