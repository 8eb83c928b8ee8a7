"""A model is held in memory as somebody wants it, and a learner finds it so again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.command import Call
from helpers.tiny import outputs, tiny_task, tokenizer, write_task
from nacre.errors import ModelError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.loading import load_host
from nacre.registry import build_method

torch.set_num_threads(1)

OPTIM = Optim(batch_size=4, epochs=2, learning_rate=1e-2)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a Llama of whole blocks, which the tiny ones are too narrow for."""
    folder = tmp_path_factory.mktemp("wide")
    words = tokenizer("decoder-only")
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), initializer_range=0.1, **sizes))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["t5", "llama", "roberta"])
def test_half_precision_below_whole_adapters(kind: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    host = load_host(str(tiny_model(kind)), torch.bfloat16)
    assert {parameter.dtype for parameter in host.body.parameters()} == {torch.bfloat16}
    learner = Learner(host, build_method("am_lora"), optim=OPTIM)
    learner.learn(tiny_task())
    assert {tensor.dtype for tensor in learner.adapter.tensors().values()} == {torch.float32}
    assert_saved(learner, tmp_path / "saved")


@pytest.mark.parametrize("settings", [{"quantization": "nf4"}, {"quantization": "int8", "dtype": torch.bfloat16}])
@pytest.mark.parametrize("method", ["am_lora", "inc_lora+migu", "lb_cl"])
def test_quantized_below_adapters(settings: dict[str, Any], method: str, wide: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    host = load_host(wide, **settings)
    kinds = {type(module).__name__ for module in host.body.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    ids = torch.tensor([[5, 9, 12, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    before = outputs(host, inputs)
    learner = Learner(host, build_method(method), optim=OPTIM)
    learner.learn(tiny_task())
    assert all(tensor.isfinite().all() for tensor in learner.adapter.tensors().values())
    assert_saved(learner, tmp_path / "saved")
    with pytest.raises(ModelError):
        learner.merged()
    learner.remove()
    assert torch.equal(outputs(host, inputs), before)


def assert_saved(learner: Learner, folder: Path) -> None:
    """What is loaded by its name alone answers the same, from a model held in the same way."""
    learner.save(folder)
    again = Learner.load(folder)
    assert again.host.loaded_as == learner.host.loaded_as
    assert again.evaluate(tiny_task()).answers == learner.evaluate(tiny_task()).answers
    assert again.snapshot().differences(learner.snapshot()) == []


def test_quantized_weights_cannot_be_trained(wide: str) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match="Full fine-tuning cannot train quantized weights"):
        Learner(load_host(wide, quantization="nf4"), build_method("seq_ft"))
    with pytest.raises(ModelError, match="int8 computes in half precision"):
        load_host(wide, quantization="int8")


def test_attention_is_computed_as_wanted(wide: str) -> None:
    ids = torch.tensor([[5, 9, 12, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = {}
    for attention in ("eager", "sdpa"):
        host = load_host(wide, attention=attention)  # type: ignore[arg-type]
        assert host.body.config._attn_implementation == attention  # type: ignore[union-attr]
        found[attention] = outputs(host, inputs)
    torch.testing.assert_close(found["eager"], found["sdpa"], atol=1e-5, rtol=1e-5)


def test_a_run_and_its_settings(wide: str, tmp_path: Path, nacre: Call) -> None:
    for name in ("animals", "plants"):
        write_task(tmp_path / "data", name, rows=8)
    words = ["run", "--method", "seq_lora", "--stream", "animals,plants", "--data", tmp_path / "data", "--model", wide]
    words += [
        "--output",
        tmp_path / "run",
        "--set",
        "model_dtype=bfloat16",
        "--set",
        "optim.gradient_checkpointing=true",
    ]
    done = nacre(*words)
    assert done.code == 0, done.err
    assert nacre(*words).out.count("finished already") == 1
    other = nacre(*words, "--set", "model_dtype=float32")
    assert (other.code, other.err.count("model_dtype")) == (2, 1)
    refused = nacre(*words[:-6], "--output", tmp_path / "other", "--set", "model_dtype=int3")
    assert (refused.code, "model_dtype" in refused.err) == (2, True)


def test_what_bitsandbytes_says_with_every_product_is_not_printed(wide: str) -> None:
    pytest.importorskip("bitsandbytes")
    load_host(wide, torch.bfloat16, quantization="int8")
    assert logging.getLogger("bitsandbytes").level == logging.ERROR
