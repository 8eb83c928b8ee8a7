"""Gates on the host's heads and feed-forward units: which weights belong to which unit, in every architecture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.tiny import ARCHITECTURES, outputs, tiny_host, tiny_task
from nacre.adapters.gated_host import GatedHost, GatedKind, PlacedGatedHost
from nacre.adapters.route import Route
from nacre.adapters.unit_gates import HardGates
from nacre.errors import ModelError, RecipeError
from nacre.learning.settings import Optim
from nacre.models.batch import Batch
from nacre.models.families import Lengths
from nacre.models.host import Host

BINARY = HardGates(binary=True)


def inputs_of(host: Host) -> Batch:
    lengths = Lengths(Optim().max_source_length, 8)
    rows = [host.family.encode(example, lengths) for example in tiny_task().examples("test")]
    return host.family.batch(rows) if host.family.is_generative else host.family.prompts(rows)


@torch.no_grad()
def gated(architecture: str, units: tuple[GatedKind, ...], tasks: int = 2) -> tuple[Host, PlacedGatedHost]:
    """A host of some tasks, each with half of the units of every layer, drawn anew."""
    host = tiny_host(architecture)
    placed = GatedHost(units, BINARY).place(host.body)
    generator = torch.Generator().manual_seed(3)
    for _ in range(tasks):
        placed.grow()
        for gates in placed.unit_gates():
            chosen = torch.randperm(gates.units, generator=generator) < gates.units // 2
            gates.embedding.copy_(2.0 * chosen - 1.0)
    return host, placed


@torch.no_grad()
def moved(placed: PlacedGatedHost, used: bool) -> None:
    """Move what earlier tasks use, or all that they leave free."""
    generator = torch.Generator().manual_seed(4)
    for protected in placed.protected():
        share = protected.free().expand_as(protected.parameter)
        noise = torch.randn(protected.parameter.shape, generator=generator)
        protected.parameter.add_(0.5 * noise * ((1 - share) if used else share))


@pytest.mark.parametrize("units", [("heads", "ffn"), ("heads",), ("ffn",)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_free_has_no_part_in_what_earlier_tasks_compute(
    architecture: str, units: tuple[GatedKind, ...]
) -> None:
    """All of it is moved: under the first task's gates not a bit changes. What is used changes it."""
    host, placed = gated(architecture, units)
    inputs = inputs_of(host)
    first = Route(torch.tensor([[1.0, 0.0]]).repeat(len(inputs["input_ids"]), 1))
    with placed.use(first):
        before = outputs(host, inputs)
    newest = outputs(host, inputs)
    moved(placed, used=False)
    with placed.use(first):
        assert torch.equal(outputs(host, inputs), before)
    assert not torch.allclose(outputs(host, inputs), newest, atol=1e-3)
    moved(placed, used=True)
    with placed.use(first):
        assert not torch.allclose(outputs(host, inputs), before, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_that_is_free_is_held(architecture: str) -> None:
    """Each half of the units, used alone, holds a part; both together hold all, and no task nothing."""
    _, placed = gated(architecture, ("heads", "ffn"), 3)
    for gates in placed.unit_gates():  # the second task has the units that the first leaves
        gates.past[1] = -gates.past[0]
    assert all(not protected.free().any() for protected in placed.protected())
    for gates in placed.unit_gates():
        gates.past[1] = -1.0
    for protected in placed.protected():
        free = protected.free()
        assert free.mean() < 1
        # Of one key for two heads nothing is free as soon as one of them is used.
        assert free.any() or architecture in ("llama", "mistral", "qwen2")
    _, alone = gated(architecture, ("heads", "ffn"), 1)
    assert all(bool((protected.free() == 1).all()) for protected in alone.protected())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_task_trains_all_and_later_ones_what_lies_at_units(architecture: str) -> None:
    """Heads and feed-forward units lie between four or more linear maps a layer; their biases behind a block, norms,
    embeddings and the output layer stay."""
    host = tiny_host(architecture)
    placed = GatedHost().place(host.body)
    placed.grow()
    assert {id(p) for p in placed.parameter_groups()[0].parameters} == {id(p) for p in placed.full.trained.values()}
    placed.freeze()
    placed.grow()
    names = {id(parameter): name for name, parameter in placed.full.trained.items()}
    later = {names[id(parameter)] for parameter in placed.parameter_groups()[0].parameters}
    assert later
    weights = [name for name in later if name.endswith("weight")]
    layers = 4 if architecture in ("t5", "bart") else 2
    assert len(weights) >= 4 * layers
    assert not [name for name in later if "embed" in name.lower() or "norm" in name.lower() or "lm_head" in name]
    readers = [f"{name}.bias" for name in placed.sites]
    assert not later & set(readers)
    trainable = {id(parameter) for parameter in host.body.parameters() if parameter.requires_grad}
    assert trainable == {id(p) for group in placed.parameter_groups() for p in group.parameters}


@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2", "roberta"])
def test_closed_heads_and_units_are_those_that_transformers_would_prune(architecture: str) -> None:
    """A closed unit computes as if the columns that read it were zero."""
    host, placed = gated(architecture, ("heads", "ffn"), 1)
    inputs = inputs_of(host)
    found = outputs(host, inputs)
    pruned = tiny_host(architecture)
    with torch.no_grad():
        for name, site in placed.sites.items():
            weight = pruned.body.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            columns = (site.gates.newest()).repeat_interleave(site.d_in // site.gates.units)
            weight.mul_(columns.unsqueeze(1) if architecture == "gpt2" else columns)
    assert torch.allclose(outputs(pruned, inputs), found, atol=1e-4)
    assert not torch.allclose(outputs(tiny_host(architecture), inputs), found, atol=1e-3)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing is gated; take heads, ffn or both"):
        GatedHost(())
    _, placed = gated("llama", ("ffn",))
    with pytest.raises(ModelError, match="no prompts"), placed.use(Route(prompts=torch.zeros(2, 1))):
        pass
