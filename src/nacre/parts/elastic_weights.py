"""EWC: parameters that earlier tasks depend on are held near the values that those tasks left."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nacre import processes
from nacre.adapters.adapter import Adapter
from nacre.adapters.placed_full import PlacedFull
from nacre.errors import RecipeError
from nacre.functional.fisher import divided_by_mean, drawn_labels, mean_squared_gradients
from nacre.functional.losses import token_loss_sum
from nacre.functional.penalties import elastic
from nacre.models.sharding import as_part, is_part, own_part, rows_of, whole_of
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example


@dataclass(frozen=True)
class ElasticState:
    """Where earlier tasks ended, and how much they depend on it.

    Attributes:
        fisher: F by the name of the trained parameter; one mapping for all tasks ('online'), or one for each.
        anchor: theta* by the same names; as many mappings.
        examples: Number of rows that each task's Fisher is a mean of.
    """

    fisher: list[dict[str, Tensor]]
    anchor: list[dict[str, Tensor]]
    examples: list[int]


@dataclass(frozen=True)
class ElasticWeights(Penalty):
    """strength * 1/2 sum_j F_j (theta_j - theta*_j)^2, theta* the parameters after an earlier task, F its Fisher.

    After a task, F_j is the mean over its sampled training rows of the squared gradient of the sum of the target
    tokens' log-probabilities, one row at a time and in evaluation mode. Penalties are not part of it.

    State: `ElasticState`.

    Attributes:
        strength: Weight of the penalty.
        mode: 'online': F <- decay * F + F_t, and theta* is where the last task ended; 'separate': an F and a theta* for
            each task, and the penalties are summed.
        decay: Share of the old Fisher that stays after a task, in [0, 1].
        samples: Number of a task's training rows to measure at most.
        labels: 'gold': the tokens of the target; 'sampled': each drawn from the model's own distribution behind the
            target's tokens before it.
        normalize: Whether F is divided by the mean of all its entries.
    """

    State: ClassVar[type[ElasticState]] = ElasticState

    strength: PerTask = 400.0
    mode: Literal["online", "separate"] = "online"
    decay: float = 1.0
    samples: int = 1024
    labels: Literal["gold", "sampled"] = "gold"
    normalize: bool = False

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the elastic penalty")
        if self.samples < 1:
            raise RecipeError(f"samples: {self.samples} is not a positive number of training rows.")
        if not 0 <= self.decay <= 1:
            raise RecipeError(f"decay: {self.decay} is not in [0, 1]; it is the share of the old Fisher that stays.")
        if self.mode == "separate" and self.decay != 1:
            raise RecipeError(f"decay: {self.decay} has no meaning with mode 'separate', which sums no Fishers.")

    @property
    def shardable(self) -> bool:
        return True

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        if not adapter.grows:
            return None
        return (
            "it holds parameters that go on being trained, and this method freezes each task's and opens new ones for "
            "the next; seq_ft and seq_lora train the same parameters throughout"
        )

    def value(self, learner: LearnerView) -> Tensor:
        """The penalties' sum, []; until a first task has been learned, 0 without a graph."""
        remembered = learner.remembered(self, ElasticState)
        if remembered is None:
            return torch.zeros((), device=learner.host.device)
        parameters = _trained(learner)
        sharded = {name: parameter for name, parameter in parameters.items() if is_part(parameter)}
        if not sharded:
            return _pull(remembered, parameters)
        own = _pull(remembered, sharded)
        here = own.item()
        elsewhere = sum(processes.gathered(here)) - here  # the rows of other processes are theirs to pull
        whole = {name: parameter for name, parameter in parameters.items() if name not in sharded}
        return own + elsewhere + (_pull(remembered, whole) if whole else 0)

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        parameters, chosen = _trained(learner), self._chosen(learner, tasks)
        importances = _importances(self._losses(learner, chosen), list(parameters.values()))
        if self.normalize:
            importances = divided_by_mean(importances)
        fisher = dict(zip(parameters, importances, strict=True))
        anchor = {name: whole_of(parameter.detach()).clone() for name, parameter in parameters.items()}
        before = learner.remembered(self, ElasticState) or ElasticState([], [], [])
        examples = [*before.examples, len(chosen)]
        if self.mode == "separate":
            state = ElasticState([*before.fisher, fisher], [*before.anchor, anchor], examples)
        else:
            for earlier in before.fisher:
                fisher = {name: self.decay * earlier[name] + new for name, new in fisher.items()}
            state = ElasticState([fisher], [anchor], examples)
        learner.remember(self, state)

    def _chosen(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        """A random sample of the training rows, in row order."""
        examples = [example for task in tasks for example in task.examples("train")]
        draw = random.Random(derive(learner.state.seed, self.key, "rows", learner.task_number))
        rows = sorted(draw.sample(range(len(examples)), min(self.samples, len(examples))))
        return [examples[row] for row in rows]

    def _losses(self, learner: LearnerView, examples: Sequence[Example]) -> Iterator[Tensor]:
        """Each example's own loss, the negative sum of its tokens' log-probabilities, without dropout."""
        host = learner.host
        host.model.eval()  # as it is between tasks anyway
        generator = torch.Generator().manual_seed(derive(learner.state.seed, self.key, "labels", learner.task_number))
        for row in learner.encode(examples):
            if self.labels == "gold":
                yield learner.loss_sum([row])
                continue
            batch = host.on_device(host.family.batch([row]))
            logits, labels = host.family.predictions(host.model, batch)
            yield token_loss_sum(logits, drawn_labels(logits, labels, generator))


def _pull(state: ElasticState, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The penalties of some parameters, [], of a sharded one on this process's rows alone."""
    terms = [
        elastic(
            [own_part(parameter) for parameter in parameters.values()],
            [rows_of(anchor[name], parameter) for name, parameter in parameters.items()],
            [rows_of(fisher[name], parameter) for name, parameter in parameters.items()],
        )
        for anchor, fisher in zip(state.anchor, state.fisher, strict=True)
    ]
    return torch.stack(terms).sum()


def _importances(losses: Iterable[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The Fisher's entries of all parameters, whole."""
    if not any(map(is_part, parameters)):
        return mean_squared_gradients(losses, parameters)
    own = mean_squared_gradients(losses, [own_part(each.detach()) for each in parameters], of=_by_backward(parameters))
    return [whole_of(as_part(mean, parameter)) for mean, parameter in zip(own, parameters, strict=True)]


def _by_backward(parameters: Sequence[nn.Parameter]) -> Callable[[Tensor], list[Tensor | None]]:
    """Gradients as FSDP leaves them: of a sharded parameter this process's rows, which it gives to nobody else."""

    def gradients(loss: Tensor) -> list[Tensor | None]:
        for parameter in parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return [None if parameter.grad is None else own_part(parameter.grad) for parameter in parameters]

    return gradients


def _trained(learner: LearnerView) -> dict[str, nn.Parameter]:
    """The adapter's trained parameters, by the body's name in the model and their public names.

    Public names are part of saved files' format; the place of a parameter inside a site is not. Where a public tensor
    holds more than one parameter, as a table of prompts does, they go by their group and number.
    """
    model, body = learner.host.model, learner.host.body
    place = next(name for name, module in model.named_modules() if module is body)
    if isinstance(learner.adapter, PlacedFull):
        return {f"{place}.{name}" if place else name: each for name, each in learner.adapter.trained.items()}
    public = {tensor.data_ptr(): name for name, tensor in learner.adapter.tensors().items()}
    own = {
        public.get(parameter.data_ptr(), f"{group.name}.{number}"): parameter
        for group in learner.adapter.parameter_groups()
        for number, parameter in enumerate(group.parameters)
    }
    return {f"{place}.{name}" if place else name: parameter for name, parameter in own.items()}
