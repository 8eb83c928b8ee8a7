"""Named sequences of tasks: the published orders, hard streams made of their tasks, and nacre's own demo.

Orders 1 to 6 are those of AM-LoRA's Table 4, equal to the released scripts of MIGU
(`scripts/full_tuning/order_{1..6}.sh`); O-LoRA's release calls order 6 "long".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.documents import shown
from nacre.errors import RecipeError, nearest
from nacre.tasks.making.made_task import MadeTask
from nacre.tasks.published.das import ORDER_7
from nacre.tasks.published.hard_streams import (
    CONFLICT,
    CONFLICT_TEXT_ONLY,
    FIFTY,
    REWORDED,
    SPLIT_CLASSES,
    SPLIT_CLASSES_28,
    TEXT_ONLY,
)
from nacre.tasks.published.written import INSTRUCTION, TRACE, superni_name


@dataclass(frozen=True)
class Stream:
    """A named sequence of tasks.

    Attributes:
        name: The stream's name.
        title: One line about it.
        source: Where the sequence was published.
        published: Canonical task names; empty for the demo, whose tasks nacre makes itself.
        made: Tasks that nacre makes of published ones' rows, in place of `published`.
    """

    name: str
    title: str
    source: str
    published: tuple[str, ...] = ()
    made: tuple[MadeTask, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in learning order."""
        return self.published or tuple(task.name for task in self.made) or _demo_names()


def _demo_names() -> tuple[str, ...]:
    # Imported here, because published orders do not need the demo's rows.
    from nacre.tasks.demo import demo_tasks

    return tuple(task.name for task in demo_tasks())


_FOUR = "AM-LoRA Table 4, used by LB-CL and MIGU too (four tasks, T5 and LLaMA2-7B)"
_MADE = "made by nacre of the rows of O-LoRA's release (docs/hard_streams.md)"
_FIFTEEN = "AM-LoRA Table 4, used by MIGU too (fifteen tasks, T5-large)"


def _published(number: int, source: str, tasks: str) -> Stream:
    names = tuple(tasks.split())
    return Stream(f"order{number}", f"Order {number}: {len(names)} tasks, {names[0]} to {names[-1]}", source, names)


def _of(name: str, title: str, source: str, tasks: Sequence[str]) -> Stream:
    return Stream(name, title, source, tuple(tasks))


def _hard(name: str, title: str, made: tuple[MadeTask, ...]) -> Stream:
    return Stream(name, title, _MADE, made=made)


def _superni(number: int, tasks: str) -> Stream:
    title = f"SuperNI, order {number}: fifteen tasks of dialogue, extraction, answers, summaries and sentiment"
    source = "SAPT (Zhao et al. 2024), gen_script_superni_t5.py"
    return _of(f"superni{number}", title, source, [superni_name(name) for name in tasks.split()])


STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        _published(1, _FOUR, "dbpedia amazon yahoo agnews"),
        _published(2, _FOUR, "dbpedia amazon agnews yahoo"),
        _published(3, _FOUR, "yahoo amazon agnews dbpedia"),
        _published(
            4,
            _FIFTEEN,
            "mnli cb wic copa qqp boolqa rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo",
        ),
        _published(
            5,
            _FIFTEEN,
            "multirc boolqa wic mnli cb copa qqp rte imdb sst2 dbpedia agnews yelp amazon yahoo",
        ),
        _published(
            6,
            _FIFTEEN,
            "yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolqa wic",
        ),
        _of(
            "das",
            "DAS, order 7: six domains of unlabeled text, each with an end task for copies of the model",
            "MIGU section 4.2; the first line of ContinualLM's sequences/posttrain",
            ORDER_7,
        ),
        _of(
            "trace",
            "TRACE: eight tasks of reasoning, code, summaries and stance, three languages",
            "TRACE (Wang et al. 2023), scripts/train_seq_naive.sh",
            [task.name for task in TRACE],
        ),
        _superni(1, "1572 363 1290 181 002 1510 639 1729 073 1590 748 511 591 1687 875"),
        _superni(2, "748 073 1590 639 1572 1687 591 363 1510 1729 181 511 002 1290 875"),
        _of(
            "instruction",
            "Instruction tuning on code, to measure what else the model forgets",
            "Code Alpaca's published sample; MIGU tunes on Magicoder-Evol-Instruct, which is not available",
            [task.name for task in INSTRUCTION],
        ),
        _hard("text_only", "Order 1 with the bare text as the prompt", TEXT_ONLY),
        _hard("reworded", "Order 1, its test rows asked in other words than the training rows", REWORDED),
        _hard("conflict", "The same articles in two tasks: their topic, and their news agency", CONFLICT),
        _hard("conflict_text_only", "The same, with the bare text as the prompt", CONFLICT_TEXT_ONLY),
        _hard("split_classes", "Three topic tasks in 14 tasks of two classes, bare texts", SPLIT_CLASSES),
        _hard("split_classes_28", "The same, one class a task", SPLIT_CLASSES_28),
        _of(
            "drift",
            "Drift: four tasks of opinions, two and two with one prompt",
            _MADE,
            ("yelp", "amazon", "imdb", "sst2"),
        ),
        _hard("fifty", "Fifty tasks: pairs of the classes of six tasks, and nine whole ones", FIFTY),
        Stream("demo", "Demo: four small tasks that need no data folder", "written by nacre (nacre.tasks.demo)"),
    )
}


def stream_names() -> tuple[str, ...]:
    """Returns the names of all streams, in the order in which they are listed."""
    return tuple(STREAMS)


def get_stream(name: str) -> Stream:
    """Returns the stream of a name.

    Raises:
        RecipeError: There is no such stream; the message lists the nearest names.
    """
    try:
        return STREAMS[name]
    except KeyError:
        raise RecipeError(f"There is no stream {shown(name)}. {nearest(name, STREAMS)}") from None
