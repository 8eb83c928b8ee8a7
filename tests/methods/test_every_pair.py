"""Every method with every modifier: refused before anything is trained, or taught three tasks."""

from __future__ import annotations

import pytest

from helpers.contract import VARIANTS
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import ModelError, NacreError, RecipeError
from nacre.events import Event, StepTaken
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import METHODS, MODIFIERS, build_method


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["t5", "roberta"])
@pytest.mark.parametrize("name", METHODS.names())
def test_a_pair_learns_or_is_refused_before_the_first_step(name: str, architecture: str) -> None:
    """Later only the host's own size may end it, as where earlier tasks leave no direction free (`TrainingError`)."""
    for modifier in MODIFIERS.names():
        steps: list[Event] = []
        try:
            method = build_method(f"{name}+{modifier}", dict(VARIANTS[name][1]))
            optim = Optim(batch_size=4, learning_rate=1e-3)
            learner = Learner(tiny_host(architecture), method, seed=1, optim=optim, on_event=steps.append)
            for number in range(3 if method.curriculum.continues else 1):
                learner.learn(tiny_task(f"task {number}"))
        except NacreError as error:
            if isinstance(error, RecipeError | ModelError) and any(isinstance(step, StepTaken) for step in steps):
                pytest.fail(f"{name}+{modifier} is refused only when it has begun: {error}")
            continue
        score = learner.evaluate(tiny_task("task 0"))
        assert 0 <= score.value <= 1
