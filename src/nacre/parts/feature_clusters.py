"""Groups of output features that belong together, for masks that keep or leave out whole groups (MIGU, Appendix E)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.site import Site
from nacre.errors import RecipeError
from nacre.features.magnitudes import Magnitudes, Tokens
from nacre.parts.part import Learner
from nacre.tasks.template import Example


def effective_rows(found: FeatureMap) -> Tensor:
    """What each feature does to the map's input: [features, d_in]. Of an adapted site: base and update together."""
    if isinstance(found.module, Site):
        effective = found.module.effective_weight()
        assert effective is not None, "a mixture that depends on the input has no rows; the part objects to it"
        return effective
    weight = found.module.weight
    assert isinstance(weight, Tensor)
    return (weight.T if isinstance(found.module, Conv1D) else weight).detach()


@torch.no_grad()
def magnitude_profiles(
    learner: Learner, maps: Sequence[FeatureMap], examples: Sequence[Example], tokens: Tokens
) -> list[Tensor]:
    """Each feature's mean magnitude on the tokens of each example: per map [features, examples]."""
    magnitudes = Magnitudes(learner.adapter.model, maps, tokens, counts=lambda: True)
    try:
        columns = []
        for row in learner.encode(examples):
            learner.loss_sum([row])
            columns.append(magnitudes.take_means())
    finally:
        magnitudes.close()
    return [torch.stack(profile, dim=1) for profile in zip(*columns, strict=True)]


def feature_clusters(points: Tensor, clusters: int, seed: int) -> Tensor:
    """The cluster of each feature, by k-means: points [features, d] -> [features], numbers from 0.

    clusters: how many; fewer where there are fewer features. The same on all processes.

    Raises ``RecipeError`` if scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise RecipeError("clusters need scikit-learn: pip install 'nacre[clusters]', or set clusters=0.") from None
    means = KMeans(min(clusters, len(points)), random_state=seed % 2**32)
    labels = torch.from_numpy(means.fit_predict(points.float().cpu().numpy())).long().to(points.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(labels, 0)  # a different rounding elsewhere must not make other clusters
    return labels
