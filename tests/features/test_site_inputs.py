"""Inputs of linear maps: those of every real token and of no padding, in batches of any size, adapted or bare."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import Tensor

from helpers.proofs import progressive_prompts
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.sites import PlacedSites
from nacre.evaluation.gates import mean_gates
from nacre.features.site_inputs import read_site_inputs
from nacre.learning.learner import Learner
from nacre.learning.router import LearnerRouter
from nacre.learning.settings import Optim
from nacre.methods.inc_lora import inc_lora
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASK = tiny_task("animals")


@pytest.fixture(params=["t5", "bart", "llama", "gpt2", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learner_on(architecture: str) -> Learner:
    learner = Learner(tiny_host(architecture), inc_lora(), optim=OPTIM)
    learner.learn(tiny_task("birds"))
    perturb(learner.host.model)
    return learner


def places(learner: Learner) -> list[str]:
    assert isinstance(learner.adapter, PlacedSites)
    return list(learner.adapter.sites)


def inputs_of(learner: Learner, batch_size: int) -> dict[str, Tensor]:
    """[tokens, d_in] of each site."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    rows = learner.encode(TASK.examples("train"))
    read_site_inputs(
        learner.host, rows, places(learner), lambda place, inputs: found[place].append(inputs), batch_size=batch_size
    )
    return {place: torch.cat(parts) for place, parts in found.items()}


def test_every_real_token_is_read_once_in_batches_of_any_size(architecture: str) -> None:
    learner = learner_on(architecture)
    alone, together = inputs_of(learner, 1), inputs_of(learner, 8)
    rows = learner.encode(TASK.examples("train"))
    read, written = sum(len(row.source) for row in rows), sum(len(row.target) for row in rows)
    assert alone.keys() == together.keys() == set(places(learner))
    for place, inputs in alone.items():
        in_decoder = place.startswith(("decoder.", "model.decoder."))
        from_encoder = "EncDecAttention.v" in place or ("encoder_attn.v" in place)
        expected = {
            "encoder-decoder": written if in_decoder and not from_encoder else read,
            "decoder-only": read + written,
            "encoder-only": read,
        }[learner.host.family.name]
        assert len(inputs) == len(together[place]) == expected, place
        torch.testing.assert_close(inputs.T @ inputs, together[place].T @ together[place], atol=1e-3, rtol=1e-4)


def test_the_first_map_reads_what_the_model_makes_of_the_tokens() -> None:
    """T5's first query reads the normalized embeddings."""
    learner = learner_on("t5")
    found = inputs_of(learner, 1)["encoder.block.0.layer.0.SelfAttention.q"]
    encoder = learner.host.body.encoder
    tokens = torch.tensor([token for row in learner.encode(TASK.examples("train")) for token in row.source])
    with torch.no_grad():
        expected = encoder.block[0].layer[0].layer_norm(encoder.embed_tokens(tokens))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(found, expected)


def test_bypassed_they_are_the_bare_hosts(architecture: str) -> None:
    learner, bare = learner_on(architecture), Learner(tiny_host(architecture), inc_lora(), optim=OPTIM)
    adapted = inputs_of(learner, 4)
    with learner.bypassed():
        bypassed = inputs_of(learner, 4)
    expected = inputs_of(bare, 4)
    assert all(torch.equal(inputs, expected[place]) for place, inputs in bypassed.items())
    assert any(not torch.equal(inputs, expected[place]) for place, inputs in adapted.items())


def test_nothing_stays_behind(architecture: str) -> None:
    learner = learner_on(architecture)
    learner.host.model.train()
    inputs_of(learner, 4)
    assert learner.host.model.training
    assert not any(module._forward_pre_hooks for module in learner.host.model.modules())

    def fail(place: str, inputs: Tensor) -> None:
        raise ValueError(place)

    with pytest.raises(ValueError, match=r"\."):
        read_site_inputs(learner.host, learner.encode(TASK.examples("train")), places(learner), fail, batch_size=4)
    assert not any(module._forward_pre_hooks for module in learner.host.model.modules())


def test_prompts_are_read_like_words() -> None:
    learner = Learner(tiny_host("llama"), progressive_prompts(tokens=3), optim=OPTIM)
    learner.learn(TASK)
    rows, found = learner.encode(TASK.examples("train")), []
    place = "model.layers.0.self_attn.q_proj"
    read_site_inputs(learner.host, rows, [place], lambda _, inputs: found.append(len(inputs)), batch_size=4)
    assert sum(found) == sum(row.length() + 3 for row in rows)


def test_what_a_routing_asks_the_bare_host_is_not_shown(architecture: str) -> None:
    """The inputs are those under the route that was chosen, each once."""
    learner = Learner(tiny_host(architecture), build_method("am_lora+gaussian_routing"), optim=OPTIM)
    for name in ("birds", "animals"):
        learner.learn(tiny_task(name))
    perturb(learner.host.model)
    found = inputs_of(learner, len(TASK.train))
    router = learner.host.family.router
    assert isinstance(router, LearnerRouter)
    assert router.newest is not None
    with learner.under(router.newest):
        expected = inputs_of(learner, len(TASK.train))
    assert found.keys() == expected.keys() == set(places(learner))
    assert all(torch.equal(inputs, expected[place]) for place, inputs in found.items())
    assert len(mean_gates(learner, TASK)) == len(places(learner))
