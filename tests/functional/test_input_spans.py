"""Directions of inputs against numpy's decompositions, and the shares that bases hold against sums over inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nacre.functional.input_spans import ShareOf, extended_basis, outside, top_directions
from nacre.functional.signs import signs_of


def drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(seed: int, directions: int = 12) -> Tensor:
    """Tokens [200, 12] of very different size in different directions, as hidden states are."""
    return drawn(200, directions, seed=seed) * 2.0 ** -torch.arange(directions) @ drawn(directions, 12, seed=seed + 50)


def moment_of(tokens: Tensor) -> Tensor:
    return tokens.T @ tokens / len(tokens)


def a_basis(count: int) -> Tensor:
    return torch.linalg.qr(drawn(12, count, seed=9))[0].T


def test_the_first_directions_are_those_of_the_moment_outside_the_basis() -> None:
    moment, basis = moment_of(inputs(3)), a_basis(4)
    left, _, _ = np.linalg.svd((np.eye(12) - (basis.T @ basis).numpy()) @ moment.numpy())
    found = top_directions(moment, basis, 3)
    np.testing.assert_allclose(np.abs(np.diag(found.numpy() @ left[:, :3])), 1, rtol=0, atol=1e-10)
    torch.testing.assert_close(found @ basis.T, torch.zeros(3, 4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert all(row[row.abs().argmax()] > 0 for row in found)


def test_there_are_no_more_directions_than_inputs_have() -> None:
    assert len(top_directions(moment_of(inputs(3, directions=2)), a_basis(0), 5)) == 2
    basis = extended_basis(moment_of(inputs(3, directions=2)), a_basis(0), 1.0, "moments")
    assert len(basis) == 2
    assert len(top_directions(moment_of(inputs(3, directions=2)), basis, 5)) == 0


def held(basis: Tensor, tokens: Tensor, of: ShareOf) -> float:
    """The share that a basis holds, by its definition."""
    if of == "inputs":
        return float((tokens @ basis.T).square().sum() / tokens.square().sum())
    moment = moment_of(tokens)
    return float((basis.T @ basis @ moment).square().sum() / moment.square().sum())


@pytest.mark.parametrize("of", ["moments", "inputs"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("before", [0, 3])
def test_a_basis_holds_the_share_with_as_few_directions_as_that_takes(of: ShareOf, share: float, before: int) -> None:
    tokens, basis = inputs(4), a_basis(before)
    found = extended_basis(moment_of(tokens), basis, share, of)
    assert torch.equal(found[:before], basis)
    torch.testing.assert_close(found @ found.T, torch.eye(len(found), dtype=torch.float64), rtol=0, atol=1e-12)
    assert held(found, tokens, of) >= share - 1e-12
    assert len(found) == before or held(found[:-1], tokens, of) < share


def test_all_of_the_inputs_is_every_direction_and_once_held_nothing_is_added() -> None:
    tokens = inputs(5, directions=7)
    for of in ("moments", "inputs"):
        basis = extended_basis(moment_of(tokens), a_basis(0), 1.0, of)
        assert len(basis) == 7
        assert float(outside(tokens, basis).abs().max()) < 1e-5 * float(tokens.abs().max())
        again = extended_basis(moment_of(tokens), basis, 1.0, of)
        assert torch.equal(again[:7], basis)
        assert len(again) == 7


def test_the_released_share_is_of_squared_eigenvalues() -> None:
    """The spectrum 1 / i in 1024 dimensions: nine times as many directions hold 0.995 of it as of its squares."""
    spectrum = 1 / np.arange(1, 1025)
    moment = torch.diag(torch.from_numpy(spectrum))
    shares = {"moments": np.square(spectrum), "inputs": spectrum}
    counts = {of: int(np.argmax(np.cumsum(each) >= 0.995 * each.sum())) + 1 for of, each in shares.items()}
    assert len(extended_basis(moment, moment[:0], 0.995, "moments")) == counts["moments"] == 109
    assert len(extended_basis(moment, moment[:0], 0.995, "inputs")) == counts["inputs"] == 987


def test_signs_are_those_of_the_largest_entries() -> None:
    assert signs_of(torch.tensor([[1.0, -3.0], [2.0, 1.0], [0.0, 0.0]])).tolist() == [[-1.0], [1.0], [0.0]]
