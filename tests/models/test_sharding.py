"""A sharded host computes what the whole one computes, and refuses what needs the whole one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import BartConfig, BartForConditionalGeneration

from helpers.contract import held_method
from helpers.tiny import tiny_host, tiny_task, write_tiny_model
from helpers.together import launched
from nacre import processes
from nacre.errors import ModelError, NacreError
from nacre.events import Event, StepTaken, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.host import Host
from nacre.models.loaded_as import LoadedAs
from nacre.models.loading import load_host
from nacre.models.sharding import own_part, shard_layers
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

OPTIM = Optim(batch_size=4, epochs=1, learning_rate=1e-3, max_target_length=8)


def test_in_two_processes() -> None:
    in_two("t5")


@pytest.mark.long
def test_other_architectures() -> None:
    in_two("llama", "roberta", "gpt2", "bart")


def in_two(*architectures: str) -> None:
    done = launched(2, [__file__, *architectures])
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split()) == ["done", "done"]


def test_one_process_keeps_everything() -> None:
    host = tiny_host("t5")
    host.shard()
    assert not host.is_sharded


def main(architectures: Sequence[str]) -> None:
    """What each of two processes does and finds."""
    torch.set_num_threads(1)
    processes.device()
    assert processes.count() == 2
    for architecture in architectures:
        it_answers_as_the_whole_one(architecture)
        it_takes_the_first_ones_values(architecture)
    it_ends_in_all_where_one_cannot_load()
    it_says_the_whole_penalty()
    it_refuses_what_needs_the_whole_one()
    print("done")


def sharded(architecture: str) -> Host:
    host = tiny_host(architecture)
    host.shard()
    return host


def it_answers_as_the_whole_one(architecture: str) -> None:
    whole, host = tiny_host(architecture), sharded(architecture)
    assert host.pretrained_hash(dict) == whole.fingerprint
    parts = [parameter for parameter in host.model.parameters() if isinstance(parameter, DTensor)]
    assert parts
    assert all(part.to_local().numel() <= -(-part.shape[0] // 2) * part[0].numel() for part in parts)
    task = tiny_task("animals")
    found = []
    for each in (whole, host):
        learner = Learner(each, held_method("seq_lora"), seed=1, optim=OPTIM, on_event=ignore)
        learner.learn(task)
        found.append((learner.evaluate([task]), learner.adapter.tensors()))
    assert found[0][0] == found[1][0]
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, atol=1e-5, rtol=0)


def it_takes_the_first_ones_values(architecture: str) -> None:
    """The second process loads no weights, and holds what it would hold if it had."""
    folder = processes.by_first(lambda: write_tiny_model(architecture, Path(mkdtemp()) / "model"))
    host = load_host(str(folder), values=processes.is_first())
    there = load_host(str(folder))
    assert all(tensor.is_meta != processes.is_first() for tensor in host.body.state_dict().values())
    if not processes.is_first():
        with pytest.raises(ModelError, match="loaded without values: shard it first"):
            Learner(host, held_method("seq_lora"), optim=OPTIM, on_event=ignore)
    host.shard()
    there.shard()
    assert host.pretrained_hash(dict) == there.pretrained_hash(dict)
    for kind in ("named_parameters", "named_buffers"):  # as many: what was tied is tied
        own, expected = (list(getattr(each.model, kind)()) for each in (host, there))
        assert [name for name, _ in own] == [name for name, _ in expected]
        for (name, tensor), (_, other) in zip(own, expected, strict=True):
            assert torch.equal(own_part(tensor), own_part(other)), name
            assert (tensor.dtype, tensor.requires_grad) == (other.dtype, other.requires_grad), name
    learner = Learner(host, held_method("seq_lora"), seed=1, optim=OPTIM, on_event=ignore)
    other = Learner(there, held_method("seq_lora"), seed=1, optim=OPTIM, on_event=ignore)
    task = tiny_task("animals")
    for each in (learner, other):
        each.learn(task)
    assert learner.evaluate([task]) == other.evaluate([task])
    for name, tensor in other.adapter.tensors().items():
        assert torch.equal(learner.adapter.tensors()[name], tensor), name


def it_ends_in_all_where_one_cannot_load() -> None:
    """The others do not wait for it."""

    def cannot(*_: object, **__: object) -> Host:
        raise ModelError("The disk is gone.")

    recipe = Recipe(method="seq_lora", model="demo", stream="demo", output=str(processes.by_first(mkdtemp)))
    with pytest.MonkeyPatch.context() as patch:
        if not processes.is_first():
            patch.setattr("nacre.runs.run.load_host_as", cannot)
        with pytest.raises(NacreError, match="The disk is gone"):
            run(recipe, ignore, sharded=True)


def it_says_the_whole_penalty() -> None:
    """Each process pulls its own rows of the weights; what a step reports is the pull on all of them."""
    said: list[list[float]] = []
    for host in (tiny_host("t5"), sharded("t5")):
        steps: list[float] = []
        said.append(steps)

        def watch(event: Event, steps: list[float] = steps) -> None:
            if isinstance(event, StepTaken):
                steps.append(event.terms["elastic_weights"])

        learner = Learner(
            host, held_method("ewc"), seed=1, optim=OPTIM.model_copy(update={"log_every": 1}), on_event=watch
        )
        for name in ("animals", "birds"):
            learner.learn(tiny_task(name))
    whole, parts = said
    assert max(whole) > 0
    torch.testing.assert_close(torch.tensor(parts), torch.tensor(whole), rtol=1e-3, atol=1e-9)


def it_refuses_what_needs_the_whole_one() -> None:
    by_weight = build_method("seq_ft+migu", {"migu": {"by": "weight"}})
    for method in (held_method("hat"), held_method("das"), by_weight):
        sentence = said(lambda method=method: Learner(sharded("roberta"), method, on_event=ignore))
        assert "trains the host's own weights" in sentence
        assert "needs the whole host" in sentence
    for variant in ("latent_lora", "osf"):
        assert "the host is sharded, and no process has the whole weight" in said(
            lambda variant=variant: Learner(sharded("t5"), held_method(variant), on_event=ignore)
        )
    half = Optim(mixed_precision="fp16")
    assert "by the whole gradient, needs the whole host" in said(
        lambda: Learner(sharded("t5"), held_method("seq_ft"), optim=half, on_event=ignore)
    )
    learner = Learner(sharded("t5"), held_method("inc_lora"), on_event=ignore)
    assert "A merged model needs the whole host" in said(learner.merged)
    alone = said(lambda: processes.by_first(lambda: learner.predict(["Is it an animal ?"])))
    assert "One process alone cannot compute with a sharded host" in alone
    learner.remove()
    scoring = Learner(sharded("llama"), held_method("inc_lora+gaussian_routing+evidence"), optim=OPTIM, on_event=ignore)
    assert "Training on label scores needs the whole host" in said(lambda: scoring.learn(tiny_task("animals")))
    copying = Learner(sharded("t5"), held_method("am_lora+distill"), optim=OPTIM, on_event=ignore)
    assert "distillation, which copies its teacher from it, needs the whole host" in said(
        lambda: copying.learn(tiny_task("animals"))
    )
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 30}
    skipping = BartForConditionalGeneration(BartConfig(**small, **heads, decoder_layerdrop=0.1))
    assert "skips layers at random (decoder_layerdrop)" in said(lambda: shard_layers(skipping))
    quantized = tiny_host("t5")
    quantized.loaded_as = LoadedAs(quantization="nf4")
    assert "Quantized weights cannot be sharded" in said(quantized.shard)


def said(action: Callable[[], object]) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(NacreError) as refused:
        action()
    assert isinstance(refused.value, ModelError) or "alone" in str(refused.value)
    return str(refused.value)


if __name__ == "__main__":
    main(sys.argv[1:])
