"""Prompts that belong to no task of a stream, to see what a learner does with what it was never taught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path

from nacre.errors import DataError
from nacre.files import user_path
from nacre.seeds import derive
from nacre.tasks.checking.overlap import forms
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import SPLITS, Task
from nacre.tasks.template import Example

FOREIGN = (
    ("superni", "task1290_xsum_summarization"),
    ("superni", "task591_sciq_answer_generation"),
    ("superni", "task875_emotion_classification"),
    ("superni", "task748_glucose_reverse_cause_event_detection"),
    ("trace", "ScienceQA"),
    ("instruction", "code_alpaca_2k"),
)
"""Where foreign rows come from: the folder below the data, and the task. None is close to a task of orders 1 to 6."""


def foreign_rows(data: str | Path, number: int = 500, *, known: Sequence[Task] = ()) -> list[Example]:
    """Returns prompts that belong to no known task, each as its own task asks it.

        prompts = [example.input for example in foreign_rows("data", 500, known=tasks)]

    They are test rows of summaries, science questions, emotions, causes of events and code, equally many of each source
    as far as it has them; source by source in turn, so that the first ones are a smaller set of the same kind. Which
    rows they are depends on their texts alone. Nothing may be trained or chosen on them.

    Args:
        data: The folder that holds `superni`, `trace` and `instruction`.
        number: How many.
        known: The tasks that a learner is taught. A source among them is left out, and every text that they have.

    Returns:
        The examples, with the right answer as the target and the source as the task.

    Raises:
        DataError: The rows are missing, or too few; or none is asked for.
    """
    if number < 1:
        raise DataError(f"At least one foreign row must be asked for, not {number}.")
    taught = {forms(row.text)[1] for task in known for split in SPLITS for row in task.rows(split)}
    names = {task.name for task in known}
    sources = [_examples(user_path(data) / folder, name, taught) for folder, name in FOREIGN if name not in names]
    found = list(islice(filter(None, chain.from_iterable(zip_longest(*sources))), number))
    if len(found) < number:
        raise DataError(f"There are {len(found)} foreign rows below {data}, and {number} are asked for.")
    return found


def _examples(folder: Path, name: str, taught: set[bytes]) -> Iterator[Example]:
    """Test rows of a source in the order that their texts give, each text once, and none that is taught."""
    (task,) = load_tasks([name], folder)
    seen = set(taught)
    for example in sorted(task.examples("test"), key=lambda example: derive(0, "foreign", name, example.text)):
        normal = forms(example.text)[1]
        if normal not in seen:
            seen.add(normal)
            yield example
