"""DAS's equations against float64 loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.soft_masks import contrast, mean_over_tokens, normalized_importance, state_divergence


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_importance_is_the_absolute_tanh_of_the_z_score() -> None:
    raw = draw(7).abs()
    mean = sum(raw.tolist()) / 7
    spread = math.sqrt(sum((value - mean) ** 2 for value in raw.tolist()) / 6)
    expected = [abs(math.tanh((value - mean) / spread)) for value in raw.tolist()]
    assert normalized_importance(raw).tolist() == pytest.approx(expected, rel=1e-12)
    assert normalized_importance(5 * raw).tolist() == pytest.approx(expected, rel=1e-12), "scale does not matter"
    three = normalized_importance(torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).tolist()
    assert three == pytest.approx([math.tanh(0.5)] * 3 + [math.tanh(1.5)])


@pytest.mark.parametrize("raw", [[0.0, 0.0, 0.0], [2.0, 2.0], [3.0]])
def test_units_that_are_all_alike_are_not_important(raw: list[float]) -> None:
    assert normalized_importance(torch.tensor(raw)).tolist() == [0.0] * len(raw)


def test_the_divergence_of_states_leaves_padding_out() -> None:
    one, other = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    counted = torch.tensor([[True, True, False], [False, True, True]])
    expected = []
    for row in range(2):
        total, number = 0.0, 0
        for token in range(3):
            if counted[row, token]:
                p, q = (each[row, token].exp() / each[row, token].exp().sum() for each in (one, other))
                total += float((p * (p.log() - q.log())).sum())
                number += 1
        expected.append(total / number)
    assert state_divergence(one, other, counted).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_divergence_from_itself_has_no_gradient() -> None:
    """Not even rounding, which a z-score would blow up."""
    states = (10 * draw(2, 3, 64)).float()
    leaf = states.clone().requires_grad_()
    found = state_divergence(leaf, states, torch.ones(2, 3, dtype=torch.bool))
    found.sum().backward()
    assert found.tolist() == [0.0, 0.0]
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_rows_are_pooled_over_the_tokens_that_count() -> None:
    states, counted = draw(2, 3, 4), torch.tensor([[True, False, True], [False, True, False]])
    expected = torch.stack([(states[0, 0] + states[0, 2]) / 2, states[1, 1]])
    assert (mean_over_tokens(states, counted) - expected).abs().max() < 1e-12


def naive_contrast(full: Tensor, again: Tensor, known: Tensor | None, temperature: float) -> float:
    def similar(one: Tensor, other: Tensor) -> float:
        dot = sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))
        return math.exp(
            dot / math.sqrt(sum(a * a for a in one.tolist()) * sum(b * b for b in other.tolist())) / temperature
        )

    loss = 0.0
    for n in range(len(full)):
        below = sum(similar(full[n], again[m]) for m in range(len(full)))
        below += sum(similar(full[n], known[m]) for m in range(len(full))) if known is not None else 0.0
        loss -= math.log(similar(full[n], again[n]) / below) / len(full)
    return loss


@pytest.mark.parametrize("with_known", [True, False])
def test_the_contrast_against_a_loop(with_known: bool) -> None:
    full, again, known = draw(4, 6), draw(4, 6, seed=1), draw(4, 6, seed=2) if with_known else None
    assert float(contrast(full, again, known, 0.3)) == pytest.approx(naive_contrast(full, again, known, 0.3), rel=1e-12)
    leaves = [tensor.clone().requires_grad_() for tensor in (full, again, known) if tensor is not None]
    assert torch.autograd.gradcheck(
        lambda *given: contrast(given[0], given[1], given[2] if with_known else None, 0.3), leaves
    )


def test_a_row_is_its_own_pair() -> None:
    """Each row has a direction of its own: only where a row's second pass is its own is the loss small."""
    rows = torch.eye(4, dtype=torch.float64)
    assert float(contrast(rows, rows, None, 0.05)) < 1e-8
    assert float(contrast(rows, rows.roll(1, 0), None, 0.05)) > 19
    assert float(contrast(rows[:1], draw(1, 4), None, 0.05)) == 0.0, "one row alone has nothing to be told from"
