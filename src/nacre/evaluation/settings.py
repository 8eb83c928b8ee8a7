"""How to answer: settings alone, which are read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nacre.errors import DataError, RecipeError
from nacre.settings import Settings
from nacre.tasks.task import Task

if TYPE_CHECKING:
    from nacre.method import Method
    from nacre.models.host import Host
    from nacre.models.named import HeadKind

Decode = Literal["free", "labels"]
LabelRule = Literal["sum", "token_mean", "prior", "match_share"]
CandidateSet = Literal["true_task", "routed_task", "union"]

RULES: dict[LabelRule, str] = {
    "sum": "",
    "token_mean": ", divided by the number of tokens",
    "prior": ", less the logarithm of the label's mean share over the validation rows of its task",
    "match_share": ", less what makes the mean shares over the validation rows of its task those of the training rows",
}
CANDIDATES: dict[CandidateSet, str] = {
    "true_task": "labels of the row's own task",
    "routed_task": "labels of the task that the method's routing chose for the row",
    "union": "labels of all tasks learned so far",
}


class Decoding(Settings):
    """Settings of decoding: free and greedy, as in the papers, or the best of a set of labels.

    The latter is always a valid label, so that scores are higher: a run's protocol names the way.
    """

    decode: Decode = Field(
        default="free", description="free: written token after token; labels: the best of the candidates"
    )
    label_scores: LabelRule = Field(
        default="sum",
        description="with decode=labels, the score of a label: the sum of its tokens' log-probabilities, end token "
        "included; their token_mean; the sum less a calibration by the task's validation rows, to a prior of equal "
        "labels or to the training rows' (match_share)",
    )
    candidates: CandidateSet = Field(
        default="true_task",
        description="with decode=labels, which labels compete: those of the row's true_task, of its routed_task, or "
        "the union of all tasks learned so far",
    )
    pseudo_rows: float = Field(
        default=20.0,
        ge=0,
        description="of prior and match_share: how many rows without evidence are added to a task's validation rows",
    )
    batch_size: int = Field(
        default=64, ge=1, description="rows answered at once; fewer where the device's memory does not hold them"
    )
    split_padding: int | None = Field(
        default=1024,
        ge=0,
        description="tokens of padding that are worth one batch more, of rows of like length; None: none are",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="None: two more than the longest label; the targets' limit for free text",
    )

    def model_post_init(self, context: Any, /) -> None:
        """Refuse a choice among labels where none is made."""
        if self.decode == "free" and not self._is_plain:
            raise RecipeError(
                f"label_scores={self.label_scores}, candidates={self.candidates}: free answers are not chosen among "
                "labels; add decode=labels."
            )

    @property
    def calibrates(self) -> bool:
        """Whether a task's validation rows are read when it has been learned."""
        return self.label_scores in ("prior", "match_share")

    def of_own_task(self) -> Decoding:
        """The same for a learner of one task that has no routing, by the plain score."""
        return self.model_copy(update={"label_scores": "sum", "candidates": "true_task"})

    def check(self, tasks: Sequence[Task]) -> None:
        """Check that every task can be answered this way.

        Raises:
            DataError: Labels are to be chosen, and a task has none.
        """
        for task in tasks:
            if self.decode == "labels" and task.kind == "answer" and task.labels is None:
                raise DataError(
                    f"Task '{task.name}' has no labels, so that decode=labels has nothing to choose from: free text "
                    "needs decode=free."
                )

    def check_rows(self, task: Task) -> None:
        """Check that a task that is to be learned has the rows that its labels' scores are calibrated by.

        Raises:
            DataError: If it has none, or if they are those that will be measured.
        """
        if not self.calibrates or not task.labels:
            return
        if not task.validation:
            raise DataError(
                f"Task '{task.name}' has no validation rows, by which label_scores={self.label_scores} calibrates its "
                "labels: take sum or token_mean."
            )
        if task.validation == task.test:
            raise DataError(
                f"The validation rows of task '{task.name}' are measured, and label_scores={self.label_scores} would "
                "calibrate its labels by them: measure test rows, or take sum or token_mean."
            )

    def check_method(self, method: Method, head: HeadKind) -> None:
        """Check that a method's answers can be scored, and its candidates found, this way.

        Raises:
            RecipeError: If they cannot.
        """
        if method.readout is not None and self.label_scores != "sum":
            raise RecipeError(
                f"label_scores={self.label_scores}: {method.display_name} weighs labels by evidence of its own; leave "
                "label_scores at sum."
            )
        routing = method.routing
        routed = method.readout is None and routing is not None and routing.chooses_task(method.adapter)
        if self.candidates == "routed_task" and not routed:
            raise RecipeError(
                f"candidates=routed_task: {method.display_name} answers no row as one task that a routing chose; take "
                "true_task or union."
            )
        if self.candidates != "true_task" and head == "per_task":
            raise RecipeError(
                f"candidates={self.candidates}: with head=per_task the row's task is given and has a head of its own; "
                "take true_task, or head=growing."
            )

    def description(self, host: Host) -> str:
        """The decoding as a run's protocol describes it."""
        if self.decode == "free":
            return host.family.decoding
        if self._is_plain:
            return host.family.label_decoding
        score = "summed log-probability of tokens and end token" if host.family.is_generative else "log-probability"
        return f"of the {CANDIDATES[self.candidates]}, the one with the largest {score}{RULES[self.label_scores]}"

    def protocol(self) -> dict[str, Any]:
        """What a run's protocol says besides: nothing of free answers and of the plain choice of a task's labels."""
        if self._is_plain:
            return {}
        rows = {"pseudo-rows of label scores": self.pseudo_rows} if self.calibrates else {}
        return {"label scores": self.label_scores, "candidates": self.candidates, **rows}

    @property
    def _is_plain(self) -> bool:
        return self.label_scores == "sum" and self.candidates == "true_task"
