"""What an answer depends on: the row alone, never its batch; and its task exactly where the method's traits say so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.contract import VARIANTS, pairs, refused
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.events import Event, TrainingPrepared
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.registry import build_method

TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
OTHER = {"animals": "birds", "birds": "fish", "fish": "animals"}


def answered(learner: Learner, rows: list[Encoded]) -> Tensor:
    """Logits of the target tokens as they are at test."""
    if not learner.method.trains:  # its evidence answers
        assert learner.method.readout is not None
        answers = learner.method.readout.classify(learner, rows, None)
        known = sorted({label for task in TASKS for label in task.labels or ()})
        return torch.tensor([[known.index(answer)] for answer in answers])
    learner.serves = True
    try:
        logits, labels = learner.predictions(rows)
    finally:
        learner.serves = False
    return logits[labels != IGNORED]


def learned(variant: str, architecture: str) -> Learner:
    """After three tasks, each moved off its start, where slots hardly differ."""
    method = build_method(*VARIANTS[variant])
    if not method.curriculum.continues or refused(method, architecture):
        pytest.skip("a model a task, all tasks at once, or a host that cannot write")

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    learner = Learner(tiny_host(architecture, torch.float64), method, seed=1, optim=OPTIM, on_event=watch)
    for task in TASKS:
        learner.learn(task)
    return learner


BY_BATCH = ("am_lora-keep-gates",)
"""Its sheet says that an output depends on the rest of its batch."""


@pytest.mark.parametrize(
    ("variant", "architecture"), pairs([variant for variant in VARIANTS if variant not in BY_BATCH])
)
def test_answers_depend_on_the_row_alone_and_on_the_task_where_the_traits_say_so(
    variant: str, architecture: str
) -> None:
    learner = learned(variant, architecture)
    rows = learner.encode([example for task in TASKS for example in task.examples("test")])
    assert len({len(row.source) for row in rows}) > 1, "some are padded"
    sizes = [row.num_target_tokens if learner.method.trains else 1 for row in rows]
    with torch.no_grad():
        together = answered(learner, rows)
        renamed = answered(learner, [replace(row, task=OTHER[row.task]) for row in rows])
        alone = torch.cat([answered(learner, [row]) for row in rows])
        backwards = torch.cat(torch.split(answered(learner, rows[::-1]), sizes[::-1])[::-1])
    bound = 1e-9 if learner.method.routing is None else 1e-4  # queries are float32
    torch.testing.assert_close(alone, together, rtol=0, atol=bound)
    torch.testing.assert_close(backwards, together, rtol=0, atol=bound)
    assert torch.equal(renamed, together) is not learner.method.traits["task identity at test"]
