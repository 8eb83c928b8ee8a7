"""Every architecture answers and learns a batch of rows as it would each row alone, and as plain transformers does."""

from __future__ import annotations

import random

import pytest
import torch
from transformers.utils import logging as transformers_logging

from helpers.tiny import WORDS
from helpers.zoo import DECODER_ONLY, ENCODER_DECODER, zoo_host
from nacre.errors import ModelError
from nacre.evaluation.decoding import Decoding, answer
from nacre.functional.losses import IGNORED
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.tasks.template import Example

QUICK = ("lfm2", "m2m_100", "mamba", "openai-gpt", "opt", "recurrent_gemma", "rwkv", "switch_transformers", "xlstm")
"""One of each kind of difference; the others take minutes."""

REFUSED = {
    "prophetnet": "another loss for a row beside others",  # its masks are as wide as the batch's longest target
    "xlnet": "other logits when it writes",  # in training it reads what it is to write
}

ALL = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.long)
    for name in sorted(DECODER_ONLY | ENCODER_DECODER)
    if name not in REFUSED
]
LENGTHS, LABELS = Lengths(100, 12), ("yes", "no maybe", "no", "the big dog sees red", "a cat")


def examples() -> list[Example]:
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.choice((1, 4, 9, 21)))) for _ in range(16)]
    return [Example("", text, " Answer :", LABELS[number % len(LABELS)]) for number, text in enumerate(texts)]


@pytest.fixture(autouse=True)
def quietly() -> None:
    transformers_logging.set_verbosity_error()


def settled(architecture: str, seed: int = 0) -> Host:
    host = zoo_host(architecture, seed)
    host.settle()
    return host


@pytest.mark.parametrize("architecture", ALL)
def test_a_batch_is_answered_as_its_rows_alone(architecture: str) -> None:
    varied = 0
    for seed in range(8):  # some random models say the same to everything
        host = settled(architecture, seed)
        one, many = (
            answer(host, [examples()], LENGTHS, Decoding(batch_size=size, split_padding=None), 6)[0] for size in (1, 16)
        )
        assert one == many
        varied += len(set(one)) > 3
    assert varied > 0


@pytest.mark.parametrize("architecture", ALL)
@torch.no_grad()
def test_labels_are_those_of_brute_force(architecture: str) -> None:
    """Every label's log-probability, from the loss of one row alone."""
    host = settled(architecture)
    rows = [host.family.encode(example, LENGTHS) for example in examples()]
    labels = host.family.label_set(examples()[0], LABELS, LENGTHS)
    likelihoods = torch.tensor([[-alone(host, row.source, label) for label in labels] for row in rows])
    assert host.classify(rows, labels) == likelihoods.argmax(1).tolist()
    assert [host.classify([row], labels)[0] for row in rows] == likelihoods.argmax(1).tolist()


def alone(host: Host, source: tuple[int, ...], target: tuple[int, ...]) -> float:
    return float(host.family.loss_sum(host.model, host.family.batch([Encoded(source, target, truncated=False)])))


@pytest.mark.parametrize("architecture", ALL)
@torch.no_grad()
def test_the_loss_is_the_one_of_plain_transformers(architecture: str) -> None:
    host = settled(architecture)
    rows = [host.family.encode(example, LENGTHS) for example in examples()]
    plain = torch.stack([plain_loss(host, row) for row in rows])
    one_by_one = torch.stack([host.family.loss_sum(host.model, host.family.batch([row])) for row in rows])
    torch.testing.assert_close(one_by_one, plain, rtol=1e-4, atol=1e-4)
    together = host.family.loss_sum(host.model, host.family.batch(rows))
    torch.testing.assert_close(together, plain.sum(), rtol=1e-4, atol=1e-4)


def plain_loss(host: Host, row: Encoded) -> torch.Tensor:
    """Sum over the target's tokens, by the model's own `labels`."""
    if host.family.name == "encoder-decoder":
        inputs, labels = torch.tensor([row.source]), torch.tensor([row.target])
    else:
        inputs = torch.tensor([row.source + row.target])
        labels = torch.tensor([(IGNORED,) * len(row.source) + row.target])
    loss: torch.Tensor = host.model(input_ids=inputs, labels=labels, use_cache=False).loss
    return loss * len(row.target)


@pytest.mark.parametrize(("architecture", "says"), REFUSED.items())
def test_an_architecture_that_computes_two_things_is_refused(architecture: str, says: str) -> None:
    with pytest.raises(ModelError, match=f"'{architecture}' computes {says}"):
        settled(architecture)


def test_the_list_is_long() -> None:
    assert len(ALL) > 80
