"""The bare text as the prompt, so that nothing names the task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from nacre.tasks.making.made_task import Change
from nacre.tasks.task import Task


@final
@dataclass(frozen=True)
class BarePrompt(Change):
    """Neither instruction nor options. The published answer cue stays: it is the same for all tasks.

    Without the cue a decoder-only host could not know where a text ends, least of all one that is cut.
    """

    @property
    def said(self) -> str:
        """See `Change`."""
        return "prompts without instruction and options"

    def apply(self, task: Task) -> Task:
        """See `Change`."""
        return replace(task, template=replace(task.template, instruction="", options=False))
