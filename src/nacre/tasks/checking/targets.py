"""Targets that an answer cannot equal, or that a wrong answer equals, by the way in which answers are compared."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from nacre.tasks.checking.finding import Finding, listed
from nacre.tasks.task import SPLITS, Task

_NUMBER = re.compile(r"[-+]?[0-9]+(?:[.,:/][0-9]+)*")
_CHANGED = re.compile(r"^-|[0-9][.:/][0-9]")
"""A number that becomes another one without its signs; without the commas between thousands it stays the same."""
_SPECIAL = re.compile(
    r"^<s>|(?:</s>|<\|[\w ]+\|>|<(?:eos|pad|end_of_turn|end_of_utterance|EOT)>|\[(?:SEP|EOS|PAD)\])\s*$"
)
"""What the tokenizers of well-known models call the begin and the end of a text."""


def target_findings(task: Task, normalize: Callable[[str], str]) -> Iterator[Finding]:
    """Checks the targets of a task, without a tokenizer.

    Args:
        task: The task.
        normalize: The normalization of answers before they are compared.

    Yields:
        Findings for targets with a special token written into them and, in a task of free text that is scored by exact
        match, for targets of which nothing is left, numbers that lose their sign or point, and targets that become the
        same.
    """
    targets = Counter(answer for split in SPLITS for row in task.rows(split) for answer in row.accepted if answer)
    special = {target for target in targets if _SPECIAL.search(target)}
    yield from _finding(
        task,
        targets,
        special,
        "begin or end with a special token written out; it is not part of an answer, so that no answer equals them. "
        "Remove it: the end token is added in training.",
    )
    if task.labels is not None or task.metric != "exact_match":
        return
    forms = {target: normalize(target) for target in targets}
    yield from _finding(
        task,
        targets,
        {target for target, form in forms.items() if not form},
        "become nothing when answers are compared, so that no answer is right; the metric exact_string compares letter "
        "by letter.",
    )
    numbers = {target for target in targets if _NUMBER.fullmatch(target.strip()) and _CHANGED.search(target.strip())}
    yield from _finding(
        task,
        targets,
        numbers,
        "are numbers that lose their sign, point or colon when answers are compared, so that 15 is right for 1.5; use "
        "the metric number or exact_string.",
    )
    same: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for target, form in forms.items():
        if form and target not in numbers:
            same[form][_harmless(target)] = target
    yield from _finding(
        task,
        targets,
        {target for different in same.values() if len(different) > 1 for target in different.values()},
        "become the same as another one when answers are compared, so that each is right for the other; the metric "
        "exact_string compares letter by letter.",
    )


def _finding(task: Task, targets: Counter[str], odd: set[str], what: str) -> Iterator[Finding]:
    if odd:
        rows, size = sum(targets[target] for target in odd), sum(targets.values())
        shown = listed(sorted(target[-40:] for target in odd), most=3)
        yield Finding("targets", (task.name,), f"{rows} of {size} targets of '{task.name}' ({shown}) {what}", rows)


def _harmless(target: str) -> str:
    """A target without what nobody minds: case, white space, and the signs around a sentence."""
    return " ".join(target.lower().split()).strip(".!?,;:'\"()")
