"""The labeled rows of the four tasks."""

from __future__ import annotations

import random
from dataclasses import replace

from nacre.seeds import derive
from nacre.tasks.demo.grammar import LabelPlan, TaskPlan, filler, sentence
from nacre.tasks.demo.plans import PLANS, distraction
from nacre.tasks.task import Row, Split, Task
from nacre.tasks.template import Template

ROWS: dict[Split, int] = {"train": 480, "validation": 60, "test": 200}
_SEED = 2026  # part of the stream's definition, not a setting


def demo_tasks() -> list[Task]:
    """Returns the four tasks of the stream, always the same: topic, mood, place, request; four labels each.

    Every task has 480 train, 60 validation and 200 test rows with balanced labels; no text occurs twice in a task.
    """
    return [_task(plan) for plan in PLANS.values()]


def _task(plan: TaskPlan) -> Task:
    used: set[str] = set()  # over the splits, which are disjoint
    return Task(
        name=plan.name,
        train=_rows(plan, "train", used),
        validation=_rows(plan, "validation", used),
        test=_rows(plan, "test", used),
        template=Template(instruction=plan.instruction, options=True),
        labels=tuple(plan.labels),
        source={"kind": "generated", "generator": "nacre.tasks.demo", "seed": _SEED},
    ).check()


def _rows(plan: TaskPlan, split: Split, used: set[str]) -> tuple[Row, ...]:
    rng = random.Random(derive(_SEED, "demo", plan.name, split))
    plans = {label: _trained_part(own) if split == "train" else own for label, own in plan.labels.items()}
    labels = list(plans)
    rows: list[Row] = []
    while len(rows) < ROWS[split]:
        label = labels[len(rows) % len(labels)]
        text = _text(rng, plan, plans[label])
        if text not in used:
            used.add(text)
            rows.append(Row(text, label))
    rng.shuffle(rows)
    return tuple(rows)


def _text(rng: random.Random, plan: TaskPlan, label_plan: LabelPlan) -> str:
    """Two sentences with clues, or one and a sentence of another task; a third of the texts also have a filler."""
    sentences = [sentence(rng, label_plan)]
    sentences.append(sentence(rng, label_plan) if rng.random() < 0.5 else distraction(rng, plan))
    if rng.random() < 0.33:
        sentences.append(filler(rng))
    rng.shuffle(sentences)
    return " ".join(sentences)


def _trained_part(label_plan: LabelPlan) -> LabelPlan:
    """The part of a label's plan that training rows use: two thirds of its words, or of its patterns."""
    if not label_plan.words:
        return replace(label_plan, patterns=_two_thirds(label_plan.patterns))
    return replace(label_plan, words={slot: _two_thirds(words) for slot, words in label_plan.words.items()})


def _two_thirds(choices: tuple[str, ...]) -> tuple[str, ...]:
    """The first two thirds, rounded up."""
    return choices[: -(-2 * len(choices) // 3)]
