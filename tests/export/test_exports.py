"""Exports: stock PEFT and plain transformers answer as the learner does, and what cannot be exact is refused."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from helpers.tiny import tiny_task
from nacre.adapters.route import Route
from nacre.errors import CheckpointError, ModelError
from nacre.events import ignore
from nacre.export.exported import ROWS, logits_of, rows_of
from nacre.export.gguf import export_gguf
from nacre.export.merged import export_merged
from nacre.export.package import export_package, load_model
from nacre.export.peft_adapter import export_peft
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.loaded_as import LoadedAs
from nacre.models.loading import load_host, load_host_as
from nacre.registry import build_method
from nacre.tasks.prompts import prompt_example

torch.set_num_threads(1)

NAMES = ("animals", "plants", "tools", "colors")


def learned(model: Path, method: str, names: Sequence[str] = NAMES) -> Learner:
    """A learner whose updates are far from zero."""
    parameters: dict[str, Any] = {"rank": 1} if method == "lb_cl" else {}  # its tasks keep off each other's directions
    if method == "sapt_lora":
        parameters = {"inputs": "real"}  # so small a model would write thousands of rows before one can be used
    learner = Learner(
        load_host(str(model)),
        build_method(method, parameters),
        optim=Optim(batch_size=6, learning_rate=0.01),
        on_event=ignore,
    )
    for name in names:
        learner.learn(tiny_task(name))
    return learner


def rows(learner: Learner) -> list:  # type: ignore[type-arg]
    return rows_of(learner, [example for name in NAMES for example in tiny_task(name).examples("test")])


def logits(model: torch.nn.Module, learner: Learner) -> Tensor:
    own = rows(learner)
    return torch.cat([logits_of(model, learner.host.family.batch([row])).flatten() for row in own])


def load_plain(folder: Path, architecture: str) -> torch.nn.Module:
    loader = AutoModelForSeq2SeqLM if architecture == "t5" else AutoModelForCausalLM
    model: torch.nn.Module = loader.from_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2"])
@pytest.mark.parametrize("method", ["inc_lora", "o_lora", "lb_cl", "seq_lora", "inc_lora+migu"])
def test_stock_peft_answers_as_the_learner(
    tiny_model: Callable[[str], Path], tmp_path: Path, method: str, architecture: str
) -> None:
    from peft import PeftModel

    learner = learned(tiny_model(architecture), method)
    found = export_peft(learner, tmp_path / "peft", rows(learner))
    model = PeftModel.from_pretrained(load_plain(tiny_model(architecture), architecture), tmp_path / "peft")
    here, there = logits(learner.host.model, learner), logits(model, learner)
    assert float((here - there).abs().max()) <= 1e-5 * float(here.abs().max())
    assert found.difference <= 1e-5 * found.largest
    assert found.rows == ROWS
    with learner.bypassed():
        bare = logits(learner.host.model, learner)
    assert float((here - bare).abs().max()) > 0.001
    written = {file.name for file in (tmp_path / "peft").iterdir()}
    assert written == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    # lb_cl also takes out what each task began with, from the second on
    assert config["r"] == {"seq_lora": 8, "lb_cl": 4 + 3}.get(method, 4 * 8)
    assert (
        set(config["target_modules"])
        == {"t5": {"q", "v"}, "llama": {"q_proj", "v_proj"}, "gpt2": {"c_attn"}}[architecture]
    )


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("method", ["inc_lora+gaussian_routing", "epi"])
def test_each_task_has_a_stock_adapter_where_one_answers_alone(
    tiny_model: Callable[[str], Path], tmp_path: Path, method: str, architecture: str
) -> None:
    from peft import PeftModel

    learner = learned(tiny_model(architecture), method)
    found = export_peft(learner, tmp_path / "peft", rows(learner))
    assert found.difference <= 1e-5 * found.largest
    table = json.loads((tmp_path / "peft" / "routing.json").read_text())
    assert [each["task"] for each in table["tasks"]] == list(NAMES)
    seen = []
    for slot, each in enumerate(table["tasks"]):
        assert each["labels"] == ["yes", "no"]
        plain = load_plain(tiny_model(architecture), architecture)
        model = PeftModel.from_pretrained(plain, tmp_path / "peft" / each["adapter"])
        with learner.under(Route(slots=torch.tensor([slot]))):
            here = logits(learner.host.model, learner)
        assert float((here - logits(model, learner)).abs().max()) <= 1e-5 * float(here.abs().max())
        seen.append(here)
    assert all(float((one - other).abs().max()) > 1e-3 for one, other in itertools.pairwise(seen))


@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2"])
@pytest.mark.parametrize("method", ["inc_lora", "lb_cl", "seq_ft", "osf", "slao", "seq_ft+migu"])
def test_a_plain_folder_answers_as_the_learner(
    tiny_model: Callable[[str], Path], tmp_path: Path, method: str, architecture: str
) -> None:
    learner = learned(tiny_model(architecture), method)
    found = export_merged(learner, tmp_path / "merged", rows(learner))
    here, there = logits(learner.host.model, learner), logits(load_plain(tmp_path / "merged", architecture), learner)
    assert float((here - there).abs().max()) <= 1e-5 * float(here.abs().max())
    assert found.difference <= 1e-5 * found.largest
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer("the big dog").input_ids == learner.host.tokenizer("the big dog").input_ids


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("method", ["am_lora", "inc_lora", "epi", "inc_lora+gaussian_routing", "moe_lora", "seq_ft"])
def test_a_package_answers_as_the_learner_to_the_bit(
    tiny_model: Callable[[str], Path], tmp_path: Path, method: str, architecture: str
) -> None:
    learner = learned(tiny_model(architecture), method)
    found = export_package(learner, tmp_path / "package", rows(learner))
    assert found.difference == 0.0
    prompts = [example.input for name in NAMES for example in tiny_task(name).examples("test")]
    answers = learner.predict(prompts)
    limit = learner.lengths.target
    inputs = [torch.tensor([row.source]) for row in learner.encode([prompt_example(prompt, "") for prompt in prompts])]
    learner.remove()
    model = load_model(tmp_path / "package")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "package" / "model")
    for ids, answer in zip(inputs, answers, strict=True):
        written = model.generate(ids, max_new_tokens=limit, do_sample=False)[0]  # type: ignore[operator]
        own = written if architecture == "t5" else written[ids.shape[1] :]
        assert tokenizer.decode(own, skip_special_tokens=True).strip() == answer.strip()
    if method != "seq_ft":  # the others have modules in the model that no other tool knows
        with pytest.raises(ModelError):
            model.save_pretrained(tmp_path / "broken")  # type: ignore[operator]


def test_rows_of_a_package_are_routed_one_by_one(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    learner = learned(tiny_model("t5"), "epi")
    export_package(learner, tmp_path / "package", rows(learner))
    learner.remove()
    model = load_model(tmp_path / "package")
    family = model.nacre[0].host.family  # type: ignore[index, union-attr]
    own = rows_of(model.nacre[0], [tiny_task(name).examples("test")[0] for name in NAMES])[:4]  # type: ignore[index]
    together = logits_of(model, family.batch(own))
    for number, row in enumerate(own):
        alone = logits_of(model, family.batch([row]))[0]
        assert torch.allclose(together[number, : len(alone)], alone, atol=1e-5)
    with pytest.raises(ModelError, match="num_beams"):
        model.generate(torch.tensor([[5, 6]]), num_beams=2)  # type: ignore[operator]


@pytest.mark.parametrize("damage", ["package.json", "learner/state.json", "learner/adapter.safetensors"])
def test_a_damaged_package(tiny_model: Callable[[str], Path], tmp_path: Path, damage: str) -> None:
    export_package(learner := learned(tiny_model("t5"), "am_lora", NAMES[:1]), tmp_path / "package", rows(learner))
    learner.remove()
    file = tmp_path / "package" / damage
    file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(CheckpointError, match=file.name.replace(".", r"\.")):
        load_model(tmp_path / "package")


@pytest.mark.parametrize("method", ["nacre", "demix", "l2p", "lda"])
def test_what_a_model_alone_cannot_answer(tiny_model: Callable[[str], Path], tmp_path: Path, method: str) -> None:
    learner = learned(tiny_model("t5"), method, NAMES[:2])
    with pytest.raises(ModelError, match=r"package: .*Learner\.load"):
        export_package(learner, tmp_path / "package", rows(learner))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["am_lora", "mocl", "nacre", "sapt_lora"])
def test_what_depends_on_the_input_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path, method: str) -> None:
    learner = learned(tiny_model("t5"), method, NAMES[:2])
    for write in (export_peft, export_merged):
        with pytest.raises(ModelError):
            write(learner, tmp_path / "export", rows(learner))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["seq_ft", "osf", "adapter"])
def test_what_is_no_lora_is_no_peft_adapter(tiny_model: Callable[[str], Path], tmp_path: Path, method: str) -> None:
    learner = learned(tiny_model("t5"), method, NAMES[:1])
    with pytest.raises(ModelError, match="something else than LoRAs"):
        export_peft(learner, tmp_path / "peft", rows(learner))


def test_encoders_are_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    learner = learned(tiny_model("roberta"), "inc_lora", NAMES[:1])
    for write in (export_peft, export_merged):
        with pytest.raises(ModelError, match="classification head is nacre's"):
            write(learner, tmp_path / "export", rows(learner))


@pytest.mark.parametrize("write", [export_peft, export_merged])
def test_an_export_that_answers_otherwise_is_not_written(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., object]
) -> None:
    learner = learned(tiny_model("t5"), "inc_lora", NAMES[:1])

    def other(name: str, loaded_as: LoadedAs) -> object:
        host = load_host_as(name, loaded_as)
        with torch.no_grad():
            next(host.model.parameters()).mul_(1.01)
        return host

    for module in ("merged", "peft_adapter"):
        monkeypatch.setattr(f"nacre.export.{module}.load_host_as", other)
    with pytest.raises(ModelError, match="loaded again, it answers otherwise"):
        write(learner, tmp_path / "export", rows(learner))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_replaced(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    learner = learned(tiny_model("t5"), "inc_lora", NAMES[:1])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        export_merged(learner, tmp_path / "mine", rows(learner))
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["file"]
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_rows_are_enough_without_any_task(tiny_model: Callable[[str], Path]) -> None:
    learner = learned(tiny_model("llama"), "inc_lora", NAMES[:1])
    assert len(rows_of(learner, [])) == ROWS
    assert len(rows_of(learner, tiny_task().examples("test") * 40)) == ROWS


SERVED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""The linear maps of a Llama on which vLLM and SGLang put LoRAs."""


def assert_servers_read(adapter: Path, base: str) -> int:
    """What vLLM's filesystem resolver and SGLang's loader ask of an adapter's folder. Returns its rank."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", base)  # else nothing is resolved
    assert (config["bias"], config["modules_to_save"]) == ("none", None)
    assert not any(config.get(key) for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern"))
    assert set(config["target_modules"]) <= SERVED
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    pattern = re.compile(r"base_model\.model\.model\.layers\.\d+\.\w+\.(\w+)\.lora_([AB])\.weight")
    found = {name: pattern.fullmatch(name) for name in shapes}
    assert all(found.values())
    assert {match[1] for match in found.values() if match} == set(config["target_modules"])
    ranks = {
        shape[0 if match and match[2] == "A" else 1]
        for (_, match), shape in zip(found.items(), shapes.values(), strict=True)
    }
    assert ranks == {config["r"]}
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    return int(config["r"])


def test_servers_find_and_read_a_peft_export(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """docs/store.md says how it goes to vLLM and SGLang."""
    model = tiny_model("llama")
    summed, routed = learned(model, "inc_lora"), learned(model, "inc_lora+gaussian_routing")
    export_peft(summed, tmp_path / "adapters" / "support", rows(summed))
    assert assert_servers_read(tmp_path / "adapters" / "support", str(model)) == 8 * len(NAMES)
    export_peft(routed, tmp_path / "routed", rows(routed))
    names = [each["adapter"] for each in json.loads((tmp_path / "routed" / "routing.json").read_text())["tasks"]]
    assert [assert_servers_read(tmp_path / "routed" / name, str(model)) for name in names] == [8] * len(NAMES)


# ---- GGUF, through a stand-in for llama.cpp's converter

LLAMA_CPP = Path(__file__).parent.parent / "helpers" / "llama_cpp"


def test_a_gguf_file_answers_as_the_learner(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("LLAMA_CPP", str(LLAMA_CPP))
    learner = learned(tiny_model("llama"), "inc_lora")
    found = export_gguf(learner, tmp_path / "gguf", rows(learner))
    assert found.difference <= 1e-4 * found.largest
    assert [path.name for path in (tmp_path / "gguf").iterdir()] == ["model.gguf"]
    assert [path.name for path in tmp_path.iterdir()] == ["gguf"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "gguf", gguf_file="model.gguf", dtype=torch.float32)
    here = logits(learner.host.model, learner)
    assert float((here - logits(model.eval(), learner)).abs().max()) <= 1e-4 * float(here.abs().max())
    assert float((here - logits(load_plain(tiny_model("llama"), "llama"), learner)).abs().max()) > 1e-3


def test_a_converter_that_fails_leaves_nothing(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("LLAMA_CPP", str(LLAMA_CPP))
    learner = learned(tiny_model("gpt2"), "inc_lora")
    with pytest.raises(ModelError, match="said last: Model GPT2LMHeadModel is not supported"):
        export_gguf(learner, tmp_path / "gguf", rows(learner))
    assert list(tmp_path.iterdir()) == []


def test_without_a_converter(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    learner = learned(tiny_model("llama"), "inc_lora")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="is not on the PATH"):
        export_gguf(learner, tmp_path / "gguf", rows(learner))
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(ModelError, match="is not in LLAMA_CPP="):
        export_gguf(learner, tmp_path / "gguf", rows(learner))


@pytest.mark.parametrize("method", ["am_lora", "nacre"])
def test_gguf_holds_no_mixture(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("LLAMA_CPP", str(LLAMA_CPP))
    learner = learned(tiny_model("llama"), method, NAMES[:1])
    with pytest.raises(ModelError, match="no one weight holds that"):
        export_gguf(learner, tmp_path / "gguf", rows(learner))
