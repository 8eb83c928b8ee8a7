"""What a prompt says besides the text, and thus reveals about its task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from nacre.tasks.task import Task

BEGINNING = 20
"""The number of characters from which a common beginning of all texts of a task counts as an instruction."""


def prompts(tasks: Sequence[Task]) -> dict[str, Any]:
    """Compares what surrounds the texts of different tasks.

    The comparison covers identity lines, instruction, option list, answer cue, and the words with which all texts of a
    task begin.

    Args:
        tasks: The tasks.

    Returns:
        Plain values: lists of tasks that share a prompt, an instruction or options; under `told_apart`, the tasks
        whose prompts no other task has, so that a model can read from the prompt which task it answers.
    """
    frames = {task.name: _frame(task) for task in tasks}
    return {
        "setting": {task.name: task.template.identity for task in tasks},
        "told_apart": [name for name, frame in frames.items() if list(frames.values()).count(frame) == 1],
        "same_prompt": _shared(frames),
        "same_instruction": _shared({task.name: task.template.instruction for task in tasks}),
        "same_options": _shared({task.name: _options(task) for task in tasks}),
        "same_beginning_of_texts": {task.name: beginning for task in tasks if (beginning := _beginning(task))},
    }


def _frame(task: Task) -> tuple[str, str, str]:
    example = task.template.example("", "", task.labels)
    return example.before, example.after, _beginning(task)


def _options(task: Task) -> str:
    return ", ".join(task.labels) if task.template.options and task.labels else ""


def _beginning(task: Task) -> str:
    """The words with which all texts of the training split begin, if they are too many to be chance."""
    texts = {row.text for row in task.train}
    if len(texts) < 2:
        return ""
    first, last = min(texts), max(texts)  # all texts between these two share their common beginning
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length] if length >= BEGINNING else ""


def _shared(values: dict[str, Any]) -> list[list[str]]:
    """Groups of names that have the same value; empty values do not count."""
    groups: defaultdict[Any, list[str]] = defaultdict(list)
    for name, value in values.items():
        groups[value].append(name)
    return [names for value, names in groups.items() if len(names) > 1 and value]
