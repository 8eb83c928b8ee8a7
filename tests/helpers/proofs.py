"""Methods written on the parts' interfaces alone, to prove that they suffice: DER++ as released, routing by Gaussians
as in EPI, and progressive prompts. They are no baselines: no paper's settings are checked here."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter
from nacre.adapters.low_rank import LowRank
from nacre.adapters.prompt import Prompt
from nacre.adapters.route import Route
from nacre.functional.losses import IGNORED, token_loss_sum
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.masked_text import MaskedText, masking_of
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import LearnerView, Memory, MicroBatch, Penalty, Reading, Routing
from nacre.per_task import PerTask
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example


@dataclass(frozen=True)
class StoredRow:
    """A row as it was trained on, and the live logits of its target tokens [n, V].

    text, positions: Of a masked text, the text itself and which of its tokens were hidden; else empty.
    """

    source: list[int]
    target: list[int]
    task: str
    text: list[int]
    positions: list[int]
    logits: Tensor

    @classmethod
    def of(cls, row: Encoded, logits: Tensor) -> StoredRow:
        text, positions = ([*row.text.ids], [*row.text.positions]) if row.text else ([], [])
        return cls([*row.source], [*row.target], row.task, text, positions, logits)

    def row(self, host: Host) -> Encoded:
        if not self.text:
            return Encoded(tuple(self.source), tuple(self.target), False, task=self.task)
        masking = masking_of(host.tokenizer)
        text = MaskedText(tuple(self.text), masking, tuple(self.source), tuple(self.positions))
        return Encoded.of_text(text, self.task)


@dataclass(frozen=True)
class Buffer:
    rows: list[StoredRow]
    seen: int


@dataclass(frozen=True)
class Reservoir(Memory):
    """A buffer of ``capacity`` rows, each row that was ever trained on being in it with the same probability."""

    State: ClassVar[type[Buffer]] = Buffer
    mixed: ClassVar[bool] = False

    capacity: int

    @property
    def needs_boundaries(self) -> bool:
        return False

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        return []

    def observe(self, learner: LearnerView, batch: MicroBatch) -> None:
        buffer = learner.remembered(self, Buffer) or Buffer([], 0)
        rows, seen = list(buffer.rows), buffer.seen
        logits = batch.logits.detach()[batch.labels != IGNORED]  # row after row
        for row, own in zip(batch.rows, logits.split([row.num_target_tokens for row in batch.rows]), strict=True):
            stored = StoredRow.of(row, own.clone())
            place = random.Random(derive(learner.state.seed, self.key, seen)).randint(0, seen)
            seen += 1
            if len(rows) < self.capacity:
                rows.append(stored)
            elif place < self.capacity:
                rows[place] = stored
        learner.remember(self, Buffer(rows, seen))


@dataclass(frozen=True)
class FromBuffer(Penalty):
    """Once a step, a draw of rows from the buffer: DER++'s two terms, each with a draw of its own.

    of: ``logits``: the mean squared difference to the stored logits (DER); ``labels``: the mean task loss (++).
    """

    State: ClassVar[type[Buffer]] = Buffer
    remembers: ClassVar[str] = "reservoir"

    strength: PerTask
    of: str
    rows: int = 4

    @property
    def key(self) -> str:
        return f"from_buffer_{self.of}"

    def value(self, learner: LearnerView) -> Tensor:
        buffer = learner.remembered(self, Buffer)
        if buffer is None:
            return torch.zeros((), device=learner.host.device)
        where = (learner.state.seed, self.key, learner.task_number, learner.step.number)
        drawn = random.Random(derive(*where)).sample(buffer.rows, min(self.rows, len(buffer.rows)))
        rows = [row.row(learner.host) for row in drawn]
        logits, labels = learner.predictions(rows)
        if self.of == "labels":
            return token_loss_sum(logits, labels) / sum(row.num_target_tokens for row in rows)
        live = logits[labels != IGNORED]
        stored = torch.cat([_as_wide(row.logits.to(live), live.shape[-1]) for row in drawn])
        known = ~stored.isnan()  # an encoder-only host's later classes did not exist yet
        return F.mse_loss(live[known], stored[known])


def _as_wide(logits: Tensor, width: int) -> Tensor:
    return F.pad(logits, (0, width - logits.shape[-1]), value=torch.nan)


def der_pp(*, alpha: float = 0.5, beta: float = 0.5, capacity: int = 8) -> Method:
    """DER++ as released, on one LoRA: live logits go into a reservoir; two draws a step."""
    method = replace(seq_lora(), name="", title="DER++").with_memory(Reservoir(capacity))
    return method.with_penalty(FromBuffer(alpha, "logits")).with_penalty(FromBuffer(beta, "labels"))


@dataclass(frozen=True)
class Gaussians:
    """The tasks' mean states, and what all of them share: the summed scatter [d, d] around the means, and the rows."""

    means: dict[str, Tensor]
    scatter: Tensor
    rows: int


MEAN_OF_LAST = PooledStates()


@dataclass(frozen=True)
class NearestGaussian(Routing):
    """Each task has a slot of its own; a row goes to the slot of the task whose Gaussian it is nearest to, by the
    Mahalanobis distance under one shared covariance, of the bare host's pooled states (EPI)."""

    State: ClassVar[type[Gaussians]] = Gaussians

    states: PooledStates = MEAN_OF_LAST
    batch_size: int = 4

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, LowRank) and adapter.slots == "per_task":
            return None
        return "it chooses among one LoRA for each task; inc_lora has them"

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        before = learner.remembered(self, Gaussians)
        for task in tasks:
            rows = learner.encode(task.examples("train"))
            read = [
                learner.pooled_states(rows[start : start + self.batch_size], self.states).double()
                for start in range(0, len(rows), self.batch_size)
            ]
            states = torch.cat(read)
            away = states - states.mean(0)
            scatter = away.T @ away
            if before is not None:
                scatter = scatter + before.scatter
            means = {**(before.means if before else {}), task.name: states.mean(0)}
            before = Gaussians(means, scatter, len(rows) + (before.rows if before else 0))
        learner.remember(self, before)

    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        known = learner.remembered(self, Gaussians)
        slots = learner.adapter.tasks
        if slots == 0:
            return None
        if all(reading.tasks):  # in training the slot is that of the row's own task
            names = learner.state.tasks
            chosen = torch.tensor([names.index(task) if task in names else slots - 1 for task in reading.tasks])
        elif known is None:
            return None
        else:
            chosen = self.nearest(known, reading.query(self.states).double())
        return Route(F.one_hot(chosen, slots).to(learner.host.device, torch.float32))

    def nearest(self, known: Gaussians, states: Tensor) -> Tensor:
        covariance = known.scatter / known.rows
        precision = torch.linalg.pinv(covariance, hermitian=True, rtol=1e-6)
        away = states[:, None] - torch.stack(list(known.means.values()))  # [B, t, d]
        return (away @ precision * away).sum(-1).argmin(-1)


def epi_like() -> Method:
    """A LoRA a task, and the task told by Gaussians: no task identity at test."""
    return replace(inc_lora(), name="", title="EPI-like").with_routing(NearestGaussian())


def progressive_prompts(*, tokens: int = 3) -> Method:
    """A prompt a task, in front of those of the tasks before it; the task is given at test."""
    adapter = Prompt(tokens=tokens, slots="per_task", concatenate=True)
    return Method(title="Progressive Prompts", sources=(), adapter=adapter)


PROOFS: dict[str, Callable[[], Method]] = {
    "der_pp": der_pp,
    "epi_like": epi_like,
    "progressive_prompts": progressive_prompts,
}
