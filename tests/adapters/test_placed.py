"""What every placed adapter keeps to as an owner of learned tensors: what it saves, loads, freezes and gives back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.adapter import Adapter
from nacre.adapters.bottleneck import Bottleneck
from nacre.adapters.full import Full
from nacre.adapters.gated import Gated
from nacre.adapters.gated_host import GatedHost
from nacre.adapters.low_rank import LowRank
from nacre.adapters.svd import Svd
from nacre.adapters.unit_gates import HardGates
from nacre.errors import CheckpointError, ModelError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.host import Host
from nacre.registry import build_method

ADAPTERS: dict[str, Adapter] = {
    "low_rank": LowRank(2, 4.0),
    "shared": LowRank(2, 4.0, slots="shared"),
    "gated_ranks": LowRank(2, 4.0, slots="shared", gates=HardGates()),
    "svd": Svd(2),
    "gated": Gated(2, 4.0),
    "bottleneck": Bottleneck(2),
    "bottlenecks": Bottleneck(2, slots="per_task"),
    "gated_host": GatedHost(),
    "full": Full(),
}
METHODS = ("inc_lora", "seq_lora", "lb_cl", "am_lora", "seq_ft", "seq_ft+migu")
OPTIM = Optim(batch_size=4, learning_rate=3e-2)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def half_frozen(architecture: str) -> Host:
    """A host of which the owner froze the embeddings and every bias and norm."""
    host = tiny_host(architecture)
    for name, parameter in host.body.named_parameters():
        parameter.requires_grad_(parameter.ndim > 1 and "embed" not in name and "shared" not in name)
    return host


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_removing_gives_every_flag_back(architecture: str, method: str) -> None:
    """What the owner had frozen stays frozen, is not trained, and is the same afterwards."""
    host = half_frozen(architecture)
    before, values = flags(host.body), {name: p.detach().clone() for name, p in host.body.named_parameters()}
    frozen = {parameter for parameter in host.body.parameters() if not parameter.requires_grad}
    learner = Learner(host, build_method(method, {} if "seq_ft" in method else {"rank": 2}), optim=OPTIM)
    learner.learn(TASKS[0])
    groups = learner.adapter.parameter_groups()
    assert not frozen & {parameter for group in groups for parameter in group.parameters}
    own = dict(host.body.named_parameters())
    assert all(
        torch.equal(own[name], values[name]) for name, was_trained in before.items() if not was_trained and name in own
    )
    learner.remove()
    assert flags(host.body) == before
    assert all(torch.equal(p, values[name]) for name, p in host.body.named_parameters())


def test_full_fine_tuning_of_a_frozen_host_is_refused() -> None:
    host = tiny_host("t5")
    host.body.requires_grad_(False)
    with pytest.raises(ModelError, match="nothing to train: every parameter of the host is frozen"):
        Full().place(host.body)


def test_full_fine_tuning_does_not_load_over_what_is_frozen() -> None:
    saved, frozen = Full().place(tiny_host("t5").body), Full().place(half_frozen("t5").body)
    saved.grow()
    frozen.load(saved.tensors(), saved.values())
    with torch.no_grad():
        for parameter in saved.parameter_groups()[0].parameters:
            parameter.add_(1)
    with pytest.raises(CheckpointError, match=r"'shared\.weight', which is frozen in this host"):
        frozen.load(saved.tensors(), saved.values())


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_values_say_how_many_slots_were_opened(name: str) -> None:
    placed = ADAPTERS[name].place(tiny_host("t5").body)
    assert placed.values() == {"slots": 0}
    for _ in range(2):
        placed.grow()
    assert placed.values() == {"slots": 2}
    other = ADAPTERS[name].place(tiny_host("t5").body)
    other.load(placed.tensors(), placed.values())
    assert other.values() == {"slots": 2}
    found = other.tensors()
    assert all(torch.equal(tensor, found[key]) for key, tensor in placed.tensors().items())
