"""The plane that shows the most of how points lie apart, against the eigenvectors of their covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nacre.functional.principal_plane import principal_plane


def naive(points: np.ndarray) -> tuple[np.ndarray, float]:
    centered = points - points.sum(0) / len(points)
    covariance = sum(np.outer(row, row) for row in centered)
    values, vectors = np.linalg.eigh(covariance)
    positions = np.zeros((len(points), 2))
    for axis, number in enumerate((-1, -2)):
        vector = vectors[:, number]
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        positions[:, axis] = [sum(a * b for a, b in zip(row, vector, strict=True)) for row in centered]
    return positions, float((values[-1] + values[-2]) / values.sum())


@pytest.mark.parametrize(("count", "width"), [(7, 5), (3, 12), (40, 2)])
def test_it_is_that_of_the_two_largest_eigenvalues(count: int, width: int) -> None:
    points = torch.randn(count, width, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    found, shown = principal_plane(points)
    positions, share = naive(points.numpy())
    assert torch.allclose(found, torch.from_numpy(positions), atol=1e-10)
    assert shown == pytest.approx(share, abs=1e-12)
    # Nothing is drawn farther apart than it is, and where it lies does not matter.
    apart, drawn = ((own.unsqueeze(0) - own.unsqueeze(1)).norm(dim=2) for own in (points, found))
    assert bool((drawn <= apart + 1e-9).all())
    assert torch.allclose(principal_plane(points + 5)[0], found, atol=1e-10)


def test_a_line_has_no_second_axis() -> None:
    found, shown = principal_plane(torch.tensor([[0.0, 0.0, 0.0], [0.0, -3.0, 4.0]]))
    assert torch.allclose(found[0] - found[1], torch.tensor([-5.0, 0.0], dtype=torch.float64))
    assert shown == pytest.approx(1.0)
    in_one, _ = principal_plane(torch.tensor([[1.0], [3.0]]))
    assert in_one.tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_points_that_are_one_lie_in_the_middle() -> None:
    found, shown = principal_plane(torch.ones(3, 4))
    assert found.tolist() == [[0.0, 0.0]] * 3
    assert shown == 1.0
