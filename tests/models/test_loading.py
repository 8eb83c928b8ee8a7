"""What is loaded is what was saved: a model folder is whole, of one model, and runs nothing; or it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers.utils import logging as transformers_logging

from helpers.tiny import outputs, tiny_host, write_tiny_model
from nacre.errors import ModelError
from nacre.learning.learner import Learner
from nacre.methods.seq_lora import seq_lora
from nacre.models.host import Host
from nacre.models.loading import load_host

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model's folder, written once for each architecture."""
    base = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        there = base / architecture
        return there if there.exists() else write_tiny_model(architecture, there)

    return folder


def renamed(rename: Callable[[str], str | None]) -> Change:
    """Tensors under other names; None takes one out."""

    def change(folder: Path) -> None:
        kept: dict[str, Tensor] = {}
        for name, tensor in load_file(folder / WEIGHTS).items():
            if (new := rename(name)) is not None:
                kept[new] = tensor
        save_file(kept, folder / WEIGHTS, {"format": "pt"})

    return change


def without(part: str) -> Change:
    return renamed(lambda name: None if part in name else name)


def under(prefix: str) -> Change:
    return renamed(lambda name: prefix + name)


def configured(file: str = CONFIG, **settings: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | settings))

    return change


def holding(file: str, content: bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(content) and None


def lacking(*files: str) -> Change:
    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change


def cut(file: str, share: float) -> Change:
    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])

    return change


def all_of(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def sharded(named: int, kept: int) -> Change:
    """Weights in two files, of which the index names some, and some are there."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        shards = {f"model-0000{number}-of-00002.safetensors": sorted(tensors)[number - 1 :: 2] for number in (1, 2)}
        for file in list(shards)[:kept]:
            save_file({name: tensors[name] for name in shards[file]}, folder / file, {"format": "pt"})
        index = {name: file for file in list(shards)[:named] for name in shards[file]}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return change


def added_token(number: int, **roles: str) -> Change:
    """One more token in the tokenizer, which the model has no embedding for."""

    def change(folder: Path) -> None:
        document = json.loads((folder / TOKENIZER).read_text())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        document["added_tokens"].append({"id": number, "content": "[NEW]", "special": True, **flags})
        (folder / TOKENIZER).write_text(json.dumps(document))
        configured("tokenizer_config.json", **roles)(folder)

    return change


OWN_CODE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
NEVER = "which nacre never runs"
VOCABULARY = len(tiny_host("llama").tokenizer)

REFUSED: list[tuple[str, str, Change, tuple[str, ...]]] = [
    ("compiled", "llama", under("_orig_mod."), ("parameters are not in its files", "'_orig_mod.'", "torch.compile")),
    ("in parallel", "t5", under("module."), ("parameters are not in its files", "'module.'", "model.module")),
    ("peft wrapped", "gpt2", under("base_model.model."), ("'base_model.model.'", "merge_and_unload")),
    ("a layer missing", "llama", without("layers.1."), ("9 of 21 parameters", "model.layers.1.", "would be random")),
    ("a layer missing, bart", "bart", without("decoder.layers.0."), ("decoder.layers.0.",)),
    ("a layer missing, bert", "bert", without("layer.1."), ("16 of ", "layer.1.")),
    ("a shard that the index does not name", "llama", sharded(1, 2), ("10 of 21 parameters", "would be random")),
    ("a shard missing", "llama", sharded(2, 1), ("cannot be loaded (weights)", "00002-of-00002")),
    ("embeddings missing", "t5", without("shared"), ("shared.weight",)),
    ("head missing", "llama", without("lm_head"), ("1 of 21 parameters are not in its files (lm_head.weight)",)),
    ("other names", "llama", renamed(lambda name: f"x.{name}"), ("They hold others", "x.lm_head.weight")),
    ("fewer layers", "llama", configured(num_hidden_layers=1), ("layers that its config.json does not have",)),
    ("no layers", "gpt2", configured(n_layer=0), ("layers that its config.json does not have",)),
    ("another vocabulary", "llama", configured(vocab_size=99), ("shape", "[99, 16] by its config.json")),
    ("another width", "bert", configured(hidden_size=8), ("shape", "by its config.json")),
    ("cut weights", "llama", cut(WEIGHTS, 0.7), ("cannot be loaded (weights)", "SafetensorError")),
    ("cut header", "t5", cut(WEIGHTS, 0.01), ("cannot be loaded (weights)", "SafetensorError")),
    ("empty weights", "llama", holding(WEIGHTS, b""), ("cannot be loaded (weights)", "SafetensorError")),
    ("garbage weights", "bart", holding(WEIGHTS, bytes(range(256)) * 9), ("cannot be loaded (weights)",)),
    ("a lying header", "llama", holding(WEIGHTS, b"\xff" * 7 + b"\x7f{}"), ("cannot be loaded (weights)",)),
    ("weights of git-lfs", "llama", holding(WEIGHTS, LFS), (f"{WEIGHTS} is a git-lfs pointer", "git lfs pull")),
    ("tokenizer of git-lfs", "t5", holding(TOKENIZER, LFS), (f"{TOKENIZER} is a git-lfs pointer",)),
    ("no weights", "llama", lacking(WEIGHTS), ("cannot be loaded (weights)",)),
    (
        "pickled weights",
        "llama",
        all_of(lacking(WEIGHTS), holding("pytorch_model.bin", b"\x80\x04.")),
        ("pickled weights only (pytorch_model.bin)", "can run any code"),
    ),
    (
        "a pickle named safetensors",
        "llama",
        holding(WEIGHTS, b"\x80\x04\x95cos\nsystem\n."),
        ("cannot be loaded (weights)",),
    ),
    ("config: a number", "llama", holding(CONFIG, b"3"), ("cannot be loaded (config.json)",)),
    ("config: a list", "llama", holding(CONFIG, b"[]"), ("cannot be loaded (config.json)",)),
    ("config: deep", "llama", holding(CONFIG, b"[" * 100_000), ("cannot be loaded (config.json)",)),
    ("config: not UTF-8", "llama", holding(CONFIG, b"\xff\xfe{"), ("cannot be loaded (config.json)",)),
    ("config: empty", "t5", holding(CONFIG, b""), ("cannot be loaded (config.json)",)),
    ("config: a width in words", "llama", configured(hidden_size="x"), ("cannot be loaded", "hidden_size")),
    ("config: no heads", "llama", configured(num_attention_heads=0), ("cannot be loaded",)),
    ("config: an unknown activation", "llama", configured(hidden_act="bogus"), ("cannot be loaded", "bogus")),
    ("config: an unknown dtype", "llama", configured(dtype="bogus"), ("cannot be loaded", "bogus")),
    ("config: a number for a quantization", "llama", configured(quantization_config=3), ("(config.json)", "to_dict")),
    ("config: an unknown rope", "llama", configured(rope_parameters={"rope_type": "bogus"}), ("(weights)", "bogus")),
    ("config: too wide", "llama", configured(hidden_size=10**12), ("cannot be loaded",)),
    ("config: an unknown type", "llama", configured(model_type="bogus"), ("cannot be loaded", "bogus")),
    ("config: its own code", "llama", configured(model_type="own", auto_map=OWN_CODE), (NEVER,)),
    (
        "tokenizer: its own code",
        "llama",
        configured("tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
        (NEVER,),
    ),
    ("tokenizer: a list", "llama", holding(TOKENIZER, b"[]"), ("cannot be loaded (tokenizer)",)),
    ("tokenizer: deep", "llama", holding(TOKENIZER, b"[" * 100_000), ("cannot be loaded (tokenizer)",)),
    ("tokenizer: its settings a list", "t5", holding("tokenizer_config.json", b"[]"), ("cannot be loaded",)),
    ("tokenizer: a length in words", "t5", configured("tokenizer_config.json", model_max_length="x"), ("(tokenizer)",)),
    ("generation: a list", "t5", holding("generation_config.json", b"[]"), ("cannot be loaded",)),
    ("generation: deep", "llama", holding("generation_config.json", b"[" * 100_000), ("cannot be loaded",)),
    ("generation: ends at a word", "llama", configured("generation_config.json", eos_token_id="x"), ("not a number",)),
    (
        "a decoder without a beginning",
        "bart",
        all_of(configured(decoder_start_token_id=None), lacking("generation_config.json")),
        ("does not say what its decoder begins with",),
    ),
    (
        "a decoder that begins nowhere",
        "bart",
        all_of(configured(decoder_start_token_id=9999), lacking("generation_config.json")),
        ("decoder_start_token_id is 9999",),
    ),
    (
        "a decoder that begins below nothing",
        "t5",
        configured(decoder_start_token_id=-1),
        ("decoder_start_token_id is -1",),
    ),
    (
        "a decoder that begins with a word",
        "bart",
        all_of(configured(decoder_start_token_id="a"), lacking("generation_config.json")),
        ("decoder_start_token_id", "a"),
    ),
    ("more layers than are ever built", "t5", configured(num_layers=2**31), ("num_layers = 2147483648",)),
    ("more layers by another name", "llama", configured(num_hidden_layers=2**62), ("num_hidden_layers = 46116",)),
    (
        "twice the type",
        "llama",
        holding(CONFIG, b'{"model_type": "llama", "model_type": "t5"}'),
        ("are not in its files",),
    ),
    ("no tokenizer, t5", "t5", lacking(TOKENIZER, "tokenizer_config.json"), ("has no tokenizer", "spiece.model")),
    ("no tokenizer, bert", "bert", lacking(TOKENIZER, "tokenizer_config.json"), ("has no tokenizer", "vocab.txt")),
    ("no tokenizer, gpt2", "gpt2", lacking(TOKENIZER, "tokenizer_config.json"), ("has no tokenizer", "merges.txt")),
    ("no tokenizer, bart", "bart", lacking(TOKENIZER, "tokenizer_config.json"), ("has no tokenizer", "merges.txt")),
    ("no tokenizer, llama", "llama", lacking(TOKENIZER, "tokenizer_config.json"), ("tokenizer",)),
    ("a token too many", "llama", added_token(VOCABULARY), ("'[NEW]'", f"embeddings for {VOCABULARY} only")),
    ("an end token outside", "llama", added_token(VOCABULARY, eos_token="[NEW]", pad_token="[NEW]"), ("'[NEW]'",)),
    ("an adapter beside the model", "llama", holding("adapter_config.json", b"{}"), ("PEFT adapter beside",)),
    (
        "an adapter alone",
        "llama",
        all_of(holding("adapter_config.json", b"{}"), lacking(CONFIG, WEIGHTS)),
        ("PEFT adapter, not a model", "merge_and_unload"),
    ),
]


@pytest.mark.parametrize(("architecture", "change", "says"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_folder_that_is_not_whole_is_refused_in_one_line(
    whole: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    architecture: str,
    change: Change,
    says: tuple[str, ...],
) -> None:
    folder = Path(shutil.copytree(whole(architecture), tmp_path / "model"))
    (folder / "own.py").write_text("print('RAN')\n")
    change(folder)
    with pytest.raises(ModelError) as refusal:
        load_host(str(folder))
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    for part in says:
        assert part in sentence
    said = capfd.readouterr()
    assert "RAN" not in said.out + said.err


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "gpt2", "bert", "roberta"])
def test_a_whole_folder_is_loaded_as_it_was_saved(whole: Callable[[str], Path], architecture: str) -> None:
    host = load_host(str(whole(architecture)))
    assert host.fingerprint == tiny_host(architecture).fingerprint


def test_a_padding_token_without_an_embedding_lends_the_end_token(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole("llama"), tmp_path / "model"))
    added_token(VOCABULARY, pad_token="[NEW]")(folder)
    host, usual = load_host(str(folder)), tiny_host("llama")
    assert (host.tokenizer.pad_token_id, host.family.pad) == (VOCABULARY, usual.tokenizer.eos_token_id)
    prompts = ["the big dog", "is it an animal or a thing"]
    assert Learner(host, seq_lora()).predict(prompts) == Learner(usual, seq_lora()).predict(prompts)


def test_a_head_that_nacre_draws_may_be_missing(whole: Callable[[str], Path]) -> None:
    host = load_host(str(whole("bert")))
    assert host.family.head is not None
    assert not host.family.head.mlm.pretrained


def test_a_model_with_adapters_of_peft_is_named() -> None:
    host = tiny_host("llama")
    wrapped = get_peft_model(host.model, LoraConfig(target_modules=["q_proj"]))  # type: ignore[arg-type]
    for model in (wrapped, wrapped.base_model.model):
        with pytest.raises(ModelError, match="carries adapters of PEFT"):
            Host(model, host.tokenizer)
    merged = Host(wrapped.merge_and_unload(), host.tokenizer)
    ids = torch.tensor([[3, 5, 6, 7]])
    assert torch.equal(outputs(merged, {"input_ids": ids}), outputs(tiny_host("llama"), {"input_ids": ids}))


@pytest.mark.parametrize(
    ("wrap", "inside"),
    [(nn.DataParallel, "module"), (AveragedModel, "module"), (torch.compile, "_orig_mod")],
    ids=["DataParallel", "AveragedModel", "compile"],
)
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_wrapped_model_is_named(architecture: str, wrap: Callable[[nn.Module], nn.Module], inside: str) -> None:
    """Its tensors have other names, and a learner that was saved in it would fit no other model."""
    host = tiny_host(architecture)
    wrapped = wrap(host.body)
    with pytest.raises(ModelError, match=rf"around a model: give the model, model\.{inside}\."):
        Host(wrapped, host.tokenizer)
    assert Host(getattr(wrapped, inside), host.tokenizer).fingerprint == host.fingerprint


def test_what_is_no_model_is_named() -> None:
    words = tiny_host("llama").tokenizer
    with pytest.raises(ModelError, match="Linear is no model of Hugging Face's"):
        Host(nn.Linear(2, 2), words)
    with pytest.raises(TypeError, match=r"not a str: load_host\(NAME\)"):
        Host("t5-small", words)  # type: ignore[arg-type]


def test_loading_leaves_transformers_as_talkative_as_it_was(whole: Callable[[str], Path]) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        transformers_logging.set_verbosity_info()
        transformers_logging.enable_progress_bar()
        load_host(str(whole("t5")))
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        load_host(str(whole("t5")))
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity(before[0])
        transformers_logging.enable_progress_bar() if before[1] else transformers_logging.disable_progress_bar()
