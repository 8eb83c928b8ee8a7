"""Pretraining from scratch: it learns, it repeats itself, what it writes loads, and mistakes are told in a sentence."""

import random
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from typer import Typer
from typer.testing import CliRunner

from nacre.cli.pretrain import pretrain as command
from nacre.errors import DataError, ModelError, NacreError, RecipeError
from nacre.files import sha256
from nacre.pretraining.objectives import masked_tokens
from nacre.pretraining.passages import read_passages
from nacre.pretraining.pretrain import pretrain
from nacre.pretraining.settings import PretrainSettings
from nacre.tasks.demo import LABELS

TINY = PretrainSettings(
    d_model=32, layers=1, decoder_layers=1, heads=2, d_ff=48, vocabulary=420, sentinels=12, steps=30, batch_size=16
)
TEXT = [f"The {a} {b} sat on the {c} mat.\nIt was {a}." for a in ("red", "old", "big") for b in ("cat", "dog", "fox")
        for c in ("soft", "wet", "green", "flat", "thin", "new", "dry")]  # fmt: skip


def made(folder: Path, **changes: object) -> Path:
    pretrain(TEXT, folder, replace(TINY, **changes), source="a toy text")
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("t5") / "model")


@pytest.mark.parametrize("objective", ["span_corruption", "causal"])
def test_thirty_steps_reduce_the_held_out_loss(tmp_path: Path, objective: str):
    seen: list[tuple[int, int, float | None]] = []
    result = pretrain(
        TEXT,
        tmp_path / "model",
        replace(TINY, objective=objective),
        source="a toy text",
        progress=lambda *values: seen.append(values),
    )
    assert result.loss_after < 0.8 * result.loss_before
    assert result.passages + result.held_out == len(TEXT)
    assert seen[-1][:2] == (30, 30)
    assert seen[-1][2] is not None


def test_the_same_seed_makes_the_same_model_and_another_does_not(tmp_path: Path, t5: Path):
    torch.rand(3)  # the caller's random state is no part of it
    names = ("model.safetensors", "tokenizer.json", "config.json")
    again, other = made(tmp_path / "again"), made(tmp_path / "other", seed=1)
    assert [sha256(again / name) for name in names] == [sha256(t5 / name) for name in names]
    assert sha256(other / names[0]) != sha256(t5 / names[0])


def test_the_callers_random_state_and_threads_are_left_alone(tmp_path: Path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    made(tmp_path / "model", steps=1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_an_encoder_decoder_folder_loads_and_writes(t5: Path):
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(t5), AutoTokenizer.from_pretrained(t5)
    assert model.config.dropout_rate == 0
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert all(tensor.dtype == torch.float32 for tensor in load_file(t5 / "model.safetensors").values())
    inputs = tokenizer(["The red cat", "It was"], padding=True, return_tensors="pt")
    written = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=4)
    assert written.shape[0] == 2
    assert written[0, 0] == tokenizer.pad_token_id == model.generation_config.decoder_start_token_id


def test_a_causal_folder_loads_and_its_tokenizer_starts_as_llama_does(tmp_path: Path):
    folder = made(tmp_path / "model", objective="causal", steps=2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The red cat", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == tokenizer.bos_token_id
    assert ids[0, -1] != tokenizer.eos_token_id
    assert model(ids).logits.shape[-1] == len(tokenizer)


@pytest.mark.parametrize(
    "text",
    ["The red cat.", "Which word?\nOption: a, b \nThe ___ sat.\nAnswer:", "Zürich, 12 °C – 再见", "don't  a   b\t"],
)
def test_text_survives_the_tokenizer(t5: Path, text: str):
    tokenizer = AutoTokenizer.from_pretrained(t5)
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text.lower().strip()


def test_sentinels_are_single_tokens_and_a_word_is_the_same_at_the_start(t5: Path):
    tokenizer = AutoTokenizer.from_pretrained(t5)
    ids = [tokenizer(f"<extra_id_{number}>", add_special_tokens=False)["input_ids"] for number in range(12)]
    assert all(len(each) == 1 for each in ids)
    assert len({each[0] for each in ids}) == 12
    assert tokenizer("cat")["input_ids"][0] in tokenizer("red cat")["input_ids"]


def test_a_given_tokenizer_is_used(tmp_path: Path, t5: Path):
    folder = tmp_path / "model"
    pretrain(
        ["Quite another text.", "And one more text."] * 4, folder, replace(TINY, steps=1), source="x", tokenizer=t5
    )
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == AutoTokenizer.from_pretrained(t5).get_vocab()


def test_the_card_says_what_was_done(t5: Path):
    card = (t5 / "README.md").read_text()
    for words in ("license: apache-2.0", "a toy text", "Held-out loss", "seconds", "| steps | 30 |"):
        assert words in card
    assert "/" + str(t5).split("/")[1] + "/" not in card


@pytest.mark.parametrize("length", [2, 3, 7, 40])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.99])
def test_masks_have_the_promised_share_and_leave_something(length: int, share: float):
    rng = random.Random(0)
    for _ in range(50):
        masked = masked_tokens(length, share, 1.5, rng)
        assert len(masked) == length
        assert sum(masked) == min(max(round(share * length), 1), length - 1)


def test_no_place_is_hardly_ever_or_nearly_always_masked():
    rng = random.Random(0)
    counts = torch.tensor([masked_tokens(20, 0.2, 2.0, rng) for _ in range(4000)]).float().mean(0)
    assert counts.min() > 0.1
    assert counts.max() < 0.3


def test_passages_are_what_stands_between_empty_lines(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\none\ntwo\n\n \nthree\n")
    (tmp_path / "b.txt").write_text("four")
    assert read_passages([tmp_path / "a.txt", tmp_path / "b.txt"]) == ["one\ntwo", "three", "four"]


def test_what_cannot_be_read_is_told(tmp_path: Path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for paths, sentence in (
        ([], "No text files"),
        ([tmp_path / "none.txt"], "is not a file"),
        ([tmp_path], "is not a file"),
        ([tmp_path / "empty.txt"], "no text"),
        ([tmp_path / "binary"], "UTF-8"),
    ):
        with pytest.raises(DataError, match=sentence):
            read_passages(paths)


def test_too_little_text_and_a_wrong_output_leave_nothing_behind(tmp_path: Path, t5: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for texts, output, error, sentence in (
        ([], "new", DataError, "no text"),
        (["one"], "new", DataError, "too little text"),
        (TEXT, "file", ModelError, "is a file"),
        (TEXT, "other", ModelError, "holds other things"),
    ):
        with pytest.raises(error, match=sentence):
            pretrain(texts, tmp_path / output, TINY, source="the text")
    with pytest.raises(ModelError, match="no tokenizer"):
        pretrain(TEXT, tmp_path / "new", TINY, source="the text", tokenizer=tmp_path / "other")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "prefix"}, {"steps": 0}, {"heads": 3}, {"length": 4}, {"mask_share": 1.0}, {"mean_span": 0.5},
        {"continuation": 1.5}, {"learning_rate": 0.0}, {"sentinels": 0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_named(changes: dict[str, object]):
    with pytest.raises(RecipeError, match=next(iter(changes))):
        replace(TINY, **changes)


def test_a_vocabulary_smaller_than_the_bytes_is_told(tmp_path: Path):
    with pytest.raises(RecipeError, match="vocabulary"):
        made(tmp_path / "model", vocabulary=100)


def test_the_command_line(tmp_path: Path):
    app = Typer()
    app.command()(command)
    (tmp_path / "text.txt").write_text("\n\n".join(TEXT))
    small = ["--steps", "2", "--d-model", "32", "--heads", "2", "--d-ff", "32", "--vocabulary", "400"]
    out = tmp_path / "tiny"
    result = CliRunner().invoke(app, [str(tmp_path / "text.txt"), "--output", str(out), *small])
    assert result.exit_code == 0, result.output
    assert "held-out loss" in result.output
    assert "nacre pretrain text.txt --output tiny --d-model 32" in (out / "README.md").read_text()
    for wrong, sentence in (
        (["--output", str(out)], "No text files"),
        (["--demo"], "--output is missing"),
        ([str(tmp_path / "text.txt"), "--demo", "--output", str(out)], "exclude each other"),
    ):
        failed = CliRunner().invoke(app, wrong)
        assert isinstance(failed.exception, NacreError)
        assert sentence in str(failed.exception)


def test_the_embedded_model_is_what_the_defaults_make():
    folder = Path(str(files("nacre.assets"))) / "demo-t5"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
    card = (folder / "README.md").read_text()
    assert "nacre pretrain --demo --output demo-t5\n" in card
    assert all(f"| {name} | {value} |" in card for name, value in asdict(PretrainSettings()).items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert all(len(tokenizer(label, add_special_tokens=False)["input_ids"]) == 1 for label in LABELS)
