"""What makes the numbers of two runs comparable, and its hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nacre.evaluation.decoding import token_budget
from nacre.evaluation.scoring import NORMALIZATION
from nacre.files import hash_of
from nacre.learning.learner import Learner
from nacre.runs.recipe import Recipe
from nacre.tasks.task import SPLITS, Task


def protocol_of(recipe: Recipe, tasks: Sequence[Task], learner: Learner) -> dict[str, Any]:
    """Rows (by content, not by file), prompts, lengths, decoding, scoring and the pretrained model. Neither the method
    nor its training settings: those are what is compared."""
    host = learner.host
    return {
        "tasks": [_task(task) for task in tasks],
        "identity in the prompt": recipe.identity,
        "limit_train": recipe.limit_train,
        "limit_test": recipe.limit_test,
        "measured on": recipe.measure_on,
        "max_source_length": host.family.source_limit(learner.lengths),
        "truncation": "the text only, from the right",
        "decoding": host.family.decoding,
        "max_new_tokens": token_budget(host, tasks, learner.lengths, learner.decoding),
        "normalization": NORMALIZATION,
        "empty answers": "never right",
        "average": "over tasks",
        "model": {"family": host.family.name, "hash": learner.pretrained},
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "metric": task.metric,
        "labels": list(task.labels) if task.labels else None,
        "template": asdict(task.template),
        "rows": {split: len(task.rows(split)) for split in SPLITS},
        "hash": {split: hash_of([[row.text, row.target] for row in task.rows(split)]) for split in SPLITS},
    }
