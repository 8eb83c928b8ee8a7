"""`nacre inspect`: what happens inside a learner of a finished run, layer by layer, as a figure and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nacre.printable import one_line

if TYPE_CHECKING:
    from nacre.learning.learner import Learner
    from nacre.tasks.task import Task

inspect = typer.Typer(help="Look inside a learner of a finished run: gates, magnitudes, sensitivities, layer by layer.")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
AfterTasks = Annotated[int | None, typer.Option(min=1, help="After how many tasks; after the last one if not given.")]
Output = Annotated[
    Path | None, typer.Option(help="The figure (.png, .svg, .pdf), by default in RUN. Its numbers stand beside it.")
]


@inspect.command()
def gates(
    run: Run,
    task: Annotated[str | None, typer.Option(help="Whose rows; those of the task learned last if not given.")] = None,
    stage: AfterTasks = None,
    output: Output = None,
) -> None:
    """Draw how much each task's LoRA takes part in every layer (AM-LoRA's Figure 4); the run has measured it."""
    from nacre.documents import parse_json
    from nacre.errors import RecipeError, nearest
    from nacre.files import read_text
    from nacre.manifest import read_manifest
    from nacre.report.drawing import check_picture
    from nacre.report.inside import gates_figure
    from nacre.runs.stages import GATES

    folder, learned = _stage(run, stage)
    target = output or run / "gates.png"
    check_picture(target)
    manifest = read_manifest(folder)
    if GATES not in manifest.sha256:
        raise RecipeError(f"The learner in '{folder}' has no gates; am_lora's have them.")
    manifest.check_bytes(folder, GATES)
    document: Any = parse_json(read_text(folder / GATES))
    chosen, measured = task or learned, list(document["tasks"])
    if chosen not in measured:
        raise RecipeError(f"No gates on a task '{chosen}' were measured there. {nearest(chosen, measured)}")
    _write(gates_figure(document, chosen), document, target)


@inspect.command()
def magnitudes(
    run: Run,
    stage: AfterTasks = None,
    rows: Annotated[int, typer.Option(min=1, help="Test rows of each task.")] = 100,
    threshold: Annotated[float, typer.Option(help="The share of features that are not large.")] = 0.7,
    site: Annotated[
        str | None, typer.Option(help="The linear map that is shown in full: by default the last feed-forward one.")
    ] = None,
    output: Output = None,
) -> None:
    """Draw how large output features are, and how far tasks share the large ones (MIGU's Figures 1 and 5)."""
    from dataclasses import asdict

    from nacre.errors import RecipeError
    from nacre.measuring.task_magnitudes import task_magnitudes
    from nacre.models.quiet import quiet_transformers
    from nacre.report.drawing import check_picture
    from nacre.report.inside import magnitudes_figure

    folder, _ = _stage(run, stage)
    target = output or run / "magnitudes.png"
    check_picture(target)
    if not 0 <= threshold < 1:
        raise RecipeError(f"threshold: {threshold} is not a share of features from 0 to below 1; MIGU has 0.7.")
    with quiet_transformers():
        found = asdict(task_magnitudes(*_learned(run, folder), rows=rows, threshold=threshold, shown=site))
    _write(magnitudes_figure(found), found, target)


@inspect.command()
def sensitivity(
    run: Run,
    stage: AfterTasks = None,
    rows: Annotated[int, typer.Option(min=1, help="Training rows of each task.")] = 8,
    output: Output = None,
) -> None:
    """Draw how much the low-rank slots of each layer matter: sensitivity and Fisher information (LB-CL)."""
    from dataclasses import asdict

    from nacre.measuring.slot_sensitivities import slot_sensitivities
    from nacre.models.quiet import quiet_transformers
    from nacre.report.drawing import check_picture
    from nacre.report.inside import sensitivity_figure

    folder, _ = _stage(run, stage)
    target = output or run / "sensitivity.png"
    check_picture(target)
    with quiet_transformers():
        sites = slot_sensitivities(*_learned(run, folder), rows=rows)
    found = {"rows": rows, "sites": [asdict(site) for site in sites]}
    _write(sensitivity_figure(found), found, target)


def _stage(run: Path, number: int | None) -> tuple[Path, str]:
    """The folder of a finished run's stage, and the task whose turn it was."""
    from nacre.errors import RecipeError
    from nacre.records.reading import read_record
    from nacre.runs.directory import RunDirectory

    directory = RunDirectory(run)
    tasks = read_record(directory.results).tasks
    stages = {learned: folder for learned, folder in directory.stages.items() if 0 < learned <= len(tasks)}
    if not stages:
        raise RecipeError(f"'{run}' has no learner any more: the folders below tasks/ are missing.")
    last = max(stages)
    if number is not None and number not in stages:
        raise RecipeError(f"stage: '{run}' has no learner of stage {number}; the last is {stages[last].name}.")
    return stages[number or last], tasks[(number or last) - 1]


def _learned(run: Path, folder: Path) -> tuple[Learner, list[Task]]:
    """The learner of a stage, and the tasks that it has learned."""
    from nacre.learning.learner import Learner
    from nacre.runs.recipe import read_recipe

    recipe = read_recipe(run / "recipe.yaml", {}, [])
    learner = Learner.load(folder)
    known = {task.name: task for task in recipe.tasks()}
    return learner, [known[name] for name in learner.state.tasks]


def _write(figure: Any, document: Any, target: Path) -> None:
    """The figure, and its numbers beside it."""
    from nacre.files import to_json, write_atomically
    from nacre.report.drawing import write_picture

    numbers = target.with_name(f"{target.stem}.numbers.json")  # a run has results.json, checks.json and others
    write_atomically(numbers, to_json(document, indent=None) + "\n")
    write_picture(figure, target)
    typer.echo(one_line(str(target)))
    typer.echo(one_line(str(numbers)))
