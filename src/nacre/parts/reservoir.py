"""A reservoir: rows of the whole stream, each with the same probability, and the logits that the model gave them."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import ClassVar

import torch
from torch import Tensor

from nacre.errors import DataError, RecipeError
from nacre.functional.dark_logits import condensed, largest_logits, target_places
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.masked_text import MaskedText, masking_of
from nacre.parts.part import Holding, LearnerView, Memory, MicroBatch
from nacre.processes import gathered
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example


@dataclass(frozen=True)
class StoredRow:
    """A row as it was trained on, with the live logits of its n target tokens.

    Attributes:
        source, target, earlier, task: See `nacre.models.families.Encoded`.
        text: Of a masked text, the text itself; else empty.
        hidden: Of a masked text, the positions of the tokens that were hidden.
        width: Number of logits that a token had: the vocabulary, or the classes known then.
        logits: [n, width]; or [n, k + 1], see `nacre.functional.dark_logits.condensed`.
        tokens: The k tokens of each of the condensed logits [n, k]; None if all are kept.
    """

    source: list[int]
    target: list[int]
    earlier: list[int]
    task: str
    text: list[int]
    hidden: list[int]
    width: int
    logits: Tensor
    tokens: Tensor | None

    @classmethod
    def of(cls, row: Encoded, logits: Tensor, top_k: int | None) -> StoredRow:
        """A row with its logits [n, V], which must be a tensor of their own."""
        text, hidden = ([*row.text.ids], [*row.text.positions]) if row.text else ([], [])
        width, tokens = logits.shape[-1], None
        if top_k is not None and top_k < width:
            tokens = largest_logits(logits, top_k)
        kept = logits if tokens is None else condensed(logits, tokens)
        return cls([*row.source], [*row.target], [*row.earlier], row.task, text, hidden, width, kept, tokens)

    def row(self, host: Host) -> Encoded:
        """The row as it was trained on, the same tokens of a text hidden."""
        if self.text:
            text = MaskedText(tuple(self.text), masking_of(host.tokenizer), tuple(self.source), tuple(self.hidden))
            return Encoded.of_text(text, self.task)
        return Encoded(
            tuple(self.source), tuple(self.target), truncated=False, earlier=tuple(self.earlier), task=self.task
        )


@dataclass(frozen=True)
class ReservoirState:
    """What the reservoir remembers.

    Attributes:
        rows: The stored rows.
        seen: Number of rows that have passed, each as often as it was trained on.
    """

    rows: list[StoredRow]
    seen: int


@dataclass
class OpenReservoir:
    """The reservoir while a task is learned; it becomes a `ReservoirState` when the task ends.

    Attributes:
        rows, seen: See `ReservoirState`, as the step before left them.
        passed: How many rows the step had so far, in all processes.
        waiting: By the number of the row in the stream, its place and the row: those that the step stores in the end.
    """

    rows: list[StoredRow] = field(default_factory=list)
    seen: int = 0
    passed: int = 0
    waiting: dict[int, tuple[int, StoredRow]] = field(default_factory=dict)

    def settle(self) -> None:
        """Store what waits, of all processes, in the order of the stream: a step is over."""
        if not self.passed:
            return
        own = [(number, place, vars(row)) for number, (place, row) in self.waiting.items()]
        for _, place, row in sorted((each for found in gathered(own) for each in found), key=itemgetter(0)):
            self.rows[place : place + 1] = [StoredRow(**row)]  # at the end, one more
        self.seen, self.passed, self.waiting = self.seen + self.passed, 0, {}


@dataclass(frozen=True)
class Reservoir(Memory, Holding):
    """Keep `capacity` of all rows that were ever trained on, each with the same probability, with their live logits.

    Row number i, from 0, is stored at place i as long as there is room; later ones at a place that is drawn from 0 to
    i, if there is such a place. The draw depends on the run's seed and i alone. Logits are those of the step's own
    forward pass, before its update, with dropout. Whoever replays rows draws them from `open_reservoir`.

    State: `ReservoirState`.

    Attributes:
        capacity: Number of rows to keep.
        top_k: Keep only so many of each target token's largest logits, and one number for all others; None: keep all.
    """

    State: ClassVar[type[ReservoirState]] = ReservoirState
    Held: ClassVar[type[ReservoirState]] = ReservoirState
    mixed: ClassVar[bool] = False

    capacity: int = 500
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise RecipeError(f"capacity: {self.capacity} is not a positive number of rows to keep.")
        if self.top_k is not None and self.top_k < 1:
            raise RecipeError(f"top_k: {self.top_k} is not a positive number of logits to keep of each token.")

    @property
    def shardable(self) -> bool:
        return True

    @property
    def needs_boundaries(self) -> bool:
        """False: rows are stored step by step; between tasks the reservoir is only written down."""
        return False

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        """None join the epoch."""
        return ()

    def rehearsed(self, learner: LearnerView) -> Collection[str]:
        remembered = learner.remembered(self, ReservoirState)
        return () if remembered is None else {row.task for row in remembered.rows}

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        remembered = learner.remembered(self, ReservoirState) or ReservoirState([], 0)
        if not learner.host.family.is_generative:
            _check_kind(remembered.rows, tasks)
        self.take_back(learner, remembered)

    def before_step(self, learner: LearnerView) -> None:
        reservoir = open_reservoir(learner)
        reservoir.settle()
        reservoir.passed = len(learner.step.rows)

    def held(self, learner: LearnerView) -> ReservoirState:
        reservoir = open_reservoir(learner)
        reservoir.settle()
        return ReservoirState([*reservoir.rows], reservoir.seen)

    def take_back(self, learner: LearnerView, held: ReservoirState) -> None:
        learner.resources[self.key] = OpenReservoir([*held.rows], held.seen)

    def observe(self, learner: LearnerView, batch: MicroBatch) -> None:
        """Offer each row to the reservoir; only the logits of those that are stored are read."""
        if not learner.step.takes_part:
            return
        reservoir = open_reservoir(learner)
        numbers = {id(row): number for number, row in enumerate(learner.step.rows, start=reservoir.seen)}
        sizes = [row.num_target_tokens for row in batch.rows]
        places = torch.split(target_places(batch.labels, batch.num_target_tokens), sizes)
        logits = batch.logits.detach().flatten(0, -2)
        for row, own in zip(batch.rows, places, strict=True):
            place = self.place(learner.state.seed, numbers[id(row)])
            if place is not None:
                reservoir.waiting[numbers[id(row)]] = place, StoredRow.of(row, logits[own], self.top_k)

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        learner.remember(self, self.held(learner))

    def place(self, seed: int, number: int) -> int | None:
        """Where row `number`, from 0, of a run's stream is stored; None if it is not."""
        if number < self.capacity:
            return number
        drawn = random.Random(derive(seed, self.key, number)).randint(0, number)
        return drawn if drawn < self.capacity else None


def open_reservoir(learner: LearnerView) -> OpenReservoir:
    """The learner's reservoir, while a task is learned."""
    reservoir: OpenReservoir = learner.resources[Reservoir().key]
    return reservoir


def _check_kind(rows: Sequence[StoredRow], tasks: Sequence[Task]) -> None:
    """Check that an encoder-only host, which learns texts and labels by different heads, replays only one of them."""
    is_text = any(task.kind == "text" for task in tasks)
    if other := next((row.task for row in rows if bool(row.text) != is_text), None):
        raise DataError(
            f"The reservoir holds rows of '{other}', and an encoder-only host learns unlabeled text and labels in "
            f"different ways: it cannot replay them while it learns '{tasks[0].name}'."
        )
