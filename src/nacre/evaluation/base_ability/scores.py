"""What came out of measuring base ability, as plain values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from nacre.evaluation.base_ability.programs import Outcome

ABILITY_METRICS = {
    "hellaswag": ("acc", "acc_norm"),
    # The same words are scored behind two contexts, so that a length to divide by has no meaning.
    "winogrande": ("acc",),
    "arc_challenge": ("acc", "acc_norm"),
    "humaneval": ("pass@1",),
}
"""What is measured on each task; the last of them is the one that goes into averages."""

DEFINITION = (
    "acc: the choice with the largest summed log-likelihood of its tokens is the right one; acc_norm: the same after "
    "dividing by the choice's characters; of equal ones the first; pass@1: one greedy program passes all its tests; "
    "standard_error: sample deviation over rows / sqrt(rows), of a change that of the row's differences; average: of "
    "acc_norm, or acc where there is none, over the multiple-choice tasks"
)


class Score(BaseModel):
    """A mean over rows. standard_error: null for a single row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    standard_error: float | None


class Programs(BaseModel):
    """How HumanEval's programs came about and how they were run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = "the function's head and docstring, as they are"
    samples: int = Field(default=1, description="programs for each problem")
    temperature: float = Field(default=0.0, description="0: greedy")
    max_new_tokens: int = Field(description="of an answer; less than asked for where the host's positions end")
    limits: dict[str, float] = Field(description="of one program")
    filtered: bool = Field(description="whether system calls were filtered")
    network_cut: bool = Field(description="whether no connection could be made")
    files_kept: bool = Field(description="whether no file could be written or deleted")
    files_hidden: bool | None = Field(
        default=None, description="whether no file but Python's own could be read; None: not tried, by older versions"
    )
    processes_kept: bool | None = Field(
        default=None, description="whether no other process could be sent a signal; None: not tried, by older versions"
    )
    outcomes: dict[Outcome, int] = Field(description="how many programs ended how")


class AbilityScore(BaseModel):
    """The scores of one benchmark.

    `right` is row by row, `log_likelihoods` of each row's choices, `completions` the answers to HumanEval; `truncated`
    counts inputs that were cut, from the left, because the host has too few positions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    rows: int
    scores: dict[str, Score]
    truncated: int
    seconds: float
    right: dict[str, list[bool]]
    log_likelihoods: list[list[float]] | None = None
    completions: list[str] | None = None
    programs: Programs | None = None

    @property
    def headline(self) -> str:
        """The metric that goes into averages."""
        return ABILITY_METRICS[self.task][-1]


def score_of(values: Sequence[float]) -> Score:
    """Mean and standard error of rows' scores, or of their differences."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(value=statistics.fmean(values), standard_error=error)
