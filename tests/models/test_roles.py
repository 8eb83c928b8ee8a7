"""Sites are found by what a linear map is for, in every architecture, and change nothing until they learn."""

from __future__ import annotations

import pytest
import torch

from helpers.tiny import ARCHITECTURES, FAMILIES, outputs, tiny_host
from nacre.adapters.gated import Gated
from nacre.adapters.low_rank import LowRank
from nacre.errors import ModelError, RecipeError
from nacre.models.reader import reader_of
from nacre.models.roles import ROLES, above_blocks, find_linears

# How many maps a model of two layers (each side) has for query and value, and for every role.
QUERY_VALUE = {"t5": 12, "bart": 12, "llama": 4, "mistral": 4, "qwen2": 4, "gpt2": 2, "gpt_neo": 4, "gpt_neox": 2}
QUERY_VALUE |= {"bert": 4, "roberta": 4, "xlm-roberta": 4}
EVERYTHING = {"t5": 36, "bart": 32, "llama": 14, "mistral": 14, "qwen2": 14, "gpt2": 8, "gpt_neo": 12, "gpt_neox": 8}
EVERYTHING |= {"bert": 12, "roberta": 12, "xlm-roberta": 12}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_right_number_of_maps(architecture: str) -> None:
    model = tiny_host(architecture).model
    assert len(find_linears(model, ("query", "value"))) == QUERY_VALUE[architecture]
    assert len(find_linears(model, ROLES)) == EVERYTHING[architecture]
    separate = [set(find_linears(model, (role,))) for role in ROLES if role != "ffn_gate" or "ffn" in architecture]
    assert set().union(*separate) <= set(find_linears(model, ROLES))


@pytest.mark.parametrize(
    ("architecture", "role", "ending"),
    [
        ("t5", "query", "decoder.block.1.layer.1.EncDecAttention.q"),
        ("t5", "ffn_gate", "encoder.block.0.layer.1.DenseReluDense.wi_0"),
        ("bart", "value", "model.decoder.layers.0.encoder_attn.v_proj"),
        ("llama", "ffn_gate", "model.layers.1.mlp.gate_proj"),
        ("gpt2", "value", "transformer.h.0.attn.c_attn"),
        ("gpt2", "output", "transformer.h.0.attn.c_proj"),
        ("gpt2", "ffn_out", "transformer.h.0.mlp.c_proj"),
        ("gpt_neo", "key", "transformer.h.0.attn.attention.k_proj"),
        ("gpt_neox", "query", "gpt_neox.layers.0.attention.query_key_value"),
        ("bert", "value", "encoder.encoder.layer.1.attention.self.value"),
        ("roberta", "output", "encoder.encoder.layer.0.attention.output.dense"),
        ("roberta", "ffn_in", "encoder.encoder.layer.0.intermediate.dense"),
        ("xlm-roberta", "ffn_out", "encoder.encoder.layer.1.output.dense"),
    ],
)
def test_roles_by_name(architecture: str, role: str, ending: str) -> None:
    model = tiny_host(architecture).model
    assert ending in find_linears(model, (role,))
    fused = ("query", "key", "value") if ending.endswith(("c_attn", "query_key_value")) else (role,)
    for other in set(ROLES) - set(fused) - {"ffn_gate"}:
        assert ending not in find_linears(model, (other,))


@pytest.mark.parametrize("architecture", FAMILIES["encoder-only"])
def test_encoders_have_the_same_maps_with_and_without_a_head(architecture: str) -> None:
    host = tiny_host(architecture)
    host.model.head.grow(["yes", "no"], seed=0)
    for role, count in {"query": 2, "key": 2, "value": 2, "output": 2, "ffn_in": 2, "ffn_out": 2}.items():
        bare = find_linears(host.body, (role,))
        assert len(bare) == count
        assert [f"encoder.{name}" for name in bare] == list(find_linears(host.model, (role,)))
    assert set(find_linears(host.body, ("output",))) == {f"encoder.layer.{n}.attention.output.dense" for n in (0, 1)}
    assert set(find_linears(host.body, ("ffn_out",))) == {f"encoder.layer.{n}.output.dense" for n in (0, 1)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("settings", [LowRank(rank=2, roles=ROLES), Gated(rank=2, roles=ROLES)], ids=["sum", "gated"])
def test_a_fresh_slot_adds_nothing_and_removal_restores(architecture: str, settings: LowRank) -> None:
    host = tiny_host(architecture)
    ids = torch.tensor([[3, 7, 9, 11, 5]])
    inputs = {"input_ids": ids}
    if host.model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :3]
    if not host.family.is_generative:
        inputs["attention_mask"] = torch.ones_like(ids)

    def logits() -> torch.Tensor:
        return outputs(host, inputs)

    before, names = logits(), list(host.model.state_dict())
    placed = settings.place(host.body)
    assert torch.equal(logits(), before), "no slot is open yet"
    placed.grow()
    placed.fresh(1)
    host.model.eval()
    assert torch.equal(logits(), before), "B is zero"
    with torch.no_grad():
        for site in placed.sites.values():
            site.slots.up.weight.fill_(0.5)
    assert not torch.equal(logits(), before), "every site takes part"
    placed.remove()
    assert torch.equal(logits(), before)
    assert list(host.model.state_dict()) == names


def test_module_names_override_roles() -> None:
    model = tiny_host("llama").model
    assert set(find_linears(model, ("query",), ("layers.0.self_attn.k_proj",))) == {"model.layers.0.self_attn.k_proj"}
    with pytest.raises(RecipeError, match=r"ends in 'k_porj'\. Did you mean k_proj"):
        find_linears(model, (), ("k_porj",))


def test_a_name_is_not_matched_inside_another() -> None:
    """'proj' ends no dotted part: substring matching would catch every projection."""
    with pytest.raises(RecipeError, match="ends in 'proj'"):
        find_linears(tiny_host("llama").model, (), ("proj",))


def test_unknown_roles_and_architectures() -> None:
    model = tiny_host("llama").model
    with pytest.raises(RecipeError, match="'quary' is no role"):
        find_linears(model, ("quary",))
    model.config.model_type = "mamba"
    with pytest.raises(ModelError, match="architecture 'mamba' are not known"):
        find_linears(model, ("query",))


def test_half_precision_hosts_keep_their_past_in_rank_space() -> None:
    host = tiny_host("llama", torch.bfloat16)
    placed = LowRank(rank=2, dropout=0.0).place(host.model)
    for task in range(3):
        placed.grow()
        placed.fresh(task)
    site = next(iter(placed.sites.values()))
    assert site.working.folded is None
    assert site.slots.down.weight.dtype == torch.float32
    host.model(input_ids=torch.tensor([[3, 5, 7]]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_maps_above_the_first_blocks_are_those_that_their_output_does_not_depend_on(architecture: str) -> None:
    """Counted by gradients: what lies below has one of the first block's output."""
    host = tiny_host(architecture)
    linears = find_linears(host.body, ROLES)
    above = above_blocks(host.body, linears, 1)
    inputs = {"input_ids": torch.tensor([[3, 7, 9, 11, 5]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    hidden = reader_of(host.body)(**inputs, output_hidden_states=True).hidden_states[1]
    weights = [linear.weight for linear in linears.values()]
    gradients = torch.autograd.grad(hidden.square().sum(), weights, allow_unused=True)
    expected = [name for name, gradient in zip(linears, gradients, strict=True) if gradient is None]
    assert list(above) == expected
    assert 0 < len(above) < len(linears)
    if not host.model.config.is_encoder_decoder:
        with pytest.raises(RecipeError, match="None of the adapter's linear maps lies above the first 2 blocks"):
            LowRank(rank=2, above=2).place(host.body)
    with pytest.raises(RecipeError, match="above: -1 is not a number of blocks"):
        LowRank(above=-1)
