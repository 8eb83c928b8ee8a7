"""A gate's verdict: what a new version must keep, what it lost, and whether it may replace the one before it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from nacre.documents import parse_json
from nacre.evaluation.uncertainty import NOTHING
from nacre.files import sealed, to_json, unsealed
from nacre.records.fields import Share

Kept = Literal["kept", "lost", "unclear", "not measured"]
"""Of a requirement. kept: a loss beyond its limit is ruled out; lost: a loss beyond it is shown; unclear: neither."""


Unclear = Literal["fail", "pass"]
Against = Literal["before", "learned"]


class Judgment(BaseModel):
    """What became of one task or benchmark.

    Attributes:
        name: The task's or the benchmark's.
        kind: Which of them it is.
        may_lose: How much of its score it may lose, a fraction.
        against: The version that it is compared with.
        before: Its score there; None where it was not measured.
        after: In the new version; None where it was not measured.
        low: Lower end of the interval of `after` less `before`; None where it was not measured.
        high: Its upper end.
        rows: On how many rows.
        kept: What that says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    kind: Literal["task", "benchmark"]
    may_lose: Share
    against: str
    before: float | None
    after: float | None
    low: float | None
    high: float | None
    rows: int
    kept: Kept

    def passes(self, unclear: Unclear) -> bool:
        """Whether the gate opens, as far as this goes.

        Args:
            unclear: See `GateVerdict`.
        """
        if self.kept != "unclear":
            return self.kept == "kept"
        assert self.before is not None
        assert self.after is not None
        return unclear == "pass" and self.after - self.before >= -self.may_lose - NOTHING


class GateVerdict(BaseModel):
    """The content of a verdict's file.

    Attributes:
        version: The new one.
        before: The one that it was made of.
        task: What was learned, or taken out.
        must_keep: What was asked for, as it was written.
        unclear: What becomes of a score that is neither kept nor lost; `pass`: it passes if its change, as measured, is
            within what may be lost.
        passed: Whether the gate opens.
        judgments: One for each task and benchmark that was to be kept.
        level: Of the intervals.
        samples: Bootstrap draws for them.
        seed: Of these draws.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    schema_: Literal["nacre.verdict/1"] = Field(default="nacre.verdict/1", alias="schema")
    version: str
    before: str
    task: str
    must_keep: str
    unclear: Unclear
    passed: bool
    judgments: list[Judgment]
    level: float
    samples: int
    seed: int

    def as_json(self) -> str:
        """The verdict as JSON text, with its hash."""
        return to_json(sealed(self.model_dump(by_alias=True)))


def read_verdict(text: str) -> GateVerdict:
    """The verdict that `GateVerdict.as_json` wrote.

    Raises:
        ValueError: It is none, or was changed.
    """
    return GateVerdict.model_validate(unsealed(parse_json(text)))
