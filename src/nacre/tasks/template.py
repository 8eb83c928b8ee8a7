"""From a row to an example: the prompt the papers use, in parts, so that only the text may be cut.

Source of the texts: AM-LoRA Table 5, which equals the released instruction file of O-LoRA
(``{P}{I}Option: {L} \\n{S}\\nAnswer:``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Identity = Literal["none", "task", "full"]

TaskKind = Literal["answer", "text"]
"""What is learnt of an example or a task: the answer to an input, or the text itself."""


class Turn(NamedTuple):
    """What somebody says in a conversation. learnt: whether it is an answer that training learns."""

    role: str
    content: str
    learned: bool


@dataclass(frozen=True)
class Example:
    """One question with its answer. The input is ``before + text + after``; only ``text`` may be truncated.

    kind: of ``text``, the text itself is learnt, as a language model learns it; the other three are empty then.
    turns: of a conversation, all before the target, of which the host's chat template makes the input; ``text`` is
        what they say, and read by nobody.
    task: which one it is of. No part of what is read; examples that differ in it alone are equal.
    """

    before: str
    text: str
    after: str
    target: str
    kind: TaskKind = "answer"
    turns: tuple[Turn, ...] = ()
    task: str = field(default="", kw_only=True, compare=False)

    @property
    def input(self) -> str:
        return self.before + self.text + self.after


@dataclass(frozen=True)
class Template:
    """How a row's text becomes a prompt.

    instruction: a sentence put in front, without its line end; empty for none.
    options: whether the label set is printed (``Option: a, b, c``), in the order of the task's labels.
    text_cue: what comes right before the text, on its line.
    answer_cue: what follows the text.
    type_name, dataset_name: what ``Task:`` and ``Dataset:`` lines would say (see ``identity``).
    identity: ``full`` prints both lines in front, as the released scripts of O-LoRA and MIGU do, and so tells
        the model which task it answers; ``task`` prints the first; ``none``, the default, prints neither.
    """

    instruction: str = ""
    options: bool = False
    answer_cue: str = "\nAnswer:"
    type_name: str = ""
    dataset_name: str = ""
    identity: Identity = "none"
    text_cue: str = ""

    def described(self) -> dict[str, Any]:
        """Plain values for a run's protocol. An empty ``text_cue`` is left out, so that runs from before there was one
        can be compared with later ones."""
        return {key: value for key, value in asdict(self).items() if key != "text_cue" or value}

    def example(self, text: str, target: str, labels: Sequence[str] | None) -> Example:
        """The example of one row. labels: the task's label set in prompt order, None for free text."""
        before = ""
        if self.identity in ("task", "full"):
            before += f"Task:{self.type_name}\n"
        if self.identity == "full":
            before += f"Dataset:{self.dataset_name}\n"
        if self.instruction:
            before += f"{self.instruction}\n"
        if self.options and labels:
            before += f"Option: {', '.join(labels)} \n"
        return Example(before + self.text_cue, text, self.answer_cue, target)
