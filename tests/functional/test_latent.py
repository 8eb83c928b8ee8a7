"""Updates between singular vectors, against products of whole matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from nacre.functional.latent import blended_codes, largest_triplets, squared_cosines


def drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_triplets_are_the_largest_and_their_signs_are_fixed() -> None:
    weight = drawn(7, 5)
    left, sizes, right = largest_triplets(weight.float(), 3)
    assert left.dtype == torch.float64
    expected = torch.linalg.svdvals(weight.float().double())[:3]
    torch.testing.assert_close(sizes, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(weight.float().double() @ right.T, left * sizes, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(left.T @ left, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert all(column[column.abs().argmax()] > 0 for column in left.T)
    mirrored = largest_triplets(-weight.float(), 3)  # U or V turns, and U is held
    torch.testing.assert_close(mirrored[0], left, rtol=0, atol=1e-12)
    torch.testing.assert_close(mirrored[2], -right, rtol=0, atol=1e-12)


def test_a_blend_is_the_sum_of_the_weighted_tasks() -> None:
    codes, cores, weights = drawn(2, 6, 3), drawn(4, 3, 3, seed=3), drawn(2, 4, seed=4)
    expected = torch.stack(
        [
            torch.stack([sum(weights[b, i] * (cores[i] @ codes[b, s]) for i in range(4)) for s in range(6)])  # type: ignore[misc]
            for b in range(2)
        ]
    )
    torch.testing.assert_close(blended_codes(codes, cores, weights), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(blended_codes(codes[:, 0], cores, weights), expected[:, 0], rtol=1e-12, atol=1e-12)


def test_cosines_are_those_of_whole_updates() -> None:
    weights = [drawn(7, 5, seed=seed) for seed in (1, 2)]
    triplets = [largest_triplets(weight, 3) for weight in weights]
    newest, earlier = drawn(2, 3, 3, seed=5), drawn(2, 4, 3, 3, seed=6)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for site, (left, sizes, right) in enumerate(triplets):
        update = left @ torch.diag(sizes) @ newest[site] @ right
        for task in range(4):
            other = left @ torch.diag(sizes) @ earlier[site, task] @ right
            expected[site, task] = (update * other).sum().square() / (update.square().sum() * other.square().sum())
    found = squared_cosines(newest, earlier, torch.stack([sizes for _, sizes, _ in triplets]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_an_update_of_zero_pulls_nothing() -> None:
    """Where a task begins, its update has no direction: the term and its gradient are zero, not undefined."""
    newest = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    found = squared_cosines(newest, drawn(1, 2, 3, 3), torch.ones(1, 3, dtype=torch.float64))
    assert found.tolist() == [[0.0, 0.0]]
    found.sum().backward()
    assert newest.grad is not None
    assert torch.equal(newest.grad, torch.zeros_like(newest))
