"""What makes the numbers of two runs comparable, and its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nacre.evaluation.decoding import token_budget
from nacre.evaluation.scoring import NORMALIZATION
from nacre.evaluation.spelling import as_answered, label_spellings
from nacre.learning.learner import Learner
from nacre.measuring.probes.probe import Measurement
from nacre.models.chunks import GROUP
from nacre.models.conversations import Chat
from nacre.models.generative import DecoderOnly
from nacre.models.host import Host
from nacre.models.masked_text import RATE
from nacre.records.run import TASK_IDENTITY
from nacre.runs.recipe import Recipe
from nacre.tasks.content import task_content
from nacre.tasks.task import Task


def protocol_of(
    recipe: Recipe,
    tasks: Sequence[Task],
    learner: Learner,
    measurements: Mapping[str, Measurement] | None = None,
) -> dict[str, Any]:
    """Describe how a run is measured.

    Args:
        recipe: The run's.
        tasks: The stream's.
        learner: Before any task.
        measurements: The run's probes with their rows, by key.

    Returns:
        Rows (by content, not by file), prompts, lengths, decoding, scoring and the pretrained model. Neither the method
        nor its training settings: those are what is compared.
    """
    host = learner.host
    answered = [task for task in tasks if task.kind == "answer"]
    return {
        "tasks": [task_content(task) for task in tasks],
        "identity in the prompt": recipe.identity,
        **_task_identity(learner),
        "limit_train": recipe.limit_train,
        "limit_test": recipe.limit_test,
        "measured on": recipe.measure_on,
        "max_source_length": host.family.source_limit(learner.lengths),
        "truncation": "the text only, from the right",
        "decoding": learner.decoding.description(host),
        **learner.decoding.protocol(),
        "max_new_tokens": token_budget(host, answered, learner.lengths, learner.decoding) if answered else None,
        "normalization": NORMALIZATION,
        "empty answers": "never right",
        "average": "over tasks",
        "model": {"family": host.family.name, "hash": learner.pretrained},
        **_spellings(answered, learner),
        **_text(tasks, host),
        **_conversations(tasks, host),
        **{key.replace("_", " "): measurement.protocol() for key, measurement in (measurements or {}).items()},
    }


def _task_identity(learner: Learner) -> dict[str, Any]:
    """That each row's task is told, as with a head for each task; nothing where it is not."""
    if learner.head == "growing":
        return {}
    return {TASK_IDENTITY: "told, as in training: each task has a head of its own, over its own labels"}


def _spellings(tasks: Sequence[Task], learner: Learner) -> dict[str, Any]:
    """What of labels and references the tokenizer cannot write; nothing where it writes all of them."""
    family = learner.host.family
    bare = [task.name for task in tasks if as_answered(family, task) is not task]
    special = {"scored without special tokens": bare} if bare else {}
    if not learner.writes_labels:
        return special
    spellings = {task.name: label_spellings(family, task) for task in tasks}
    changed = {name: own for name, own in spellings.items() if own}
    return special | ({"answers that stand for a label": changed} if changed else {})


def _text(tasks: Sequence[Task], host: Host) -> dict[str, Any]:
    """How unlabeled text is cut and measured; nothing in a stream without any."""
    if all(task.kind == "answer" for task in tasks):
        return {}
    head = host.family.head
    return {
        "text": {
            "chunks": f"the texts of a split joined by {GROUP} and cut, the rest dropped{_separated(host)}",
            "predicted": f"{RATE:g} of the tokens, hidden" if head else "every token from those before it",
            "head": head.mlm.fingerprint if head else None,
        }
    }


def _separated(host: Host) -> str:
    family = host.family
    ended = isinstance(family, DecoderOnly) and not family.separates_texts
    return "; the end token behind each text" if ended else ""


def _conversations(tasks: Sequence[Task], host: Host) -> dict[str, Any]:
    """How conversations are written out and cut; nothing in a stream without any."""
    if not any(task.conversations for task in tasks):
        return {}
    day = Chat(host.tokenizer).day
    return {
        "conversations": {
            "chat template": host.tokenizer.chat_template,
            **({"day": day} if day is not None else {}),
            "truncation": "the oldest answers with what led to them, then the end of what was said last",
        }
    }
