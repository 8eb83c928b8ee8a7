"""The host's opinion of a label times that of the sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from nacre.functional.label_products import WEIGHTS, best_products, best_weight, product


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


# The best label, where the host is asked about few


def asked_of(
    host: Tensor,
) -> tuple[Callable[[Sequence[int], Sequence[int]], Tensor], list[tuple[list[int], list[int]]]]:
    """Who answers for the host, and what it has been asked."""
    asked: list[tuple[list[int], list[int]]] = []

    def ask(rows: Sequence[int], labels: Sequence[int]) -> Tensor:
        asked.append((list(rows), list(labels)))
        return host[list(rows)][:, list(labels)]

    return ask, asked


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("first", [1, 4, 100])
def test_the_best_label_is_that_of_all_products(spread: float, first: int) -> None:
    """Also where labels are alike, where the host can give few of them, and where nothing is known of some."""
    generator = torch.Generator().manual_seed(int(10 * spread))
    for _ in range(50):
        host = torch.randn(6, 30, generator=generator).mul(3).log_softmax(1)
        host[torch.rand(6, 30, generator=generator) < 0.3] = -math.inf
        evidence = spread * torch.randint(-9, 1, (6, 30), generator=generator).double()
        evidence[torch.rand(6, 30, generator=generator) < 0.2] = -math.inf
        weights = torch.tensor([0.0, 0.125, 0.5, 1.0, 2.0, 8.0], dtype=torch.float64)
        ask, asked = asked_of(host)
        expected = product(host, evidence, weights).argmax(1)
        assert best_products(ask, evidence, weights, first).tolist() == expected.tolist()
        assert len({(row, label) for rows, labels in asked for row in rows for label in labels}) == sum(
            len(rows) * len(labels) for rows, labels in asked
        ), "nothing is asked twice"


def test_the_host_is_not_asked_about_labels_that_cannot_be_the_best() -> None:
    evidence = torch.tensor([[0.0, -1.0, -30.0, -40.0, -50.0], [-60.0, -50.0, 0.0, -2.0, -40.0]], dtype=torch.float64)
    host = torch.tensor([[-5.0, -1.0, 0.0, 0.0, 0.0], [-70.0, -70.0, -60.0, -70.0, -1.0]])
    ask, asked = asked_of(host)
    assert best_products(ask, evidence, torch.ones(2, dtype=torch.float64), first=2).tolist() == [1, 4]
    # Of the second row, labels 0, 1 and 4 are open when 2 and 3 have been asked about, and have been for both rows.
    assert asked == [([0, 1], [0, 1, 2, 3]), ([1], [4])]


def test_the_host_is_not_asked_where_it_does_not_count() -> None:
    ask, asked = asked_of(torch.zeros(2, 3))
    evidence = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]], dtype=torch.float64)
    assert best_products(ask, evidence, torch.zeros(2, dtype=torch.float64)).tolist() == [1, 0]
    assert asked == []
