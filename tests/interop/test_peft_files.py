"""A LoRA that PEFT has trained becomes a task: the same answers, and the learner goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from helpers.command import Call, assert_one_line_error
from helpers.stores import NAMES, snapshot_of, write_tasks
from helpers.tiny import tiny_task
from nacre.errors import ModelError
from nacre.events import ignore
from nacre.export.exported import logits_of, rows_of
from nacre.interop.peft_files import CONFIG, WEIGHTS, read_peft
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.loading import load_host
from nacre.registry import build_method
from nacre.store.learners import learner_of
from nacre.store.store import Store

torch.set_num_threads(1)

TARGETS = {"t5": ["q", "v"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}


def trained(model: Path, folder: Path, targets: list[str], **settings: Any) -> Path:
    """A LoRA of PEFT's, far from zero."""
    base: Any = load_host(str(model)).model
    base.name_or_path = str(model)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": targets, **settings})
    adapted = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder


def learner_with(model: Path, folder: Path, method: str = "inc_lora") -> Learner:
    lora = read_peft(folder)
    parameters = {"rank": lora.rank, "alpha": lora.alpha, "modules": list(lora.modules)}
    optim = Optim(batch_size=6, learning_rate=0.01)
    learner = Learner(load_host(str(model)), build_method(method, parameters), optim=optim, on_event=ignore)
    learner.adopt(tiny_task(), lora.factors)
    return learner


@pytest.mark.parametrize("method", ["inc_lora", "seq_lora", "o_lora", "inc_lora+gaussian_routing"])
@pytest.mark.parametrize("architecture", list(TARGETS))
def test_a_lora_of_pefts_answers_as_it_did(
    tiny_model: Callable[[str], Path], tmp_path: Path, architecture: str, method: str
) -> None:
    model = tiny_model(architecture)
    folder = trained(model, tmp_path / "lora", TARGETS[architecture])
    learner = learner_with(model, folder, method)
    theirs = PeftModel.from_pretrained(load_host(str(model)).model, folder)  # type: ignore[arg-type]
    batch = learner.host.family.batch(rows_of(learner, []))
    with learner.host.family.routed(batch):
        here = logits_of(learner.host.model, batch)
    there = logits_of(theirs, batch)
    assert float((here - there).abs().max()) <= 1e-5 * float(there.abs().max())
    with learner.bypassed():
        assert float((here - logits_of(learner.host.model, batch)).abs().max()) > 0.01
    assert learner.state.tasks == ["animals"]
    before = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    learner.learn(tiny_task("plants"))
    assert learner.state.tasks == ["animals", "plants"]
    if method != "seq_lora":
        name = next(iter(read_peft(folder).factors))
        assert torch.equal(learner.adapter.tensors()[f"{name}.past_down"][0], before[f"{name}.down.weight"])


def test_rank_stabilized_scales(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_model("llama")
    folder = trained(model, tmp_path / "lora", TARGETS["llama"], use_rslora=True)
    learner = learner_with(model, folder)
    theirs = PeftModel.from_pretrained(load_host(str(model)).model, folder)  # type: ignore[arg-type]
    batch = learner.host.family.batch(rows_of(learner, []))
    here, there = logits_of(learner.host.model, batch), logits_of(theirs, batch)
    assert float((here - there).abs().max()) <= 1e-5 * float(there.abs().max())


def test_maps_that_are_named_whole(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """A pattern, and layers that are left out: the adapter's own maps count."""
    model = tiny_model("llama")
    pattern: Any = r".*layers\.1\.self_attn\.(q|v)_proj"
    folder = trained(model, tmp_path / "lora", pattern)
    lora = read_peft(folder)
    assert sorted(lora.modules) == sorted(lora.factors)
    assert all(".1." in name for name in lora.factors)
    learner = learner_with(model, folder)
    assert sorted(learner.adapter.sites) == sorted(lora.factors)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    ],
)
def test_more_than_a_lora(
    tiny_model: Callable[[str], Path], tmp_path: Path, settings: dict[str, Any], part: str
) -> None:
    folder = trained(tiny_model("llama"), tmp_path / "lora", TARGETS["llama"], **settings)
    with pytest.raises(ModelError, match=part):
        read_peft(folder)


def test_damaged_adapters(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = trained(tiny_model("llama"), tmp_path / "lora", TARGETS["llama"])
    config, weights = (folder / CONFIG).read_text(), (folder / WEIGHTS).read_bytes()
    for text in ("", "{", "[]", '{"peft_type": "IA3"}', json.dumps({**json.loads(config), "r": 0})):
        (folder / CONFIG).write_text(text)
        with pytest.raises(ModelError, match="describes no LoRA"):
            read_peft(folder)
    (folder / CONFIG).write_text(config)
    for content in (b"", weights[:50], weights[:-3]):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ModelError, match="is damaged"):
            read_peft(folder)
    (folder / WEIGHTS).write_bytes(weights)
    tensors = load_file(folder / WEIGHTS)
    key = next(key for key in tensors if "lora_A" in key)
    for changed in (
        {name: tensor for name, tensor in tensors.items() if name != key},
        {**tensors, key: tensors[key][:2]},
        {**tensors, "base_model.model.embed.lora_embedding_A": tensors[key].clone()},
        {**tensors, "other.weight": tensors[key].clone()},
    ):
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, folder / WEIGHTS)
        with pytest.raises(ModelError, match="factor"):
            read_peft(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="is missing"):
        read_peft(folder)
    with pytest.raises(ModelError, match="holds no PEFT adapter"):
        read_peft(tmp_path)


@pytest.mark.parametrize("method", ["am_lora", "seq_ft", "lb_cl", "hat", "lda"])
def test_methods_without_such_slots(tiny_model: Callable[[str], Path], tmp_path: Path, method: str) -> None:
    folder = trained(tiny_model("llama"), tmp_path / "lora", TARGETS["llama"])
    learner = Learner(load_host(str(tiny_model("llama"))), build_method(method), on_event=ignore)
    with pytest.raises(ModelError):
        learner.adopt(tiny_task(), read_peft(folder).factors)


def test_other_maps_and_sizes(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    factors = read_peft(trained(tiny_model("llama"), tmp_path / "lora", TARGETS["llama"])).factors
    for parameters, part in (({"rank": 2}, "shapes"), ({"rank": 4, "roles": ["query"]}, "same linear maps")):
        learner = Learner(load_host(str(tiny_model("llama"))), build_method("inc_lora", parameters), on_event=ignore)
        with pytest.raises(ModelError, match=part):
            learner.adopt(tiny_task(), factors)


def test_a_store_begins_with_a_lora(nacre: Call, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    data = write_tasks(tmp_path / "data")
    folder = trained(tiny_model("t5"), tmp_path / "lora", TARGETS["t5"])
    path = tmp_path / "store"
    assert_one_line_error(nacre("import", folder, path), "--task")
    assert_one_line_error(
        nacre("import", folder, path, "--task", NAMES[0], "--data", data, "--method", "am_lora"), "LoRA"
    )
    said = nacre("import", folder, path, "--task", NAMES[0], "--data", data, "--must-keep", "*:-100pt")
    assert said.code == 0, said.err
    store = Store.open(path)
    learner = learner_of(store, store.current, ignore)
    assert learner.state.tasks == [NAMES[0]]
    assert store.read(store.current).tasks[0].score is not None
    factors = read_peft(folder).factors
    tensors = snapshot_of(store, store.current).owners["adapter"].tensors
    assert all(torch.equal(tensors[f"{name}.down.weight"], down) for name, (down, _) in factors.items())
    assert nacre("learn", path, "--task", NAMES[1], "--data", data).code == 0
    assert store.read(store.current).names == list(NAMES[:2])
