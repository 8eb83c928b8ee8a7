"""Where a method's routing meets the host: asked before each batch is read, in training and at test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from nacre.adapters.route import Route
from nacre.errors import DataError, ModelError
from nacre.functional.losses import IGNORED
from nacre.models.batch import Batch, Router
from nacre.models.families import Encoded, Family
from nacre.models.pooled_states import PooledStates, pooled_states
from nacre.models.prefix import without_prefix
from nacre.models.vocabulary import embeddings_of
from nacre.parts.kept_states import states_at_hand
from nacre.parts.part import LearnerView, Reading, Routing
from nacre.tasks.template import Example


class Routed(LearnerView, Protocol):
    """What choosing a route needs of a learner."""

    @property
    def serves(self) -> bool:
        """Whether test rows are being answered or measured."""
        ...


@contextmanager
def followed(learner: LearnerView, route: Route) -> Iterator[None]:
    """Inside, the adapter and an encoder-only host's head follow the route."""
    head = learner.host.family.head
    with learner.adapter.use(route), nullcontext() if head is None else head.labels.only(route.classes):
        yield


@contextmanager
def routed_by(family: Family, router: Router | None) -> Iterator[None]:
    """Inside, this router is asked before each batch; None: nobody is."""
    before, family.router = family.router, router
    try:
        yield
    finally:
        family.router = before


class LearnerRouter:
    """The `Router` that a learner puts into its host's family.

    Attributes:
        learner: The learner.
        routing: Its method's.
        newest: The route that the last batch was read under; None: it was read as the adapter does by itself.
    """

    def __init__(self, learner: Routed, routing: Routing) -> None:
        self.learner = learner
        self.routing = routing
        self.newest: Route | None = None

    @contextmanager
    def route(self, batch: Batch) -> Iterator[None]:
        """See `nacre.models.batch.Router`.

        Raises:
            DataError: If the routing must be given each row's task, and nobody gave it.
        """
        self.newest = route = self.chosen(batch)
        if route is None:
            yield
            return
        with followed(self.learner, route):
            yield

    def chosen(self, batch: Batch) -> Route | None:
        """The route of a batch that is about to be read.

        Raises:
            DataError: If the routing must be given each row's task, and nobody gave it.
        """
        query = _Query(self.learner, batch)
        return self.routing.route(self.learner, Reading(batch, self._task_names(batch), query, batch.texts))

    def chosen_slots(self, batch: Batch, number: int) -> tuple[Route | None, list[int]]:
        """The route of a batch that is read for its sake alone, and the slot that answers each row, or most of it.

        Args:
            batch: The rows.
            number: Of the slots; the newest one answers where the routing chooses no route.
        """
        with routed_by(self.learner.host.family, None):
            route = self.chosen(batch)
        return route, [number - 1] * batch.size if route is None else route.likeliest_slots.tolist()

    def _task_names(self, batch: Batch) -> tuple[str, ...]:
        """As far as the routing may know: at test only where it needs the task."""
        if "labels" in batch and not self.learner.serves:  # a text is measured by its own tokens, as labels
            return batch.task_names
        if not self.routing.needs_task_at_test:
            return ("",) * batch.size
        if "" in batch.task_names:
            raise DataError(
                f"{self.routing.key} must be given the task of every input at test, and none was: name it, as in "
                "predict(inputs, task=...)."
            )
        return batch.task_names


class ChosenRoute:
    """A `Router` of rows whose route is known: whatever they are cut into, they are read in their order, each once.

    Attributes:
        learner: The learner.
        known: The route of all rows; None: as the adapter does by itself.
        done: How many rows have been read.
    """

    def __init__(self, learner: LearnerView, known: Route | None) -> None:
        self.learner = learner
        self.known = known
        self.done = 0

    @contextmanager
    def route(self, batch: Batch) -> Iterator[None]:
        """See `nacre.models.batch.Router`."""
        own = range(self.done, self.done + batch.size)
        self.done += batch.size
        with nullcontext() if self.known is None else followed(self.learner, self.known.rows(own)):
            yield


class _Query:
    """Pooled states of one batch's inputs in the bare host, each kind computed once.

    Test rows that a readout has read already are not read again.
    """

    def __init__(self, learner: Routed, batch: Batch) -> None:
        self.learner = learner
        self.batch = batch
        self.known: dict[PooledStates, Tensor] = {}

    def __call__(self, states: PooledStates) -> Tensor:
        """See `nacre.parts.part.Query`."""
        if states not in self.known:
            there = states_at_hand(self.learner, self._rows, states) if self.learner.serves else None
            self.known[states] = self._read(states) if there is None else there
        return self.known[states]

    def _read(self, states: PooledStates) -> Tensor:
        if states.text == "bare":
            return self.learner.pooled_states(self._rows(), states)
        with self.learner.adapter.bypassed():
            return pooled_states(self.learner.host, self._inputs(), states)

    def lengths(self) -> Tensor:
        """See `nacre.parts.part.Query`."""
        return self._inputs()["attention_mask"].sum(1)

    def _inputs(self) -> dict[str, Tensor]:
        return without_prefix(_inputs(self.batch), embeddings_of(self.learner.host.body))

    def _rows(self) -> list[Encoded]:
        """The inputs as rows, each with its text; of a row whose text nobody gave, the whole input is the text."""
        inputs, texts = self._inputs(), self.batch.texts or (None,) * self.batch.size
        masks = inputs["attention_mask"].bool()
        return [
            Encoded(tuple(ids[mask].tolist()), (), truncated=False, task=task, example=_alone(text))
            for ids, mask, text, task in zip(inputs["input_ids"], masks, texts, self.batch.task_names, strict=True)
        ]


class NoInputs:
    """The `Query` of a route for which there is no batch."""

    def __call__(self, states: PooledStates) -> Tensor:
        raise ModelError(_NO_INPUTS)

    def lengths(self) -> Tensor:
        raise ModelError(_NO_INPUTS)


_NO_INPUTS = "Which parameters answer a task depends on its inputs here, and there are none to look at."


def _alone(text: str | None) -> Example | None:
    """A text that has no template."""
    return None if text is None else Example("", text, "", "")


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """Without the target, which a decoder-only host's training batch holds behind the input."""
    mask = batch["attention_mask"]
    labels = batch.get("labels")
    if labels is not None and labels.shape == mask.shape:
        mask = torch.where(labels == IGNORED, mask, 0)
    return {"input_ids": batch["input_ids"], "attention_mask": mask}
