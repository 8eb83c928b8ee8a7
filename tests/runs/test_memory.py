"""What a run needs of memory, found out without its weights, is what it has when it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.contract import VARIANTS
from helpers.tiny import tiny_task, write_tiny_model
from nacre.events import Event, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.loaded_as import LoadedAs
from nacre.models.loading import load_host_as
from nacre.models.owner import ParameterGroup
from nacre.registry import build_method
from nacre.runs import memory
from nacre.runs.memory import MemoryNeed, memory_need, spoken
from nacre.runs.recipe import Recipe

torch.set_num_threads(1)


def needed(variant: str, model: Path | str, **settings: Any) -> tuple[MemoryNeed | None, Recipe]:
    name, parameters = VARIANTS[variant]
    method = build_method(name, parameters)
    recipe = Recipe.of(method, {"model": str(model), **settings})
    return memory_need(recipe, method, 3), recipe


def size_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2"])
@pytest.mark.parametrize("variant", ["seq_ft", "am_lora", "lb_cl", "adapter", "hat", "prog_prompt", "lda"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_trained_is_counted(
    variant: str, architecture: str, dtype: str, tiny_model: Callable[[str], Path]
) -> None:
    need, recipe = needed(variant, tiny_model(architecture), model_dtype=dtype)
    assert need is not None
    host = load_host_as(recipe.model, recipe.loaded_as)
    own = list(host.body.parameters())
    learner = Learner(host, recipe.build(), optim=Optim(max_target_length=8))
    assert need.parameters == sum(parameter.numel() for parameter in own)
    assert need.weights == size_of(own)
    groups: list[ParameterGroup] = []

    def note(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            groups.extend(learner.trainable())

    learner.on_event = note
    learner.learn(tiny_task())
    parameters = [parameter for group in groups for parameter in group.parameters]
    assert need.trained_parameters == sum(parameter.numel() for parameter in parameters)
    assert need.gradients == size_of(parameters)
    assert need.trained == size_of(parameter for parameter in parameters if all(parameter is not each for each in own))


def test_what_values_decide_is_unknown(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    assert needed("osf", tiny_model("t5"))[0] is None
    assert needed("seq_lora", "some/hub-name")[0] is None


def test_quantized_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    write_tiny_model("llama", tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128}
    (tmp_path / "wide" / "config.json").write_text(json.dumps({**config, **sizes}))
    from transformers import AutoConfig, LlamaForCausalLM

    LlamaForCausalLM(AutoConfig.from_pretrained(tmp_path / "wide")).save_pretrained(tmp_path / "wide")
    for quantization in ("nf4", "int8"):
        need, recipe = needed("am_lora", tmp_path / "wide", model_quantization=quantization, model_dtype="bfloat16")
        host = load_host_as(recipe.model, recipe.loaded_as)
        assert need is not None
        scales = [tensor for name, tensor in host.body.state_dict().items() if "absmax" in name or "SCB" in name]
        there = size_of(host.body.parameters()) + size_of(scales)
        assert need.weights == pytest.approx(there, rel=0.01), quantization


def test_a_model_that_cannot_fit_is_named(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    need, _ = needed("am_lora", tiny_model("t5"))
    assert need is not None
    assert need.refusal() is None
    monkeypatch.setattr(memory, "_available", lambda: (1000, "GPU"))
    need, _ = needed("am_lora", tiny_model("t5"))
    assert need is not None
    assert (need.refusal() or "").startswith("memory: the run needs ")


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_what_sharding_shares_out(
    architecture: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = load_host_as(str(tiny_model(architecture)), LoadedAs()).body
    layers = [
        size_of(own for name, own in layer.named_parameters() if "relative_attention_bias" not in name)
        for name, layer in bare.named_modules()
        if name.rpartition(".")[0].endswith(("block", "layers"))
    ]
    for variant, times in (("am_lora", 1), ("seq_ft", 4)):
        need, _ = needed(variant, tiny_model(architecture))
        assert need is not None
        assert (need.cut, need.layer) == (times * sum(layers), max(layers))
        rest = need.total - need.cut + need.layer
        for room, processes in ((-1, None), (need.cut, 2), (need.cut // 3 + 1, 3), (need.cut // 5 + 1, 5)):
            there = (rest + room, "GPU")
            monkeypatch.setattr(memory, "_available", lambda there=there: there)
            small, _ = needed(variant, tiny_model(architecture))
            assert small is not None
            assert small.processes == processes
            told = small.refusal() or ""
            assert (f"cut the model over {processes} such devices or more (--sharded)" in told) == (
                processes is not None and small.total > small.available
            )
        monkeypatch.undo()


def test_quantized_weights_are_not_cut(tiny_model: Callable[[str], Path]) -> None:
    need, _ = needed("am_lora", tiny_model("llama"), model_quantization="int8")
    assert need is not None
    assert (need.cut, need.layer, need.processes) == (0, 0, None)


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (26.95e9, "26.9 GB"), (3e15, "3000.0 TB")]
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert spoken(size) == words
