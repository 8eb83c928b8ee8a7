"""A second learner beside the first: the loop is the same, and the host is the first one's again, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import outputs, tiny_host, tiny_task
from nacre.adapters.kept import KeptAdapters
from nacre.adapters.low_rank import LowRank
from nacre.errors import CheckpointError, ModelError, RecipeError
from nacre.events import Event, StepTaken, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task("animals"), tiny_task("birds")]
SECOND = LowRank(rank=2, dropout=0.0)
FIRST: dict[str, dict[str, Any]] = {
    "inc_lora": {},
    "am_lora": {},
    "lb_cl": {"rank": 2, "roles": ["query", "output"]},
    "adapter": {"reduction": 2},
    "seq_ft": {},
    "mocl": {},
    "hat": {"units": ["ffn"]},
    "seq_lora+hat": {},
    "prog_prompt": {"prompt_length": 3},
}


def batch(learner: Learner) -> Any:
    return learner.host.family.batch(learner.encode(TASKS[0].examples("test")))


def taught(learner: Learner, seed: int = 7, on_event: Callable[[Event], None] = ignore) -> dict[str, Tensor]:
    with learner.beside(SECOND, seed=seed, on_event=on_event, epochs=2) as second:
        second.learn(TASKS[1])
        return {name: tensor.clone() for name, tensor in second.adapter.tensors().items()}


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_the_second_learns_as_it_would_alone_and_leaves_nothing(name: str, architecture: str) -> None:
    learner = Learner(tiny_host(architecture), build_method(name, FIRST[name]), seed=3, optim=OPTIM, on_event=ignore)
    learner.learn(TASKS[0])
    before, names = learner.snapshot(), list(learner.host.model.state_dict())
    answers, flags = learner.answer(TASKS[:1]), [each.requires_grad for each in learner.host.model.parameters()]
    found = taught(learner)
    assert list(learner.host.model.state_dict()) == names
    assert [each.requires_grad for each in learner.host.model.parameters()] == flags
    assert not learner.snapshot().differences(before)
    assert learner.answer(TASKS[:1]) == answers
    method = Method(title="Alone", sources=(), adapter=SECOND)
    alone = Learner(
        tiny_host(architecture), method, seed=7, optim=OPTIM.model_copy(update={"epochs": 2}), on_event=ignore
    )
    alone.learn(TASKS[1])
    assert found.keys() == alone.adapter.tensors().keys()
    assert all(torch.equal(tensor, alone.adapter.tensors()[key]) for key, tensor in found.items())
    with pytest.raises(ModelError, match="already carries a learner"):
        Learner(learner.host, inc_lora())
    learner.learn(TASKS[1])
    learner.remove()
    fresh = tiny_host(architecture).model.state_dict()
    assert all(torch.equal(tensor, fresh[key]) for key, tensor in learner.host.model.state_dict().items())


def test_inside_the_host_is_bare() -> None:
    learner = Learner(tiny_host("t5"), inc_lora(), seed=3, optim=OPTIM, on_event=ignore)
    bare = outputs(learner.host, batch(learner))
    learner.learn(TASKS[0])
    learned = outputs(learner.host, batch(learner))
    with learner.beside(SECOND, seed=0, on_event=ignore):
        assert torch.equal(outputs(learner.host, batch(learner)), bare)
    assert torch.equal(outputs(learner.host, batch(learner)), learned)
    assert not torch.equal(learned, bare)


def test_an_error_inside_gives_the_host_back() -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepTaken):
            raise KeyboardInterrupt

    learner = Learner(tiny_host("t5"), inc_lora(), seed=3, optim=OPTIM, on_event=ignore)
    learner.learn(TASKS[0])
    before = learner.snapshot()
    learned = outputs(learner.host, batch(learner))
    with pytest.raises(KeyboardInterrupt):
        taught(learner, on_event=stop)
    assert torch.equal(outputs(learner.host, batch(learner)), learned)
    assert not learner.snapshot().differences(before)
    nowhere = replace(SECOND, roles=("rank",))
    with pytest.raises(RecipeError, match="'rank' is no role"), learner.beside(nowhere, seed=0, on_event=ignore):
        pass
    assert torch.equal(outputs(learner.host, batch(learner)), learned)
    learner.remove()
    Learner(learner.host, inc_lora()).remove()


def test_a_host_with_a_head_is_refused() -> None:
    learner = Learner(tiny_host("roberta"), inc_lora(), optim=OPTIM, on_event=ignore)
    with (
        pytest.raises(ModelError, match="'tiny-roberta' is encoder-only: its classification head belongs to one"),
        learner.beside(SECOND, seed=0, on_event=ignore),
    ):
        pass


def test_adapters_that_are_kept_answer_as_they_did() -> None:
    learner = Learner(tiny_host("llama"), inc_lora(), seed=3, optim=OPTIM, on_event=ignore)
    learner.learn(TASKS[0])
    kept = KeptAdapters(learner.host.body, learner.adapter, SECOND)
    expected = []
    for seed in (1, 2):
        with learner.beside(SECOND, seed=seed, on_event=ignore) as second:
            second.learn(TASKS[1])
            kept.append(second.adapter.tensors())
            expected.append(outputs(learner.host, batch(learner)))
    assert len(kept) == 2
    assert not torch.equal(*expected)
    assert kept.parameter_groups() == []
    again = KeptAdapters(learner.host.body, learner.adapter, SECOND)
    again.load(kept.tensors(), kept.values())
    with learner.beside(SECOND, seed=0, on_event=ignore) as second:
        for number in (1, 0):
            again.put_into(second.adapter, number)
            assert torch.equal(outputs(learner.host, batch(learner)), expected[number])
    again.load({}, {})
    assert not again.tensors()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: {name: tensor[:1] for name, tensor in tensors.items()}, "it is to hold 2 adapters"),
        (lambda tensors: {name: tensor[..., :1] for name, tensor in tensors.items()}, "is needed"),
        (lambda tensors: dict(list(tensors.items())[1:]), "is missing"),
        (lambda tensors: tensors | {"more": torch.zeros(2)}, "has no place in it"),
        (lambda tensors: {name: tensor * torch.nan for name, tensor in tensors.items()}, "not finite"),
    ],
)
def test_kept_adapters_that_do_not_fit_are_refused(change: Callable[[Any], Any], says: str) -> None:
    learner = Learner(tiny_host("t5"), inc_lora(), optim=OPTIM, on_event=ignore)
    kept = KeptAdapters(learner.host.body, learner.adapter, SECOND)
    for seed in (1, 2):
        kept.append(taught(learner, seed))
    before = kept.tensors()
    with pytest.raises(CheckpointError, match=says):
        kept.load(change(before), {"adapters": 2})
    assert kept.tensors() == before
    kept.load(before, {"adapters": 2})
