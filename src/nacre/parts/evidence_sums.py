"""Sums over the tasks' rows: one Gaussian for each pair of a task and a label, of what the bare host makes of a row.

Several parts of a method read these sums. Whoever comes first makes them, so that each of them may stand alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from nacre.errors import RecipeError, TrainingError
from nacre.functional.class_statistics import scatter
from nacre.functional.distances_by_length import Trend, histogram
from nacre.functional.exact_sums import ExactSum, triangle
from nacre.functional.gaussian_evidence import TEMPERATURES, Along, held_out_evidence, surprise, whitener
from nacre.models.families import Encoded
from nacre.models.pooled_states import Layer, PooledStates, Text
from nacre.parts.pair_means import PairMean, counts, stacked, with_rows
from nacre.parts.part import LearnerView, Part
from nacre.parts.states_by_content import by_content, states_in_order
from nacre.settings import check_positive
from nacre.tasks.task import Task
from nacre.tasks.template import TaskKind

Views = Literal["prompt", "bare", "both"]
TEXTS: tuple[Text, ...] = get_args(Text)

NO_TREND = Trend()
"""Of learners from before lengths counted."""

FOLDS = 5
"""A row's held-out evidence is that of the sums without its fifth of the task's rows."""


@dataclass(frozen=True)
class View:
    """A task's rows, of which one text is read.

    Attributes:
        means: Of each of its labels.
        scatter: The sum of its labels' scatters: an upper triangle [d (d + 1) / 2] in float64.
        distances: A histogram of the held-out rows' squared distances to the nearest pair, each as a share of what is
            usual at its row's length.
        trend: What is usual at a length.
    """

    means: list[PairMean]
    scatter: Tensor
    distances: Tensor
    trend: Trend = NO_TREND

    def center(self) -> Tensor:
        """The mean of all its rows [d]."""
        rows = counts(self.means)
        return rows @ stacked(self.means) / rows.sum()


@dataclass(frozen=True)
class PairSums:
    """A task's rows, whose texts have two parts each, by how these relate (`parts/text_pairs`).

    Attributes:
        means: Of each of its labels.
        scatter: The sum of its labels' scatters: an upper triangle [d (2 d + 1)] in float64.
        weight: How much they say of the task's labels beside the rest; 0: nothing.
    """

    means: list[PairMean]
    scatter: Tensor
    weight: float


@dataclass(frozen=True)
class TaskSums:
    """What is remembered of a task. It is taken out by dropping this, as no other holds anything of it.

    Attributes:
        task: Its name.
        prompt: Its rows by their prompts.
        bare: Its rows by their texts alone.
        surprise: By `Views`: the held-out rows' mean -log p among the pairs known then, at each temperature [K].
        host_weight: How much the host's own scores of labels count beside the evidence, see `LabelEvidence`.
        pairs: Of the two parts of each text; None where they are not compared.
    """

    task: str
    prompt: View
    bare: View
    surprise: dict[str, Tensor]
    host_weight: float = 1.0
    pairs: PairSums | None = None

    def view(self, text: Text) -> View:
        """What is remembered of this text."""
        return self.prompt if text == "prompt" else self.bare


@dataclass(frozen=True)
class Sums:
    """What is remembered.

    Attributes:
        tasks: Of each task that has been learned, by name.
        layer: Of which layer's states.
    """

    tasks: list[TaskSums]
    layer: Layer


@dataclass(frozen=True)
class HeldOut:
    """The evidence of a task's training rows, by sums that do not hold them.

    Attributes:
        labels: The task's labels that a row has, sorted.
        numbers: The number of each row, by what is read of it.
        found: By `Views`: e of each row and label [n, C]; -inf where nothing is known of the label.
        rows: The rows, by their numbers.
        classes: The number of each row's label [n].
        said: What the parts of the rows' texts say of the labels [n, C]; None: they are not compared.
    """

    labels: tuple[str, ...]
    numbers: dict[tuple[tuple[int, ...], str | None], int]
    found: dict[str, Tensor]
    rows: Sequence[Encoded]
    classes: Tensor
    said: Tensor | None = None


@dataclass(frozen=True)
class SumsSettings:
    """How the sums are made and read; the same in all parts of a method.

    Attributes:
        layer: Of the bare host's states, whose mean over a row's tokens is z.
        ridge: c, what is added to the shared covariance.
        along: To each dimension's own variance ('diagonal'), or the same to all ('identity').
        batch_size: Rows of a task that are read at once, before it is learned.
    """

    layer: Layer = -1
    ridge: float = 0.3
    along: Along = "diagonal"
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_positive("ridge", self.ridge)

    def states(self, learner: LearnerView, text: Text) -> PooledStates:
        """z of this text. Of a decoder-only host the first token is left out: its state may outweigh all others."""
        return PooledStates(layer=self.layer, text=text, drop_first=learner.host.family.name == "decoder-only")

    def check(self, known: Sums | None) -> None:
        """Refuse sums of other states.

        Raises:
            RecipeError: They are of another layer's.
        """
        if known is not None and known.layer != self.layer:
            raise RecipeError(
                f"layer: {self.layer} does not go with the sums, which are of layer {known.layer}: all parts that read "
                "them need the same."
            )

    def with_task(self, learner: LearnerView, known: Sums | None, task: Task) -> tuple[Sums, HeldOut]:
        """The sums with one more task's training rows, which are read in an order that their content alone decides.

        Raises:
            RecipeError: The sums so far are of another layer's states.
            TrainingError: A state is not finite, or too large to be summed exactly.
        """
        self.check(known)
        tasks = [] if known is None else known.tasks
        others = [own for own in tasks if own.task != task.name]
        before = next((own for own in tasks if own.task == task.name), None)
        examples = task.examples("train")
        labels_of_rows = [example.target if task.labels else "" for example in examples]
        rows, targets = by_content(learner.encode(examples), labels_of_rows)
        labels = tuple(sorted(set(targets)))
        classes = torch.tensor([labels.index(target) for target in targets], device=learner.host.device)
        lengths = torch.tensor([len(row.source) for row in rows], device=learner.host.device)
        views: dict[Text, View] = {}
        found: dict[str, Tensor] = {}
        for text in TEXTS:
            states = states_in_order(learner, task.name, rows, self.states(learner, text), self.batch_size)
            earlier = before.view(text) if before else None
            scatters = [each.view(text).scatter for each in others]
            found[text] = self.held_out(learner, states, classes, pair_means(others, text), scatters)
            nearest = -2 * found[text].amax(1)
            seen = nearest.isfinite()
            trend = Trend.of(nearest[seen], lengths[seen])
            by_label = {label: states[classes == number] for number, label in enumerate(labels)}
            means, spread = with_scatter(
                earlier.means if earlier else (), earlier.scatter if earlier else None, task.name, by_label
            )
            views[text] = View(means, spread, histogram(nearest[seen] / trend.at(lengths[seen])), trend)
        found["both"] = found["prompt"] + found["bare"]
        surprises = {name: surprise(e, classes) for name, e in found.items()}
        own = TaskSums(task.name, views["prompt"], views["bare"], surprises)
        numbers = {(row.source, row.bare): number for number, row in enumerate(rows)}
        own_columns = {name: e[:, : len(labels)] for name, e in found.items()}
        held_out = HeldOut(labels, numbers, own_columns, rows, classes)
        return Sums(sorted([*others, own], key=lambda own: own.task), self.layer), held_out

    def held_out(
        self,
        learner: LearnerView,
        states: Tensor,
        classes: Tensor,
        means: Sequence[PairMean],
        scatters: Sequence[Tensor],
    ) -> Tensor:
        """e of each row of a task and each pair, the task's own labels first [n, C + Q].

        Args:
            learner: Who asks.
            states: z of the rows [n, d].
            classes: The number of each row's label [n].
            means: Of the Q pairs of other tasks.
            scatters: Of these tasks, as upper triangles.
        """
        return held_out_evidence(
            states,
            classes,
            torch.arange(len(states), device=states.device) % FOLDS,
            stacked(means) if means else states[:0],
            summed_scatter(learner, scatters) if scatters else states.new_zeros(2 * [states.shape[1]]),
            sum(own.count for own in means),
            strength=self.ridge,
            along=self.along,
        )

    def solved(
        self, learner: LearnerView, means: Sequence[PairMean], scatters: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """F [d, d] and the whitened means m F [P, d] of all pairs, sorted."""
        rows = sum(own.count for own in means)
        covariance = summed_scatter(learner, scatters) / max(rows - len(means), 1)
        factor = whitener(covariance, self.ridge, self.along)
        return factor, stacked(means) @ factor


USUAL = SumsSettings()


def pair_means(tasks: Sequence[TaskSums], text: Text) -> list[PairMean]:
    """The means of all pairs."""
    return [mean for own in tasks for mean in own.view(text).means]


def summed_scatter(learner: LearnerView, scatters: Sequence[Tensor]) -> Tensor:
    """The sum [d, d] of upper triangles, to the same bits in any order.

    Raises:
        TrainingError: A number is too large.
    """
    try:
        return reduce(ExactSum.__add__, map(ExactSum.of_triangle, scatters)).matrix()
    except OverflowError:
        raise TrainingError(
            f"The states of '{learner.host.name}' are too large to be summed exactly: choose another layer."
        ) from None


def with_scatter(
    means: Sequence[PairMean], spread: Tensor | None, task: str, by_label: Mapping[str, Tensor]
) -> tuple[list[PairMean], Tensor]:
    """A task's means and scatter with more of its rows.

    Args:
        means: Those so far.
        spread: The scatter so far, an upper triangle; None: there is none.
        task: The task's name.
        by_label: The states [n, d] of each label's new rows.
    """
    joined, lacking = with_rows(means, task, by_label)
    more = reduce(Tensor.add, [*(scatter(own, own.mean(0)) for own in by_label.values()), *lacking.values()])
    return joined, triangle(more) if spread is None else triangle(more) + spread


def temperatures_of(tasks: Sequence[TaskSums]) -> dict[str, float]:
    """By `Views`: T that the tasks' held-out rows are least surprised at; of equals, the largest.

    Each task counts the same.
    """
    found = {}
    for views in tasks[0].surprise:
        surprises = torch.stack([own.surprise[views] for own in tasks]).sum(0)
        best = int((surprises <= surprises.min() + 1e-12).nonzero().max())
        found[views] = float(TEMPERATURES[best])
    return found


_HELD_OUT = "held-out evidence"


class ReadsSums(Part, ABC):
    """A part that reads the sums; the first of them that is prepared makes the new tasks' sums.

    State: `Sums`, one for all parts of a method.
    """

    State: ClassVar[type[Sums]] = Sums
    remembers: ClassVar[str] = "evidence"
    learns: ClassVar[frozenset[TaskKind]] = frozenset({"answer"})
    grows: ClassVar[bool] = True

    @property
    @abstractmethod
    def sums(self) -> SumsSettings:
        """How they are made and read."""

    @property
    def needs_boundaries(self) -> bool:
        return True

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        self.held_out(learner, tasks)

    def forget(self, learner: LearnerView, task: str) -> None:
        known = learner.remembered(self, Sums)
        if known is not None:
            learner.remember(self, Sums([own for own in known.tasks if own.task != task], known.layer))

    def held_out(self, learner: LearnerView, tasks: Sequence[Task]) -> dict[str, HeldOut]:
        """The evidence of the training rows of the tasks that are being learned, by sums that do not hold them."""
        if _HELD_OUT in learner.resources:
            self.sums.check(learner.remembered(self, Sums))
        else:
            known, found = learner.remembered(self, Sums), {}
            for task in tasks:
                known, found[task.name] = self.sums.with_task(learner, known, task)
            learner.remember(self, known)
            learner.resources[_HELD_OUT] = found
        held_out: dict[str, HeldOut] = learner.resources[_HELD_OUT]
        return held_out
