"""The types of numbers in records. None of them is NaN or infinite, which JSON cannot hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)]
"""A score; sums of floats may end a rounding outside of 0 to 1."""

Difference = Annotated[float, Field(ge=-1 - 1e-9, le=1 + 1e-9)]
Number = Annotated[int, Field(ge=0)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
