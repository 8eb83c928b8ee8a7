"""Conversations as a tokenizer's chat template writes them, and which of their tokens are learned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

from jinja2 import TemplateError

from nacre.errors import DataError
from nacre.tasks.task import SPLITS, Task
from nacre.tasks.template import Turn

TODAY = date(2024, 7, 26)
"""The day on which every conversation is written out. Templates that name the day (Llama 3.2, Granite, SmolLM3) would
otherwise give other prompts, and a run another result, on another day. Llama's own stands for an unknown day with it.
"""

_ASKS_FOR_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<format>[^'"]*)(?P=quote)\s*\)""")


class Piece(NamedTuple):
    """A stretch of a conversation, as it is written out.

    Attributes:
        text: The stretch.
        learned: Whether it is an answer, with what ends its turn.
    """

    text: str
    learned: bool


class Chat:
    """A tokenizer with a chat template.

    Attributes:
        tokenizer: The tokenizer.
        template: Its template, in which it is always `TODAY`.
        day: What it writes of `TODAY` into conversations, as an ISO date; None if it writes nothing.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Take the tokenizer.

        Raises:
            DataError: If it has no chat template, or one whose date cannot be fixed.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                "Conversations are written out by the tokenizer's chat template, and this one has none: put a "
                "chat_template.jinja into the model's folder, or set tokenizer.chat_template."
            )
        self.tokenizer = tokenizer
        own = str(tokenizer.get_chat_template())
        self.template = _ASKS_FOR_TODAY.sub(lambda call: repr(TODAY.strftime(call["format"])), own)
        self.day = TODAY.isoformat() if self.template != own else None
        if "strftime_now(" in self.template:
            raise DataError(
                "The chat template writes today's date in a form that it makes up itself, so that prompts would differ "
                "from day to day: write the form, such as strftime_now('%d %b %Y'), or take the date out."
            )

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The conversation in pieces. Each learned one follows one that is only read; the last is learned.

        Where an answer begins and ends is found by writing out the conversation up to its start, with the generation
        prompt, and up to its end. So a template needs no marks of its own (TRL's `assistant_only_loss` needs
        `{% generation %}`), and training reads what the model will read when it has to answer.

        Raises:
            DataError: If the template refuses the conversation, writes a turn in another way once more turns follow,
                or writes something of its own in front of an answer: then the two would differ.
        """
        whole = self._written(turns)
        pieces: list[Piece] = []
        done = ""
        for number, turn in enumerate(turns):
            if not turn.learned:
                continue
            prompt = self._written(turns[:number], ask=True)
            answered = self._written(turns[: number + 1])
            if not whole.startswith(answered):  # Phi-3's closes whatever it writes with an end token
                answered = answered.removesuffix(self.tokenizer.eos_token or "")
            if not (whole.startswith(answered) and answered.startswith(prompt) and prompt.startswith(done)):
                raise DataError(
                    f"The chat template writes the conversation up to turn {number + 1} in another way than the whole "
                    "of it, so that the answer cannot be told from the rest: take a template that only appends."
                )
            answer = answered[len(prompt) :]
            if not answer.lstrip().startswith(turn.content.strip()):
                raise DataError(
                    f"The chat template writes '{_beginning(answer)}' behind its generation prompt, and the answer of "
                    f"turn {number + 1} is '{_beginning(turn.content)}': take a template that adds nothing to answers, "
                    "or one whose generation prompt ends with what it adds."
                )
            pieces += [Piece(prompt[len(done) :], False), Piece(answer, True)]
            done = answered
        return pieces

    def tokens(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Token ids of each piece, given those before it.

        Where a token would reach across a seam, the next piece begins anew: no answer shares a token with its question.
        """
        text = ""
        ids: list[int] = []
        by_piece: list[list[int]] = []
        for piece in pieces:
            text += piece.text
            before, ids = ids, self._ids(text)
            by_piece.append(ids[len(before) :] if ids[: len(before)] == before else self._ids(piece.text))
        return by_piece

    def _ids(self, text: str) -> list[int]:
        # Special tokens stand in the text: writing them is the template's business.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _written(self, turns: Sequence[Turn], ask: bool = False) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask, chat_template=self.template
            )
        except (TemplateError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"The chat template does not take the conversation: {reason.rstrip('.')}.") from error
        return str(text)


def check_conversations(chat: Chat, task: Task) -> None:
    """Check that the chat template can write out every conversation of a task.

    Raises:
        DataError: With file and line of the first that it cannot.
    """
    for split in SPLITS:
        for number, row in enumerate(task.rows(split), start=1):
            try:
                chat.pieces([*row.turns, Turn("assistant", row.target, learned=True)])
            except DataError as error:
                where = row.place or f"{split}, row {number}"
                raise DataError(f"Task '{task.name}', {where}: {error}") from error


def without_oldest(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns without the oldest answer and the turns that led to it; the system's turns at the beginning stay.

    Returns:
        The same turns if nothing would be left to answer.
    """
    first = next((number for number, turn in enumerate(turns) if turn.role != "system"), len(turns))
    answered = next((number for number, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    rest = tuple(turns[answered + 1 :])
    return (*turns[:first], *rest) if rest else tuple(turns)


def _beginning(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= 30 else f"{shown[:27]}..."
