"""Training between two steps of a task, as a value: with it a learner that begins the task goes on there.

What `Part.prepare` and `Part.begin` do is not in it: it follows from the learner before the task, and is done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nacre.errors import CheckpointError
from nacre.learning.batches import TokenCount
from nacre.learning.snapshot import Tree, as_tree, from_tree
from nacre.parts.part import Holding, LearnerView


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything that the rest of a task's training depends on.

    Attributes:
        step: How many steps have been taken.
        steps: How many there are.
        weights: The trained parameters, in the order in which the optimizer has them.
        moments: What the optimizer keeps of each of them, by name; nothing of one that has had no gradient yet.
        rates: The next step's learning rate of each group of parameters.
        schedule: Where the schedule is.
        scaler: The loss scale of fp16, and when it changes.
        random: Of each process, torch's random state on the CPU and on each GPU, by name.
        parts: What parts hold that changes from step to step, by key.
        work: How much training the task has taken so far, in all processes.
    """

    step: int
    steps: int
    weights: list[Tensor]
    moments: list[dict[str, Tensor]]
    rates: list[float]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    random: list[dict[str, Tensor]]
    parts: dict[str, Any]
    work: TokenCount

    def check_fits(self, parameters: Sequence[nn.Parameter], steps: int, parts: Sequence[Holding], where: str) -> None:
        """Refuse the state of another training.

        Raises:
            CheckpointError: If another number of steps, other parameters or other parts were trained.
        """
        fits = (
            [_form(tensor) for tensor in self.weights] == [_form(parameter) for parameter in parameters]
            and len(self.moments) == len(parameters)
            and all(
                tensor.ndim == 0 or tensor.shape == parameter.shape
                for parameter, kept in zip(parameters, self.moments, strict=True)
                for tensor in kept.values()
            )
        )
        if not fits or self.steps != steps or self.parts.keys() != {part.key for part in parts}:
            raise CheckpointError(f"{where} holds the training of other parameters, rows or parts.")


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def random_states() -> dict[str, Tensor]:
    """torch's random state, on the CPU and on each GPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Bring torch's random state back, on the devices that this machine has."""
    torch.set_rng_state(states["cpu"])
    for number in range(torch.cuda.device_count()):
        if (state := states.get(f"cuda:{number}")) is not None:
            torch.cuda.set_rng_state(state, number)


def held_by(parts: Sequence[Holding], learner: LearnerView) -> dict[str, Tree]:
    """What the parts hold now that changes from step to step, as trees by key."""
    return {part.key: as_tree(part.held(learner), part.key) for part in parts}


def give_back(parts: Sequence[Holding], learner: LearnerView, held: Mapping[str, Tree]) -> None:
    """Let the parts go on with what they held.

    Raises:
        CheckpointError: If it does not fit a part.
    """
    device = learner.host.device
    trees = [(part, held[part.key]) for part in parts]
    values = [(part, from_tree(part.Held, tree, part.key, device)) for part, tree in trees if tree is not None]
    for part, value in values:  # all of them fit
        part.take_back(learner, value)
