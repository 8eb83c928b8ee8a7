"""A metric of a run, as a grid names it: of its score matrix, or of what its probes found."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from nacre.evaluation.matrix import RunMetric
from nacre.records.probe import ProbeMetric
from nacre.records.run import all_metrics


def metric_of(key: str) -> RunMetric | ProbeMetric:
    """The metric of this key.

    Raises:
        ValueError: If there is none.
    """
    known = {metric.key: metric for metric in all_metrics()}
    if key not in known:
        raise ValueError(f"there is no metric '{key}'; there are {', '.join(known)}")
    return known[key]


def _checked(key: str) -> str:
    metric_of(key)
    return key


RunMetricKey = Annotated[str, AfterValidator(_checked)]
"""The key of one of `all_metrics()`."""
