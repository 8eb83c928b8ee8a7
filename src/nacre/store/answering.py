"""Questions to a version: finished prompts, conversations, and texts of a task it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nacre.documents import DocumentError, check_plain, parse_json, shown, shown_text, text_fault
from nacre.errors import DataError
from nacre.learning.learner import Learner
from nacre.parts.decision import Decision
from nacre.tasks.prompts import Conversation, prompt_example

KEYS = ("text", "messages", "task")
"""What a question may hold in JSON."""

LONGEST = 1_000_000
"""Characters of a question."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        asked: A text, or a conversation: messages, each with `role` and `content`.
        task: Whose template the text is put into; empty for a finished prompt.
    """

    asked: str | Conversation
    task: str = ""


@dataclass(frozen=True)
class Reply:
    """What is answered.

    Attributes:
        answer: The answer.
        task: Which task the question was taken for; None where nobody decided, or it is none.
        kind: Whether it is of a task that was learned: known, reworded or foreign; None where nobody asked.
        probability: Of the answer; None where nobody knows.
    """

    answer: str
    task: str | None = None
    kind: str | None = None
    probability: float | None = None

    def document(self) -> dict[str, Any]:
        """The reply as plain values, without what nobody decided."""
        return {key: value for key, value in vars(self).items() if value is not None}


def reply(learner: Learner, questions: Sequence[Question]) -> list[Reply]:
    """Answer questions, those of one task in one go.

    Args:
        learner: Who answers.
        questions: In any order.

    Returns:
        A reply to each, in the order of the questions.

    Raises:
        DataError: If a task has not been learned, or if the method cannot answer a question without its task.
    """
    replies: dict[int, Reply] = {}
    for task in dict.fromkeys(question.task for question in questions):
        numbers = [number for number, question in enumerate(questions) if question.task == task]
        asked = [questions[number].asked for number in numbers]
        found = _of_task(learner, task, asked) if task else _of_none(learner, asked)
        replies |= zip(numbers, found, strict=True)
    return [replies[number] for number in range(len(questions))]


def tokens_read(learner: Learner, question: Question) -> int:
    """How many tokens the model reads of a question, in its template or chat template, special tokens included.

    Args:
        learner: Who has answered it.
        question: What was asked.
    """
    if question.task:
        examples = learner.state.forms[question.task].filled(question.task, [question.asked]).examples("test")
    else:
        examples = [prompt_example(question.asked, "")]
    return len(learner.encode(examples)[0].source)


def question_of(document: Any, task: str) -> Question:
    """A question from JSON.

    Args:
        document: An object with `text` or `messages`, and perhaps with its `task`; or a text alone.
        task: The task where the object names none; empty for none.

    Raises:
        DataError: If it is something else.
    """
    if isinstance(document, str):
        document = {"text": document}
    if not isinstance(document, dict):
        raise DataError(f"A question is an object with 'text' or 'messages', not {shown(document)}.")
    if unknown := [key for key in document if key not in KEYS]:
        raise DataError(f"A question has no key {shown_text(unknown[0])!r}; it may have {', '.join(KEYS)}.")
    if ("text" in document) == ("messages" in document):
        raise DataError("A question has either 'text' or 'messages'.")
    try:
        check_plain(document)
    except DocumentError as error:
        raise DataError(f"A question cannot be used: {error}.") from None
    asked, own = document.get("text", document.get("messages")), document.get("task", task)
    if not isinstance(own, str) or not isinstance(asked, str if "text" in document else list):
        raise DataError("In a question 'text' and 'task' are strings, and 'messages' is a list of messages.")
    check_size(asked if isinstance(asked, str) else "".join(str(message) for message in asked))
    return Question(asked, own)


def read_questions(text: str, *, json_lines: bool, task: str) -> list[Question]:
    """Questions from a file, a line each.

    Args:
        text: The file's.
        json_lines: Whether lines are JSON; otherwise a line is a text. Empty lines are left out.
        task: The task of those that name none; empty for none.

    Raises:
        DataError: If a line is no question; it names the line.
    """
    questions = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        try:
            questions.append(question_of(parse_json(line) if json_lines else _checked(line), task))
        except DataError as error:
            raise DataError(f"Line {number}: {error}") from None
        except ValueError as error:
            raise DataError(f"Line {number} is not JSON: {shown_text(str(error))}.") from None
    return questions


def check_size(text: str) -> None:
    """Refuse a question that is longer than anybody asks."""
    if len(text) > LONGEST:
        raise DataError(f"A question has at most {LONGEST:,} characters.")


def _checked(line: str) -> str:
    if fault := text_fault(line):
        raise DataError(f"The text {fault}.")
    return line


def _of_task(learner: Learner, task: str, asked: Sequence[str | Conversation]) -> list[Reply]:
    return [Reply(answer, task) for answer in learner.ask(task, asked)]


def _of_none(learner: Learner, asked: Sequence[str | Conversation]) -> list[Reply]:
    readout = learner.method.readout
    if readout is None:
        return [Reply(answer) for answer in learner.predict(asked)]
    learner.check_usable()
    with learner.serving():
        rows = learner.encode([prompt_example(prompt, "") for prompt in asked])
        decisions = readout.decide(learner, rows, None)
        if decisions is None:
            return [Reply(answer) for answer in readout.classify(learner, rows, None)]
    replies = [_decided(decision, readout.abstains) for decision in decisions]
    written = [number for number, each in enumerate(replies) if each.task is not None and _is_free(learner, each.task)]
    texts = learner.predict([asked[number] for number in written]) if written else []
    for number, text in zip(written, texts, strict=True):  # no label of another task answers a task without any
        replies[number] = replace(replies[number], answer=text, probability=None)
    return replies


def _decided(decision: Decision, asked: bool) -> Reply:
    """asked: whether the method asks if a row is of any task."""
    return Reply(
        decision.answer,
        decision.task,
        decision.kind if asked else None,
        decision.labels.get(decision.answer),
    )


def _is_free(learner: Learner, task: str) -> bool:
    """Whether a task's answers are written."""
    return task in learner.state.forms and learner.state.forms[task].labels is None
