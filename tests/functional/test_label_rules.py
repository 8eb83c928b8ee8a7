"""Rules on labels' log-probabilities: what they must not change, what they must, and the same by other ways."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.label_rules import prior_offsets, share_offsets, token_means


def scores_of(rows: int, labels: int, spread: float = 2.0, seed: int = 0) -> Tensor:
    return spread * torch.randn(rows, labels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(scores: list[float]) -> list[float]:
    terms = [math.exp(score - max(scores)) for score in scores]
    return [term / math.fsum(terms) for term in terms]


def shares_after(scores: Tensor, offsets: Tensor) -> list[float]:
    rows = [softmax((row - offsets).tolist()) for row in scores]
    return [math.fsum(row[label] for row in rows) / len(rows) for label in range(len(offsets))]


def centered(values: list[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def test_labels_of_one_token_keep_their_scores() -> None:
    scores = scores_of(5, 4)
    assert torch.equal(token_means(scores, torch.ones(4, dtype=torch.long)), scores)
    assert torch.equal(token_means(scores, torch.tensor([1, 2, 4, 8]))[:, 2], scores[:, 2] / 4)


def test_the_prior_of_two_rows() -> None:
    """A branch that always says (0.9, 0.1) and (0.7, 0.3): q = (0.8, 0.2)."""
    scores = torch.tensor([[0.9, 0.1], [0.7, 0.3]]).double().log()
    expected = centered([math.log(0.8 + 1e-9), math.log(0.2 + 1e-9)])
    assert prior_offsets(scores, 0).tolist() == pytest.approx(expected, abs=1e-7)  # the shares came in float32
    shrunk = centered([math.log((1.6 + 10) / 22 + 1e-9), math.log((0.4 + 10) / 22 + 1e-9)])
    assert prior_offsets(scores, 20).tolist() == pytest.approx(shrunk, abs=1e-7)


@pytest.mark.parametrize("pseudo_rows", [0.0, 7.5])
def test_the_prior_row_by_row(pseudo_rows: float) -> None:
    scores = scores_of(11, 3)
    rows = [softmax(row) for row in scores.tolist()]
    mean = [(math.fsum(row[label] for row in rows) + pseudo_rows / 3) / (11 + pseudo_rows) for label in range(3)]
    expected = centered([math.log(value + 1e-9) for value in mean])
    assert prior_offsets(scores, pseudo_rows).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spread", [0.5, 5.0, 60.0])
@pytest.mark.parametrize("labels", [2, 5])
def test_the_labels_get_the_shares_that_are_wanted(labels: int, spread: float) -> None:
    """Also where nearly every row is sure, so that only a few can be moved."""
    scores = scores_of(40, labels, spread)
    wanted = torch.arange(1.0, labels + 1, dtype=torch.float64) / sum(range(1, labels + 1))
    offsets = share_offsets(scores, wanted, 0)
    assert shares_after(scores, offsets) == pytest.approx(wanted.tolist(), abs=1e-9)
    assert float(offsets.sum()) == pytest.approx(0, abs=1e-9)


def test_pseudo_rows_are_rows_that_have_the_shares_already() -> None:
    scores, wanted = scores_of(26, 3), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    offsets = share_offsets(scores, wanted, 20)
    rows = torch.cat([scores, wanted.log().expand(20, 3)])
    assert shares_after(rows, offsets) == pytest.approx(wanted.tolist(), abs=1e-9)
    plain, many = share_offsets(scores, wanted, 0), share_offsets(scores, wanted, 1e6)
    assert many.abs().max() < 1e-2 < offsets.abs().max() < plain.abs().max()


def test_the_shares_by_the_plain_iteration() -> None:
    """b += log(mean) - log(share) ends at the same place."""
    scores, wanted = scores_of(30, 4, 1.0), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    offsets = torch.zeros(4, dtype=torch.float64)
    for _ in range(2000):
        offsets = offsets + (scores - offsets).softmax(1).mean(0).log() - wanted.log()
    torch.testing.assert_close(share_offsets(scores, wanted, 0), offsets - offsets.mean(), rtol=0, atol=1e-9)


def test_a_bias_of_one_label_changes_no_answer_by_shares() -> None:
    """It moves those by the prior, whose q is a mean of softmaxes."""
    scores, wanted = scores_of(200, 3), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    biased = scores + torch.tensor([0.0, 1.5, 0.0], dtype=torch.float64)
    plain = scores - share_offsets(scores, wanted, 0)
    moved = biased - share_offsets(biased, wanted, 0)
    torch.testing.assert_close(moved - moved.mean(1, keepdim=True), plain - plain.mean(1, keepdim=True))
    by_prior = [(each - prior_offsets(each, 0)).argmax(1) for each in (scores, biased)]
    assert not torch.equal(*by_prior)


@pytest.mark.parametrize("bias", [0.0, 1.5, -2.0])
def test_shares_keep_the_true_prior_where_the_prior_goes_to_equal_labels(bias: float) -> None:
    """A calibrated classifier of labels with shares of .62 and .38, and then one label's log-probability moved."""
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor([0.62, 0.38], dtype=torch.float64)
    truth = torch.multinomial(wanted, 20_000, replacement=True, generator=generator)
    read = 2 * truth - 1 + 1.8 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    likelihoods = torch.stack([-((read - mean) ** 2) / (2 * 1.8**2) for mean in (-1, 1)], 1)
    calibrated = (likelihoods + wanted.log()).log_softmax(1)
    scores = (calibrated + torch.tensor([bias, 0.0], dtype=torch.float64)).log_softmax(1)

    def measured(scores: Tensor) -> tuple[float, float]:
        """Accuracy and macro recall."""
        right = scores.argmax(1) == truth
        recalls = [float(right[truth == label].double().mean()) for label in (0, 1)]
        return float(right.double().mean()), sum(recalls) / 2

    best, of_best = measured(calibrated)
    by_shares, _ = measured(scores - share_offsets(scores, wanted, 0))
    assert by_shares == pytest.approx(best, abs=2e-3)
    by_prior, of_prior = measured(scores - prior_offsets(scores, 0))
    assert of_prior > of_best
    if bias == 0:
        assert by_prior < best
    else:
        assert measured(scores)[0] < min(by_prior, by_shares)


def test_a_constant_of_a_row_changes_nothing() -> None:
    scores, wanted = scores_of(20, 3), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    moved = scores + scores_of(20, 1, 30.0, seed=1)
    for pseudo_rows in (0.0, 20.0):
        torch.testing.assert_close(prior_offsets(moved, pseudo_rows), prior_offsets(scores, pseudo_rows))
        torch.testing.assert_close(
            share_offsets(moved, wanted, pseudo_rows), share_offsets(scores, wanted, pseudo_rows)
        )


def test_the_order_of_rows_does_not_matter() -> None:
    scores, wanted = scores_of(50, 4), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    for offsets in (lambda rows: prior_offsets(rows, 20), lambda rows: share_offsets(rows, wanted, 20)):
        torch.testing.assert_close(offsets(scores.flip(0)), offsets(scores), rtol=0, atol=1e-12)


def test_rows_that_can_be_given_no_label_say_nothing() -> None:
    scores, wanted = scores_of(6, 2), torch.tensor([0.7, 0.3], dtype=torch.float64)
    more = torch.cat([scores, torch.full((3, 2), -math.inf)])
    assert torch.equal(prior_offsets(more, 0), prior_offsets(scores, 0))
    assert torch.equal(share_offsets(more, wanted, 0), share_offsets(scores, wanted, 0))
    none = torch.full((3, 2), -math.inf)
    for offsets in (prior_offsets(none, 0), share_offsets(none, wanted, 0), prior_offsets(none, 20)):
        assert offsets.tolist() == [0, 0]
    assert share_offsets(none, wanted, 20).tolist() == pytest.approx([0, 0], abs=1e-12)


def test_a_label_that_some_rows_cannot_be_given_has_finite_offsets() -> None:
    scores = torch.tensor([[0.0, -math.inf], [-1.0, 0.5], [2.0, -math.inf]])
    wanted = torch.tensor([0.6, 0.4], dtype=torch.float64)
    for offsets in (prior_offsets(scores, 0), share_offsets(scores, wanted, 0)):
        assert bool(offsets.isfinite().all())
