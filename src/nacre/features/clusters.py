"""Groups of output features that belong together, for masks that keep or leave out whole groups (MIGU, Appendix E)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.site import Site
from nacre.optional import need


def effective_rows(feature_map: FeatureMap) -> Tensor:
    """What each feature computes from the map's input; of an adapted site, base and update together.

    Args:
        feature_map: A linear map.

    Returns:
        [features, d_in].
    """
    if isinstance(feature_map.module, Site):
        effective = feature_map.module.effective_weight()
        assert effective is not None, "a mixture that depends on the input has no rows; the part objects to it"
        return effective
    weight = feature_map.module.weight
    assert isinstance(weight, Tensor)
    return (weight.T if isinstance(feature_map.module, Conv1D) else weight).detach()


def feature_clusters(points: Tensor, clusters: int, seed: int) -> Tensor:
    """Clusters of features by k-means, the same on all processes.

    Args:
        points: A point for each feature, [features, d].
        clusters: How many clusters; fewer where there are fewer features.
        seed: Of k-means' start.

    Returns:
        Each feature's cluster, numbers from 0, [features].

    Raises:
        NacreError: scikit-learn is not installed.
    """
    cluster = need("sklearn.cluster", "Clusters of features (migu.clusters above 0)", "clusters")
    means = cluster.KMeans(min(clusters, len(points)), random_state=seed % 2**32)
    labels = torch.from_numpy(means.fit_predict(points.float().cpu().numpy())).long().to(points.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(labels, 0)  # a different rounding elsewhere must not make other clusters
    return labels
