"""The host's opinion of a label times that of the sums."""

from __future__ import annotations

import math

import torch

from nacre.functional.label_products import WEIGHTS, best_weight, product


def test_a_weight_of_zero_leaves_the_evidence_whatever_the_host_says() -> None:
    host, evidence = torch.tensor([[-math.inf, -1.0], [-2.0, -3.0]]), torch.tensor([[0.5, 0.1], [1.0, 2.0]])
    found = product(host, evidence, torch.tensor([0.0, 2.0]))
    assert torch.equal(found, torch.tensor([[0.5, 0.1], [-3.0, -4.0]]))


def test_the_weight_is_that_at_which_rows_are_least_surprising() -> None:
    generator = torch.Generator().manual_seed(0)
    host = torch.randn(3000, 4, generator=generator, dtype=torch.float64)
    evidence = torch.randn(3000, 4, generator=generator, dtype=torch.float64)
    for weight in WEIGHTS[:-1]:
        truth = torch.multinomial((weight * host + evidence).softmax(1), 1, generator=generator).squeeze(1)
        assert best_weight(host, evidence, truth) == weight


def test_a_host_that_cannot_give_the_right_label_does_not_count() -> None:
    host = torch.tensor([[-math.inf, 0.0]] * 3, dtype=torch.float64)
    assert best_weight(host, torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0, 0, 1])) == 0.0
