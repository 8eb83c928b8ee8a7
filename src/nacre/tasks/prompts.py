"""What a person asks a learner outside of any task's rows: finished prompts, and texts of a task it has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nacre.errors import DataError
from nacre.tasks.task import Row, Task, turns_text
from nacre.tasks.template import Example, TaskKind, Template, Turn

Conversation = Sequence[Mapping[str, Any]]
"""Messages, each with `role` and `content`; the last one is what is answered."""


def prompt_example(prompt: str | Conversation, task: str) -> Example:
    """The example of a prompt without a target.

    Args:
        prompt: A text, or a conversation.
        task: The task's name; empty for none.

    Raises:
        DataError: If it is neither.
    """
    if isinstance(prompt, str):
        return Example("", prompt, "", "", task=task, finished=True)
    return Example("", "", "", "", turns=_turns(prompt), task=task, finished=True)


@dataclass(frozen=True)
class TaskForm:
    """A task without its rows: how a text of it is asked.

    Attributes:
        template: How a text becomes a prompt.
        labels: The label set; None for free text.
        kind: Whether there is anything to answer.
        conversations: Whether its rows are conversations.
    """

    template: Template
    labels: tuple[str, ...] | None
    kind: TaskKind
    conversations: bool

    @classmethod
    def of(cls, task: Task) -> TaskForm:
        """The form of a task."""
        return cls(task.template, task.labels, task.kind, task.conversations)

    def example(self, name: str, text: str, answer: str) -> Example:
        """A row of the task as it is learned.

        Args:
            name: The task's.
            text: The row's text.
            answer: Its target.
        """
        return self.template.example(text, answer, self.labels, task=name)

    def filled(self, name: str, texts: Sequence[str | Conversation]) -> Task:
        """The task with these texts as its rows, whose answers nobody knows.

        Args:
            name: The task's.
            texts: Texts; in a task of conversations, a text alone is a message of the user's.

        Raises:
            DataError: If one is neither a text nor a conversation, or a conversation where the task has none.
        """
        rows = tuple(self._row(text) for text in texts)
        return Task(name, rows, (), rows, self.template, self.labels, kind=self.kind)

    def _row(self, text: str | Conversation) -> Row:
        if self.conversations:
            turns = _turns([{"role": "user", "content": text}] if isinstance(text, str) else text)
            return Row(turns_text(turns), "", turns=turns)
        if not isinstance(text, str):
            raise DataError("The task's rows are texts, and so is what is asked: ask(task, text) or ask(task, [text]).")
        return Row(text, "")


def _turns(conversation: Conversation) -> tuple[Turn, ...]:
    if isinstance(conversation, Mapping) or not isinstance(conversation, Sequence) or not conversation:
        raise DataError(
            f"A prompt is a text or a list of messages, not a {type(conversation).__name__}; one conversation alone "
            "stands in a list: predict([messages])."
        )
    turns = []
    for number, message in enumerate(conversation, start=1):
        known = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not known:
            raise DataError(f"Message {number} of a prompt needs the texts 'role' and 'content'.")
        turns.append(Turn(message["role"], message["content"], learned=False))
    return tuple(turns)
