"""EWC: parameters that earlier tasks depend on are held near where those tasks left them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter
from nacre.errors import RecipeError
from nacre.functional.fisher import divided_by_mean, drawn_labels, mean_squared_gradients
from nacre.functional.losses import token_loss_sum
from nacre.functional.penalties import elastic
from nacre.parts.part import Learner
from nacre.parts.penalty import Penalty, check_not_negative
from nacre.per_task import PerTask, value_of
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example


@dataclass(frozen=True)
class ElasticWeights(Penalty):
    """strength * 1/2 sum_j F_j (theta_j - theta*_j)^2, theta* the parameters after an earlier task, F its Fisher.

    When a task has been learnt: F_j = mean over at most ``samples`` of its training rows of the squared gradient, one
    row at a time and in evaluation mode, of the sum of the target tokens' log-probabilities; penalties are no part of
    it. labels: ``gold``: the tokens of the target; ``sampled``: each drawn from the model's own distribution behind the
    target's tokens before it. normalize: F is divided by the mean of all its entries.

    mode: ``online``: F <- decay * F + F_t, and theta* is where the last task ended; ``separate``: an F and a theta* for
    each task, and the penalties are summed.

    State: ``fisher/NAME`` and ``anchor/NAME`` for every trained parameter (``separate``: ``1/fisher/NAME`` for the
    first task, and so on), and ``examples``, how many rows each task's Fisher is a mean of.
    """

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

    def objection(self, adapter: Adapter) -> str | None:
        if not adapter.grows:
            return None
        return (
            "it holds parameters that go on being trained, and this method freezes each task's and opens new ones for "
            "the next; seq_ft and seq_lora train the same parameters throughout"
        )

    def value(self, learner: Learner) -> Tensor:
        """Until a first task has been learnt: 0, without a graph."""
        remembered = learner.state.parts.get(self.key, {})
        places = self._places(len(remembered.get("examples", [])))
        if not places:
            return torch.zeros((), device=learner.host.device)
        parameters = _trained(learner)
        terms = [
            elastic(
                list(parameters.values()),
                [remembered[f"{place}anchor/{name}"] for name in parameters],
                [remembered[f"{place}fisher/{name}"] for name in parameters],
            )
            for place in places
        ]
        return torch.stack(terms).sum()

    def weight(self, learner: Learner) -> float:
        return value_of(self.strength, learner.task_number, self.key)

    def end(self, learner: Learner, tasks: Sequence[Task]) -> None:
        parameters, chosen = _trained(learner), self._chosen(learner, tasks)
        importances = mean_squared_gradients(self._losses(learner, chosen), list(parameters.values()))
        if self.normalize:
            importances = divided_by_mean(importances)
        remembered = learner.state.parts.setdefault(self.key, {"examples": []})
        remembered["examples"].append(len(chosen))
        place = self._places(len(remembered["examples"]))[-1]
        for (name, parameter), new in zip(parameters.items(), importances, strict=True):
            old = remembered.get(f"{place}fisher/{name}")
            remembered[f"{place}fisher/{name}"] = new if old is None else self.decay * old + new
            remembered[f"{place}anchor/{name}"] = parameter.detach().clone()

    def _places(self, tasks: int) -> list[str]:
        """The beginnings of the state's names that hold a pair (F, theta*), once so many tasks have been learnt."""
        if self.mode == "separate":
            return [f"{number}/" for number in range(1, tasks + 1)]
        return [""] if tasks else []

    def _chosen(self, learner: Learner, tasks: Sequence[Task]) -> list[Example]:
        """A random sample of the training rows, in row order."""
        examples = [example for task in tasks for example in task.examples("train")]
        draw = random.Random(derive(learner.state.seed, self.key, "rows", learner.task_number))
        rows = sorted(draw.sample(range(len(examples)), min(self.samples, len(examples))))
        return [examples[row] for row in rows]

    def _losses(self, learner: Learner, examples: Sequence[Example]) -> Iterator[Tensor]:
        """Each example's own loss, the negative sum of its tokens' log-probabilities, without dropout."""
        host = learner.host
        host.model.eval()  # as it is between tasks anyway
        generator = torch.Generator().manual_seed(derive(learner.state.seed, self.key, "labels", learner.task_number))
        for row in learner.encode(examples):
            if self.labels == "gold":
                yield learner.loss_sum([row])
                continue
            batch = {name: tensor.to(host.device) for name, tensor in host.family.batch([row]).items()}
            logits, labels = host.family.predictions(host.model, batch)
            yield token_loss_sum(logits, drawn_labels(logits, labels, generator))


def _trained(learner: Learner) -> dict[str, nn.Parameter]:
    """What is being trained, by the names that the host's model has for it."""
    names = {id(parameter): name for name, parameter in learner.host.model.named_parameters()}
    return {names[id(p)]: p for group in learner.adapter.parameter_groups() for p in group.parameters}
