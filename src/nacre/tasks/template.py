"""From a row to an example: the prompt of the papers, in parts, so that only the text may be cut.

Source of the texts: AM-LoRA Table 5, which equals the released instruction file of O-LoRA
(`{P}{I}Option: {L} \\n{S}\\nAnswer:`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Identity = Literal["none", "task", "full"]

OPTIONS_CUE = "Option:"
"""What the published prompts print before the label set."""

TaskKind = Literal["answer", "text"]
"""What is learned of an example or a task: the answer to an input, or the text itself."""


class Turn(NamedTuple):
    """One message of a conversation.

    Attributes:
        role: Who speaks: `system`, `user` or `assistant`.
        content: The message.
        learned: Whether the message is an answer that training learns.
    """

    role: str
    content: str
    learned: bool


@dataclass(frozen=True)
class Example:
    """One question with its answer. The input is `before + text + after`; only `text` may be truncated.

    Attributes:
        before: The part of the prompt in front of the text.
        text: The row's text. In a conversation, the contents of all turns; nobody reads it there.
        after: The part of the prompt behind the text.
        target: The answer.
        kind: For `text`, the text itself is learned, as in language modeling; the other three strings are empty.
        turns: All turns of a conversation before the target. The host's chat template turns them into the input.
        task: The task's name. It is not part of the input; examples that differ in it alone are equal.
        finished: Whether the text is a finished prompt, of which nobody says what its template was.
    """

    before: str
    text: str
    after: str
    target: str
    kind: TaskKind = "answer"
    turns: tuple[Turn, ...] = ()
    task: str = field(default="", kw_only=True, compare=False)
    finished: bool = field(default=False, kw_only=True)

    @property
    def input(self) -> str:
        """The whole prompt."""
        return self.before + self.text + self.after


@dataclass(frozen=True)
class Template:
    """How a row's text becomes a prompt.

    Attributes:
        instruction: A sentence in front of the text, without its line end; empty for none.
        options: Whether to print the label set (`Option: a, b, c`), in the order of the task's labels.
        options_cue: What comes before the label set, on its line.
        answer_cue: What follows the text.
        type_name: What the `Task:` line says (see `identity`).
        dataset_name: What the `Dataset:` line says (see `identity`).
        identity: `full` prints both lines in front, as the released scripts of O-LoRA and MIGU do, and so tells
            the model which task it answers. `task` prints the first line; `none`, the default, prints neither.
        text_cue: What comes right before the text, on its line.
    """

    instruction: str = ""
    options: bool = False
    options_cue: str = field(default=OPTIONS_CUE, kw_only=True)
    answer_cue: str = "\nAnswer:"
    type_name: str = ""
    dataset_name: str = ""
    identity: Identity = "none"
    text_cue: str = ""

    def described(self) -> dict[str, Any]:
        """Returns plain values for a run's protocol.

        An empty `text_cue` and the usual `options_cue` are left out, so that older runs, which know no such fields,
        stay comparable.
        """
        usual = {"text_cue": "", "options_cue": OPTIONS_CUE}
        return {key: value for key, value in asdict(self).items() if key not in usual or value != usual[key]}

    def example(self, text: str, target: str, labels: Sequence[str] | None, *, task: str = "") -> Example:
        """Makes the example of one row.

        Args:
            text: The row's text.
            target: The row's answer.
            labels: The task's label set in prompt order; None for free text.
            task: The task's name.

        Returns:
            The example.
        """
        before = ""
        if self.identity in ("task", "full"):
            before += f"Task:{self.type_name}\n"
        if self.identity == "full":
            before += f"Dataset:{self.dataset_name}\n"
        if self.instruction:
            before += f"{self.instruction}\n"
        if self.options and labels:
            before += f"{self.options_cue} {', '.join(labels)} \n"
        return Example(before + self.text_cue, text, self.answer_cue, target, task=task)
