"""A metric of a run, as a grid names it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from nacre.evaluation.matrix import RUN_METRICS


def _checked(key: str) -> str:
    known = [metric.key for metric in RUN_METRICS]
    if key not in known:
        raise ValueError(f"there is no metric '{key}'; there are {', '.join(known)}")
    return key


RunMetricKey = Annotated[str, AfterValidator(_checked)]
"""The key of one of `RUN_METRICS`."""
