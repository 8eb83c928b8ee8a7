"""What a task costs does not depend on how many came before it."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from helpers.tiny import tiny_host, tiny_task
from nacre.events import only_warn
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method

TASKS = 60
EARLY, LATE = slice(1, 11), slice(TASKS - 10, TASKS)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "bound"), [("seq_lora", 1.5), ("inc_lora", 1.5), ("epi", 1.5), ("am_lora", 2.0)]
)  # am_lora's mixture has a product per task in rank space
def test_a_task_costs_the_same_after_sixty(name: str, bound: float) -> None:
    """Seconds of the processor to learn a task and to answer the first one: the last ten against tasks 2 to 11."""
    torch.set_num_threads(1)
    first = tiny_task("task1", rows=64)
    optim = Optim(batch_size=8, learning_rate=1e-3, max_target_length=8)
    learner = Learner(tiny_host("t5"), build_method(name, {"rank": 2}), optim=optim, on_event=only_warn)
    seconds = []
    for number in range(1, TASKS + 1):
        started = time.process_time()
        learner.learn(tiny_task(f"task{number}", rows=64))
        learner.evaluate(first)
        seconds.append(time.process_time() - started)
    ratio = statistics.median(seconds[LATE]) / statistics.median(seconds[EARLY])
    print(f"{name}: {statistics.median(seconds[EARLY]):.3f} s, later times {ratio:.2f}")
    assert ratio < bound
