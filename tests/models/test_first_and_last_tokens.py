"""Training and answering begin and end with the same tokens, whatever the architecture and its tokenizer."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils import chat_template_utils

from helpers.tiny import WORDS, tiny_host, tiny_task, tokenizer
from nacre.errors import DataError, ModelError, RecipeError
from nacre.evaluation.decoding import Decoding
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_ft import seq_ft
from nacre.methods.seq_lora import seq_lora
from nacre.models.conversations import Chat
from nacre.models.families import Lengths
from nacre.models.generative import DecoderOnly
from nacre.models.host import Host
from nacre.models.seam import joint_of
from nacre.tasks.template import Example, Turn

SIZES: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 128,
    "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.1,
}  # fmt: skip


def mbart(start: str | None = "ro_RO") -> Host:
    """mBART with its own tokenizer, whose targets end `</s> ro_RO`, and whose decoder begins with the language."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -1.0) for word in dict.fromkeys(WORDS)] + [("▁", -2.0)]
    words = MBartTokenizer(vocab=pieces, src_lang="en_XX", tgt_lang="ro_RO")
    first = words.convert_tokens_to_ids(start) if start else None
    torch.manual_seed(0)
    config = MBartConfig(vocab_size=len(words), decoder_start_token_id=first, **SIZES)
    return Host(MBartForConditionalGeneration(config).eval(), words, "mbart")


def shifting_itself(name: str) -> Host:
    words = tokenizer("encoder-decoder")
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    if name == "m2m100":
        config: Any = M2M100Config(vocab_size=len(words), **SIZES, **ids)
        return Host(M2M100ForConditionalGeneration(config).eval(), words, name)
    config = BlenderbotConfig(vocab_size=len(words), **SIZES, **ids)
    return Host(BlenderbotForConditionalGeneration(config).eval(), words, name)


def encoder_decoder(name: str) -> Host:
    return {"mbart": mbart, "t5": lambda: tiny_host("t5"), "bart": lambda: tiny_host("bart")}.get(
        name, lambda: shifting_itself(name)
    )()


@pytest.mark.parametrize("name", ["t5", "bart", "mbart", "m2m100", "blenderbot"])
def test_the_decoder_begins_in_training_as_in_answers(name: str) -> None:
    host = encoder_decoder(name)
    rows = [host.family.encode(Example("", "the big dog", "", target), Lengths()) for target in ("yes", "a big cat")]
    batch = host.family.batch(rows)
    generated = host.model.generate(**host.family.prompts(rows), max_new_tokens=1, do_sample=False)  # type: ignore[operator]
    assert batch["decoder_input_ids"][:, 0].tolist() == generated[:, 0].tolist()
    assert [row.target.count(host.family.end) for row in rows] == [1, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["t5", "bart", "mbart", "m2m100", "blenderbot"])
def test_the_loss_is_the_one_that_transformers_computes(name: str) -> None:
    host = encoder_decoder(name)
    row = host.family.encode(Example("", "the big dog", "", "a big cat"), Lengths())
    labels = torch.tensor([host.tokenizer(text_target="a big cat")["input_ids"]])
    with torch.no_grad():
        plain = host.model(input_ids=torch.tensor([row.source]), labels=labels).loss
        own = host.family.loss_sum(host.model, host.family.batch([row]))
    assert len(row.target) == labels.shape[1]
    torch.testing.assert_close(own / len(row.target), plain)


@pytest.mark.parametrize("name", ["mbart", "m2m100", "blenderbot"])
def test_what_is_learned_is_answered(name: str) -> None:
    host, task = encoder_decoder(name), replace(tiny_task(), test=tiny_task().train)
    learner = Learner(host, seq_ft(), optim=Optim(learning_rate=2e-3, epochs=300, batch_size=12))
    learner.learn(task)
    assert learner.evaluate([task])[0].accuracy == 1


def test_a_cut_target_keeps_the_first_token() -> None:
    """mBART's own shift takes the last token to the front, which would be a word then."""
    family = mbart().family
    row = family.encode(Example("", "the dog", "", "a big old red dog"), Lengths(target=3))
    assert len(row.target) == 3
    first = int(family.batch([row])["decoder_input_ids"][0, 0])
    assert family.tokenizer.convert_ids_to_tokens(first) == "ro_RO"


@pytest.mark.parametrize(("start", "says"), [(None, "begins with 'ro_RO'"), ("en_XX", "in answers with 'en_XX'")])
def test_a_decoder_that_would_begin_in_two_ways_is_refused(start: str | None, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        mbart(start)


@pytest.mark.parametrize(
    ("start", "says"),
    [(None, "does not say what its decoder begins with"), (999, "999, and the decoder has embeddings")],
)
def test_a_decoder_that_cannot_begin_is_refused(start: int | None, says: str) -> None:
    host = tiny_host("t5")
    own: Any = host.model.generation_config
    own.decoder_start_token_id, own.bos_token_id = start, None
    with pytest.raises(ModelError, match=says):
        Host(host.model, host.tokenizer)


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed by the tokenizer"])
@pytest.mark.parametrize("end", ["", "</s>", " </s> </s>"])
def test_a_prompt_loses_no_end_token_but_the_tokenizers(end: str, closes: bool) -> None:
    host = tiny_host("llama")
    words = tokenizer("encoder-decoder") if closes else host.tokenizer  # the first closes every text
    family = Host(host.model, words).family
    row = family.encode(Example("", f"the big dog{end}", "", "yes"), Lengths())
    assert row.source.count(words.eos_token_id) == end.count("</s>")
    assert family.text(row.target) == "yes"
    assert row.target[0] == words.convert_tokens_to_ids("yes")


def bare_tokenizer() -> PreTrainedTokenizerFast:
    """Adds nothing to a text, as GPT-2's, Qwen's and SmolLM's."""
    core = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1} | {w: n for n, w in enumerate(WORDS, 2)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")


def test_texts_that_follow_one_another_are_told_apart() -> None:
    texts = ["the big dog sees a cat", "one old stone", "a small hen </s>"]
    examples = [Example("", text, "", "", "text") for text in texts]
    model = tiny_host("llama").model
    adds_nothing, begins = Host(model, bare_tokenizer()).family, tiny_host("llama").family
    assert isinstance(adds_nothing, DecoderOnly)
    assert isinstance(begins, DecoderOnly)
    (row,) = adds_nothing.encode_all(examples, Lengths(40, 5))
    read = adds_nothing.tokenizer.decode(row.source + row.target)
    assert read == "the big dog sees a cat </s> one old stone </s> a small hen </s>"
    (row,) = begins.encode_all(examples[:2], Lengths(40, 5))
    assert begins.tokenizer.decode(row.source + row.target) == "<s> the big dog sees a cat <s> one old stone"
    assert (adds_nothing.separates_texts, begins.separates_texts) == (False, True)


@pytest.mark.parametrize(
    ("prompt", "answer", "between"),
    [
        ("The sky is", "blue", " "),
        ("The sky is", " blue", ""),
        ("The sky is ", "blue", ""),
        ("Answer:\n", "blue", ""),
        ("<|user|>Hi<|assistant|>", "Hello", ""),
        ("<|user|>Hi\nassistant:", "Hello", ""),
        ("Hello there<|end|>", "Hi", ""),
        ("a < b | c", "yes", " "),
        ("答案：", "蓝色", ""),
        ("天空是什么颜色?", "蓝色", ""),
        ("答えは何ですか", "blue", ""),
        ("คำตอบ", "ดี", ""),
        ("색은 무엇입니까?", "파랑", " "),
        ("", "blue", ""),
        ("x=", "1", ""),
        ("x =", "1", " "),
        ("x+=", "1", ""),
        ("x +=", "1", " "),
        ("if x==", "1:", ""),
        ("a := b ==", "1", " "),
        ("print(", "x)", ""),
        ("print (", "x)", ""),
        ("xs[", "0]", ""),
        ('print("', 'Hello")', ""),
        ('print("Hello"', "+ x)", " "),
        ('x="', 'blue"', ""),
        ('x=""', "# empty", " "),
        ("He said “", "yes”", ""),
        ("He said “no”", "and left", " "),
        ('"', 'yes"', ""),
        ("the dogs'", "owner", " "),
        ("from src/nacre/", "models", ""),
        ("either/", "or", ""),
        ("f(x) = y /", "z", " "),
        ("C:\\", "Users", ""),
        ("@", "property", ""),
        ("Is it Java or C++", "Java", " "),
        ("Is it F or C#", "F", " "),
        ("def f():", "pass", " "),
        ("import os <EOL>", "import sys", " "),
        ("The capital of France is ____", "Paris", " "),
        ("The end.", "Next", " "),
    ],
)
def test_a_space_stands_where_words_have_one(prompt: str, answer: str, between: str) -> None:
    assert joint_of(prompt, answer, {"<|user|>", "<|assistant|>", "<|end|>"}) == between


DATED = (
    "Today: {{ strftime_now('%d %b %Y') }} {% for m in messages %}{% if m.role == 'assistant' %}Answer {% endif %}"
    "{{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}Answer {% endif %}"
)


def test_a_conversation_is_written_out_on_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever day it is: the same prompts, and so the same numbers, which the protocol dates."""

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Tomorrow:
            return cls(2031, 5, 6)

    words = bare_tokenizer()
    words.chat_template = DATED
    turns = [Turn("user", "the dog", learned=False), Turn("assistant", "yes", learned=True)]
    today = Chat(words).pieces(turns)
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert Chat(words).pieces(turns) == today
    assert "26 Jul 2024" in today[0].text
    assert Chat(words).day == "2024-07-26"
    words.chat_template = DATED.removeprefix("Today: {{ strftime_now('%d %b %Y') }} ")
    assert Chat(words).day is None
    words.chat_template = "{% set form = '%d' %}{{ strftime_now(form) }}"
    with pytest.raises(DataError, match="today's date"):
        Chat(words)


@pytest.mark.parametrize(
    ("architecture", "optim", "decoding", "says"),
    [
        ("gpt2", {}, {"max_new_tokens": 100}, "evaluation.max_new_tokens = 100: the model has 64 positions"),
        ("llama", {"max_target_length": 20}, {"max_new_tokens": 21}, "behind inputs of up to 44 tokens"),
        ("gpt2", {"max_target_length": 5000}, {}, "optim.max_target_length = 5000: the model has 64 positions"),
        ("bart", {}, {"max_new_tokens": 65}, "evaluation.max_new_tokens = 65: the model has 64 positions"),
        ("bart", {"max_target_length": 65}, {}, "optim.max_target_length = 65"),
    ],
)
def test_answers_that_the_positions_do_not_hold_are_refused(
    architecture: str, optim: dict[str, Any], decoding: dict[str, Any], says: str
) -> None:
    host = tiny_host(architecture)
    with pytest.raises(RecipeError, match=says):
        Learner(host, seq_lora(), optim=Optim(**optim), decoding=Decoding(**decoding))
    Learner(host, seq_lora())


@pytest.mark.parametrize("architecture", ["gpt2", "bart", "t5"])
def test_answers_that_the_positions_hold_are_written(architecture: str) -> None:
    most = {"gpt2": 20, "bart": 63, "t5": 200}[architecture]
    learner = Learner(
        tiny_host(architecture), seq_lora(), optim=Optim(max_target_length=20), decoding=Decoding(max_new_tokens=most)
    )
    assert len(learner.predict(["the dog " * 40])) == 1
