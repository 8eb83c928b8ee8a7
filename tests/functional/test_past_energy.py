"""ELLA's penalty against loops over every entry, in both forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nacre.functional.past_energy import energy_in_rank_space, energy_where, is_small_in_rank_space
from nacre.functional.products import sum_of_measures


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(up: Tensor, down: Tensor, past: list[tuple[Tensor, Tensor]], scale: float) -> tuple[float, Tensor]:
    """||D * P||_F^2 and its gradient with respect to D, 2 P P D, entry by entry."""
    total, slope = 0.0, torch.zeros(len(up), down.shape[1], dtype=torch.float64)
    for row in range(len(up)):
        for column in range(down.shape[1]):
            new = scale * math.fsum(b * a for b, a in zip(up[row].tolist(), down[:, column].tolist(), strict=True))
            old = scale * math.fsum(
                b * a for u, d in past for b, a in zip(u[row].tolist(), d[:, column].tolist(), strict=True)
            )
            total += (new * old) ** 2
            slope[row, column] = 2 * old * old * new
    return total, slope


@pytest.mark.parametrize(("tasks", "rank", "d_out", "d_in"), [(1, 1, 4, 3), (2, 3, 7, 5), (5, 2, 5, 9)])
def test_both_forms_and_their_gradients_are_those_of_the_entries(tasks: int, rank: int, d_out: int, d_in: int) -> None:
    scale = 1.5
    past = [(draw(d_out, rank, seed=2 * task), draw(rank, d_in, seed=2 * task + 1)) for task in range(tasks)]
    past_up, past_down = torch.cat([u for u, _ in past], 1), torch.cat([d for _, d in past])
    start = draw(d_out, rank, seed=50), draw(rank, d_in, seed=51)
    value, slope = naive(*start, past, scale)
    for form in ("dense", "rank space"):
        up, down = (each.clone().requires_grad_() for each in start)
        if form == "dense":
            found = sum_of_measures([(up, down, energy_where(scale * past_up @ past_down, scale=scale))])
        else:
            found = energy_in_rank_space(up[None], down[None], past_up[None], past_down[None], scale=scale).sum()
        found.backward()
        assert found.item() == pytest.approx(value, rel=1e-12), form
        torch.testing.assert_close(up.grad, scale * slope @ down.detach().T, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(down.grad, scale * up.detach().T @ slope, rtol=1e-11, atol=1e-11)


def test_sites_side_by_side_are_the_same_as_alone() -> None:
    up, down, past_up, past_down = (
        draw(3, 6, 2, seed=1),
        draw(3, 2, 5, seed=2),
        draw(3, 6, 4, seed=3),
        draw(3, 4, 5, seed=4),
    )
    together = energy_in_rank_space(up, down, past_up, past_down, scale=0.5)
    alone = [
        energy_in_rank_space(up[n, None], down[n, None], past_up[n, None], past_down[n, None], scale=0.5)
        for n in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=0)


def test_rank_space_is_chosen_for_few_tasks_of_wide_maps() -> None:
    assert is_small_in_rank_space(4096, 4096, 8, 8)
    assert not is_small_in_rank_space(4096, 4096, 8, 8 * 14)
    assert not is_small_in_rank_space(384, 384, 8, 8)
    assert is_small_in_rank_space(384, 384, 2, 2)
