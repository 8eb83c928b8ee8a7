"""Text to tensors and back. What only encoder-only hosts do is in ``test_encoder_only``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForTokenClassification

from helpers.tiny import WORDS, tiny_host, tiny_task
from nacre.errors import DataError, ModelError
from nacre.evaluation.decoding import Decoding, answer, token_budget
from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.tasks.template import Example

HOSTS = {name: tiny_host(name) for name in ("t5", "llama")}
ENCODERS = {name: tiny_host(name) for name in ("roberta", "bert")}
NAMES = st.sampled_from(sorted(HOSTS | ENCODERS))


@settings(max_examples=40, deadline=None)
@given(NAMES, st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.integers(8, 40))
def test_only_the_text_is_cut(name: str, words: list[str], limit: int) -> None:
    family = (HOSTS | ENCODERS)[name].family
    example = Example("Is it a dog ? ", " ".join(words), " Answer :", "yes")
    whole, cut = family.encode(example, Lengths(1000, 5)), family.encode(example, Lengths(limit + 10, 5))
    room = family.source_limit(Lengths(limit + 10, 5))
    assert len(cut.source) <= room
    assert cut.truncated == (len(whole.source) > room)
    if not cut.truncated:
        assert cut == whole
    text = family.text(cut.source)
    assert text.startswith("Is it a dog ?")
    assert text.endswith("Answer :")


@pytest.mark.parametrize("limit", range(30, 42))
def test_characters_of_several_tokens_are_cut_too(limit: int) -> None:
    """The embedded model's tokenizer spells unknown characters in bytes: three tokens that end at one place."""
    family = load_host("demo").family
    example = Example("What is it? ", "名前" * 30, " Answer:", "yes")
    cut = family.encode(example, Lengths(limit, 5))
    assert cut.truncated
    assert limit - 6 <= len(cut.source) <= limit


def test_a_prompt_that_leaves_no_room_is_an_error() -> None:
    example = Example("Is it a dog ? " * 5, "the big cat", " Answer :", "yes")
    with pytest.raises(DataError, match="fill the 10 tokens"):
        HOSTS["t5"].family.encode(example, Lengths(10, 5))


def test_positions_limit_the_input() -> None:
    """The tiny Llama has 64 positions, of which an answer of 50 may need most."""
    assert HOSTS["llama"].family.source_limit(Lengths(512, 50)) == 14
    assert HOSTS["t5"].family.source_limit(Lengths(512, 50)) == 512
    assert ENCODERS["bert"].family.source_limit(Lengths(512, 50)) == 64
    # RoBERTa begins to count behind the position of its padding token, which is 0 here and 1 in released models.
    assert ENCODERS["roberta"].family.source_limit(Lengths(512, 50)) == 63
    assert ENCODERS["roberta"].family.source_limit(Lengths(20, 50)) == 20


def test_targets_end_and_continue_the_prompt() -> None:
    example = Example("", "dog", " Answer :", "no")
    for host in HOSTS.values():
        encoded = host.family.encode(example, Lengths(20, 5))
        assert encoded.target[-1] == host.family.end
        assert host.family.text(encoded.target) == "no"
    assert HOSTS["llama"].family.encode(example, Lengths(20, 5)).source[-1] != HOSTS["llama"].family.end


def test_a_decoder_reads_its_prompt_from_the_left() -> None:
    rows = [HOSTS["llama"].family.encode(Example("", text, "", "no"), Lengths(20, 5)) for text in ("dog", "a big dog")]
    prompts = HOSTS["llama"].family.prompts(rows)
    assert prompts["attention_mask"].tolist() == [[0] * 6 + [1, 1], [0] * 4 + [1, 1, 1, 1]]


@pytest.mark.parametrize("name", HOSTS)
def test_answers_do_not_depend_on_the_batch_and_come_in_order(name: str) -> None:
    host = HOSTS[name]
    examples = tiny_task(rows=10).examples("train")
    alone = [answer(host, [[example]], Lengths(), Decoding(batch_size=1), 4)[0][0] for example in examples]
    together = answer(host, [examples[:3], [], examples[3:]], Lengths(), Decoding(batch_size=4), 4)
    assert together == [alone[:3], [], alone[3:]]


@pytest.mark.parametrize("name", HOSTS)
def test_greedy_answers_equal_a_loop_over_arg_max(name: str) -> None:
    host = HOSTS[name]
    row = host.family.encode(tiny_task().examples("test")[0], Lengths())
    written = host.write([row], 5)[0]
    source = torch.tensor([row.source])
    ids = [host.model.config.decoder_start_token_id] if name == "t5" else []
    for _ in range(5):
        with torch.no_grad():
            if name == "t5":
                logits = host.model(input_ids=source, decoder_input_ids=torch.tensor([ids])).logits
            else:
                logits = host.model(input_ids=torch.cat([source, torch.tensor([ids], dtype=torch.long)], 1)).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == host.family.end:
            break
    assert written == host.family.text(ids)


def test_the_token_budget_is_two_more_than_the_longest_label() -> None:
    host = HOSTS["t5"]
    task = tiny_task(labels=("yes", "no"))
    assert token_budget(host, [task], Lengths(), Decoding()) == 2 + 2  # one word and the end token, and two more
    assert token_budget(host, [task], Lengths(), Decoding(max_new_tokens=9)) == 9


def test_hosts_that_cannot_write_are_refused() -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    bert = BertForTokenClassification(config)
    with pytest.raises(ModelError, match=r"BertForTokenClassification cannot write.*or an encoder \(bert, roberta"):
        Host(bert, HOSTS["t5"].tokenizer)


def test_the_fingerprint_is_of_the_weights() -> None:
    assert tiny_host("t5").fingerprint == HOSTS["t5"].fingerprint
    assert tiny_host("t5", seed=1).fingerprint != HOSTS["t5"].fingerprint


def test_the_embedded_model_loads_in_float32() -> None:
    host = load_host("demo")
    assert host.family.name == "encoder-decoder"
    assert {parameter.dtype for parameter in host.model.parameters()} == {torch.float32}
