"""What makes the numbers of two runs comparable, and its hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nacre.evaluation.base_ability.benchmarks import AbilityTask
from nacre.evaluation.decoding import token_budget
from nacre.evaluation.scoring import NORMALIZATION
from nacre.files import hash_of
from nacre.learning.learner import Learner
from nacre.models.chunks import GROUP
from nacre.models.host import Host
from nacre.models.masked_text import RATE
from nacre.records.run import TASK_IDENTITY
from nacre.runs.probes.base_ability import described
from nacre.runs.recipe import Recipe
from nacre.tasks.task import SPLITS, Task


def protocol_of(
    recipe: Recipe,
    tasks: Sequence[Task],
    learner: Learner,
    end_tasks: Sequence[Task] = (),
    abilities: Sequence[AbilityTask] = (),
) -> dict[str, Any]:
    """Rows (by content, not by file), prompts, lengths, decoding, scoring and the pretrained model. Neither the method
    nor its training settings: those are what is compared."""
    host = learner.host
    answered = [task for task in tasks if task.kind == "answer"]
    return {
        "tasks": [_task(task) for task in tasks],
        "identity in the prompt": recipe.identity,
        **_task_identity(learner),
        "limit_train": recipe.limit_train,
        "limit_test": recipe.limit_test,
        "measured on": recipe.measure_on,
        "max_source_length": host.family.source_limit(learner.lengths),
        "truncation": "the text only, from the right",
        "decoding": learner.decoding.description(host),
        "max_new_tokens": token_budget(host, answered, learner.lengths, learner.decoding) if answered else None,
        "normalization": NORMALIZATION,
        "empty answers": "never right",
        "average": "over tasks",
        "model": {"family": host.family.name, "hash": learner.pretrained},
        **_text(tasks, host),
        **_conversations(tasks, host),
        **_end_tasks(recipe, end_tasks),
        **_base_ability(recipe, abilities, host),
    }


def _task_identity(learner: Learner) -> dict[str, Any]:
    """That each row's task is told, as with a head for each task; nothing where it is not."""
    if learner.head == "growing":
        return {}
    return {TASK_IDENTITY: "told, as in training: each task has a head of its own, over its own labels"}


def _end_tasks(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, Any]:
    """How copies are fine-tuned, and on what rows; nothing where none are."""
    if not tasks or recipe.end_tasks is None:
        return {}
    settings = recipe.end_tasks.model_dump(mode="json")
    return {"end tasks": {"settings": settings, "tasks": [_task(task) for task in tasks]}}


def _base_ability(recipe: Recipe, tasks: Sequence[AbilityTask], host: Host) -> dict[str, Any]:
    """What of it is measured, and how; nothing where it is not."""
    return {"base ability": described(recipe.base_ability, tasks, host)} if recipe.base_ability else {}


def _text(tasks: Sequence[Task], host: Host) -> dict[str, Any]:
    """How unlabelled text is cut and measured; nothing in a stream without any."""
    if all(task.kind == "answer" for task in tasks):
        return {}
    head = host.family.head
    return {
        "text": {
            "chunks": f"the texts of a split joined by {GROUP} and cut, the rest dropped",
            "predicted": f"{RATE:g} of the tokens, hidden" if head else "every token from those before it",
            "head": head.mlm.fingerprint if head else None,
        }
    }


def _conversations(tasks: Sequence[Task], host: Host) -> dict[str, Any]:
    """How conversations are written out and cut; nothing in a stream without any."""
    if not any(task.conversations for task in tasks):
        return {}
    return {
        "conversations": {
            "chat template": host.tokenizer.chat_template,
            "truncation": "the oldest answers with what led to them, then the end of what was said last",
        }
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        **({"kind": task.kind} if task.kind == "text" else {}),
        "metric": task.metric,
        "labels": list(task.labels) if task.labels else None,
        "template": task.template.described(),
        "rows": {split: len(task.rows(split)) for split in SPLITS},
        "hash": {split: hash_of([row.content for row in task.rows(split)]) for split in SPLITS},
    }
