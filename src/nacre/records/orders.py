"""The orders in which tasks were learned: over protocols that differ in nothing else one may average."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nacre.errors import RecipeError
from nacre.files import to_json
from nacre.records.comparison import TaskOrder
from nacre.records.plain import leaves
from nacre.records.run import RunRecord

SHOWN = 4
LONGEST = 24
"""Characters of a value that a message shows."""


def orders_of(runs: Sequence[tuple[Path, RunRecord]]) -> list[TaskOrder]:
    """The orders of the tasks in these runs.

    Args:
        runs: Folders and records.

    Returns:
        One entry for each protocol, by name.

    Raises:
        RecipeError: If the protocols differ in more than the order of the tasks, because a difference between the
            runs may then come from the data, the prompts or the scoring; it says in what.
    """
    protocols: dict[str, tuple[Path, RunRecord]] = {}
    for path, record in runs:
        protocols.setdefault(record.protocol_hash, (path, record))
    (here, first), *others = protocols.values()
    for path, record in others:
        if _unordered(record.protocol) != _unordered(first.protocol):
            raise RecipeError(
                f"'{here}' and '{path}' were measured by different protocols and cannot be ranked. "
                f"They differ in {_difference(first, record)}. 'nacre report' draws such runs side by side."
            )
    streams = Counter(record.stream for _, record in protocols.values())
    orders = [
        TaskOrder(
            name=record.stream if streams[record.stream] == 1 else " -> ".join(record.tasks),
            tasks=record.tasks,
            protocol_hash=record.protocol_hash,
        )
        for _, record in protocols.values()
    ]
    return sorted(orders, key=lambda order: order.name)


def _unordered(protocol: Mapping[str, Any]) -> str:
    tasks = protocol.get("tasks")
    return to_json({**protocol, "tasks": sorted(map(to_json, tasks)) if isinstance(tasks, list) else tasks})


def _difference(first: RunRecord, second: RunRecord) -> str:
    """In what two protocols differ, in few words: short values are shown, hashes and texts are only named."""
    if set(first.tasks) != set(second.tasks):
        return f"their tasks ({', '.join(first.tasks)}; {', '.join(second.tasks)})"
    settings = _differing({**first.protocol, "tasks": None}, {**second.protocol, "tasks": None})
    phrases = [f"{key} ({values})" if values else key for key, values in settings.items()]
    by_key: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name in first.tasks:
        for key, values in _differing(_task(first, name), _task(second, name)).items():
            by_key[key][name] = values
    for key, tasks in by_key.items():
        (name, values), *others = tasks.items()
        shown = f"{key} ({values})" if values and not others else key
        phrases.append(f"{shown} of {len(tasks)} tasks" if others else f"{shown} of task '{name}'")
    more = len(phrases) - SHOWN
    return ", ".join(phrases[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _task(record: RunRecord, name: str) -> Mapping[str, Any]:
    return next((task for task in record.protocol.get("tasks") or [] if task.get("name") == name), {})


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys whose values differ, and both values; an empty text where one of them is long."""
    left, right = leaves(first), leaves(second)
    differing = {}
    for key in sorted({*left, *right}):
        values = [_value(flat[key]) if key in flat else "not set" for flat in (left, right)]
        if values[0] != values[1]:
            differing[key] = "; ".join(values) if max(map(len, values)) <= LONGEST else ""
    return differing


def _value(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, indent=None)
