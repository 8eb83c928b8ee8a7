"""Test prompts in other words than the training prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from nacre.errors import DataError
from nacre.tasks.making.made_task import Change
from nacre.tasks.published.catalog import INSTRUCTIONS
from nacre.tasks.task import Task

OPTIONS_CUE = "Possible answers:"
"""What stands before the options, for the published `Option:`."""

WORDINGS: dict[str, tuple[str, ...]] = {
    INSTRUCTIONS["SC"]: (
        "How does the writer of this paragraph feel? Pick one of the possible answers.",
        "Read the text and say how positive or negative it is, with one of the answers below.",
        "How favorable is the opinion in this passage? Select the answer that fits best.",
        "Judge the attitude that the text below expresses. Reply with one of the answers given.",
        "Which of these answers describes the feeling in the next paragraph?",
    ),
    INSTRUCTIONS["TC"]: (
        "What is this paragraph about? Pick one of the possible answers.",
        "Read the text and say what its subject is, with one of the answers below.",
        "To which category does this passage belong? Select the answer that fits best.",
        "Sort the text below by its subject. Reply with one of the answers given.",
        "Which of these answers describes what the next paragraph deals with?",
    ),
}
"""Five other wordings of each instruction. Tasks that share an instruction share them, so that none names its task."""


@final
@dataclass(frozen=True)
class RewordedTests(Change):
    """Test rows are asked in the five other wordings of the instruction, each row in the one that its text says."""

    @property
    def said(self) -> str:
        """See `Change`."""
        return "test prompts in five other wordings"

    def apply(self, task: Task) -> Task:
        """See `Change`."""
        wordings = WORDINGS.get(task.template.instruction)
        if wordings is None:
            raise DataError(
                f"Task '{task.name}': there are other wordings for the published instructions only, not for "
                f"'{task.template.instruction}'."
            )
        templates = tuple(replace(task.template, instruction=wording, options_cue=OPTIONS_CUE) for wording in wordings)
        return replace(task, test_templates=templates)
