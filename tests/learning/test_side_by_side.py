"""Several learners in one process: in threads, in two precisions, beside somebody's own accelerator."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.inc_lora import inc_lora


def learner_of(seed: int, **optim: object) -> Learner:
    """Whose dropout draws from torch's own random state at every step."""
    settings = Optim.model_validate({"batch_size": 4, "epochs": 4, "learning_rate": 1e-2, **optim})
    return Learner(tiny_host("t5"), inc_lora(rank=2, dropout=0.5), seed=seed, optim=settings)


def learned(learner: Learner) -> dict[str, Tensor]:
    for name in ("animals", "plants"):
        learner.learn(tiny_task(name))
    return learner.adapter.tensors()


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_threads_do_not_disturb_each_other() -> None:
    seeds = (1, 2, 3)
    alone = {seed: learned(learner_of(seed)) for seed in seeds}
    together: dict[int, dict[str, Tensor]] = {}
    learners = {seed: learner_of(seed) for seed in seeds}
    start = threading.Barrier(len(seeds))

    def work(seed: int) -> None:
        start.wait()
        together[seed] = learned(learners[seed])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        assert_same(together[seed], alone[seed])


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """As if accelerate had not been used yet."""
    before = dict(AcceleratorState._shared_state)
    AcceleratorState._shared_state.clear()
    yield
    AcceleratorState._shared_state.clear()
    AcceleratorState._shared_state.update(before)


@pytest.mark.usefixtures("fresh_process")
def test_two_precisions_in_one_process() -> None:
    plain, half = learned(learner_of(1)), learned(learner_of(1, mixed_precision="bf16"))
    assert_same(learned(learner_of(1)), plain)
    assert_same(learned(learner_of(1, mixed_precision="bf16")), half)
    assert any(not torch.equal(plain[name], half[name]) for name in plain)


@pytest.mark.usefixtures("fresh_process")
def test_somebodys_own_accelerator_stays_what_it_is() -> None:
    own = Accelerator(mixed_precision="bf16", cpu=True)
    learned(learner_of(1))
    assert own.mixed_precision == "bf16"
    assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"


def test_the_callers_random_state_stays_what_it_is() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learned(learner_of(1))
    assert torch.equal(torch.rand(3), expected)
