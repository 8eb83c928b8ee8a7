"""Seeded sampling: a row's samples follow from its seed alone, and they are samples."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from test_one_way_in import Asked

from helpers.tiny import tiny_host, tiny_task
from nacre.errors import ModelError
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.models.sampling import Sampling, SeededDraws
from nacre.seeds import derive

GENERATIVE = ("t5", "bart", "llama", "gpt2")


def rows_of(host: Host, count: int = 8) -> list[Encoded]:
    return [host.family.encode(example, Lengths()) for example in tiny_task().examples("train")[:count]]


def seeds_of(count: int = 8) -> list[int]:
    return [derive(3, "pseudo-samples", "animals", number) for number in range(count)]


@pytest.mark.parametrize("architecture", GENERATIVE)
def test_samples_do_not_depend_on_the_batch_or_on_where_one_resumes(architecture: str) -> None:
    host = tiny_host(architecture, torch.float64)
    rows, seeds = rows_of(host), seeds_of()
    settings = {"max_new_tokens": 6, "top_k": 20, "temperature": 1.3}
    together = host.sample(rows, 3, seeds=seeds, **settings)
    assert [len(texts) for texts in together] == [3] * 8
    assert len({text for texts in together for text in texts}) > 12
    for size in (1, 4):
        parts = [
            host.sample(rows[start : start + size], 3, seeds=seeds[start : start + size], **settings)
            for start in range(0, 8, size)
        ]
        assert [texts for part in parts for texts in part] == together
    torch.manual_seed(99)
    assert host.sample(rows[5:], 3, seeds=seeds[5:], **settings) == together[5:], "after what came before"
    assert [texts[:2] for texts in together] == host.sample(rows, 2, seeds=seeds, **settings)


def test_other_seeds_give_other_samples_and_the_callers_randomness_stays() -> None:
    host = tiny_host("t5")
    rows = rows_of(host)
    own = host.model.generation_config
    state = torch.random.get_rng_state()
    one = host.sample(rows, 1, seeds=[1] * 8, max_new_tokens=6)
    assert host.sample(rows, 1, seeds=[2] * 8, max_new_tokens=6) != one
    assert torch.equal(torch.random.get_rng_state(), state)
    assert host.model.generation_config is own


@pytest.mark.parametrize("top_k", [None, 3])
def test_draws_follow_the_softmax(top_k: int | None) -> None:
    """20,000 draws of one token, against the probabilities: within four standard errors."""
    z = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    kept = z.clone() if top_k is None else z.masked_fill(z < z.topk(top_k).values[-1], -torch.inf)
    probabilities = (kept / 0.7).softmax(-1)
    draws = SeededDraws(Sampling(1, top_k, 0.7), range(20_000))
    picked = Counter(draws(torch.zeros(1), z.expand(20_000, -1)).argmax(-1).tolist())
    for token, p in enumerate(probabilities.tolist()):
        assert abs(picked[token] / 20_000 - p) <= 4 * (p * (1 - p) / 20_000) ** 0.5


def test_one_most_likely_token_is_greedy() -> None:
    host = tiny_host("llama", torch.float64)
    rows = rows_of(host)
    greedy = host.write(rows, 5)
    assert host.sample(rows, 1, seeds=seeds_of(), top_k=1, max_new_tokens=5) == [[text] for text in greedy]


def test_sampling_asks_the_router_once_a_batch() -> None:
    host = tiny_host("t5")
    asked = Asked(host)
    host.sample(rows_of(host, 4), 2, seeds=seeds_of(4), max_new_tokens=3)
    assert asked.sizes == [8]


def test_what_cannot_be_sampled_is_refused() -> None:
    encoder, host = tiny_host("roberta"), tiny_host("t5")
    with pytest.raises(ModelError, match="'tiny-roberta' is encoder-only and cannot write samples"):
        encoder.sample(rows_of(encoder), 1, seeds=seeds_of(), max_new_tokens=3)
    for settings, says in (({"top_k": 0}, "top_k: 0"), ({"temperature": 0.0}, "temperature: 0.0 is not above 0")):
        with pytest.raises(ModelError, match=says):
            host.sample(rows_of(host), 1, seeds=seeds_of(), max_new_tokens=3, **settings)
    with pytest.raises(ModelError, match="max_new_tokens: 0"):
        host.sample(rows_of(host), 1, seeds=seeds_of(), max_new_tokens=0)
