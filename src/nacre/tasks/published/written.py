"""Published tasks whose answers are written: TRACE, Super-NaturalInstructions as SAPT uses it, instruction tuning.

Sources: TRACE (Wang et al. 2023, arXiv:2310.06762; BeyonderXX/TRACE), SAPT (Zhao et al. 2024, arXiv:2401.08295;
circle-hit/SAPT, `src/cl_dataset.py`). The prompts are theirs, in parts, so that only the text of a long row is cut;
docs/fidelity.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nacre.tasks.task import Row
from nacre.tasks.template import Template

_BARE = Template(answer_cue="")


@dataclass(frozen=True)
class WrittenTask:
    """One published task with written answers.

    Attributes:
        name: The task's name.
        metric: How it is scored, a name in `nacre.tasks.metrics`.
        license: The terms of the rows as generally known. nacre's license does not cover the rows.
        labels: The label set, if answers are labels.
        prompt: What surrounds a row's text.
        in_rows: Whether the rows already contain the prompt (TRACE); it is removed, and the template restores it.
        by_definition: Whether the task's definition makes the prompt instead (SuperNI).
    """

    name: str
    metric: str
    license: str
    labels: tuple[str, ...] | None = None
    prompt: Template = _BARE
    in_rows: bool = False
    by_definition: bool = False

    def wraps(self, rows: Iterable[Row]) -> bool:
        """Returns whether all rows contain the prompt, with a text inside it."""
        opening, closing = self._ends
        texts = [row.text for row in rows]
        return all(text.startswith(opening) and text.endswith(closing) and self._inner(text).strip() for text in texts)

    def unwrapped(self, row: Row) -> Row:
        """Returns the row without the prompt that it contains."""
        return replace(row, text=self._inner(row.text))

    @property
    def _ends(self) -> tuple[str, str]:
        example = self.prompt.example("", "", None)
        return example.before, example.after

    def _inner(self, text: str) -> str:
        opening, closing = self._ends
        return text[len(opening) : len(text) - len(closing)]


def definition_prompt(definition: str) -> Template:
    """Returns SAPT's prompt for a definition.

    The space at its end is left out: T5's tokenizer drops it, and others would not join it with the answer.
    """
    return Template(
        instruction=f"Definition: {definition.strip()}\n\nNow complete the following example -",
        text_cue="Input: ",
        answer_cue="\nOutput:",
    )


def _trace(
    name: str, metric: str, license: str, opening: str, closing: str, labels: tuple[str, ...] | None = None
) -> WrittenTask:
    return WrittenTask(name, metric, license, labels, Template(instruction=opening, answer_cue=closing), in_rows=True)


_UNKNOWN = "no explicit license"
_ABC = ("A", "B", "C")
_STANCE = "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。输出A，B或者C。\n文本："
_POLICY = (
    "What is the monetary policy stance for the following text? A. dovish, B. hawkish, C. neutral. "
    "Choose one from A, B and C.\nText:"
)
_MEETING = "Write a summary of the following meeting transcripts.\nMeeting transcripts:"
_SCIENCE = "Choose an answer for the following question and give your reasons.\n\nQuestion:"
_MATHS = "Solve the following math problem.\nQuestion:"
_SIMPLER = "Provide a simplified version of the following paragraph in German.\n\nParagraph:"

TRACE = (
    _trace("C-STANCE", "exact_match", _UNKNOWN, _STANCE, "\n态度：", _ABC),
    _trace("FOMC", "exact_match", "CC BY-NC 4.0", _POLICY, "\nStance:", _ABC),
    _trace("MeetingBank", "rouge_l", _UNKNOWN, _MEETING, "\nSummary:"),
    _trace("Py150", "edit_similarity", "C-UDA; the programs under their own licenses", "", ""),
    _trace("ScienceQA", "first_character", "CC BY-NC-SA 4.0", _SCIENCE, "\n\nAnswer:"),
    _trace("NumGLUE-cm", "number", "ODC-By", _MATHS, "\nAnswer:"),
    _trace("NumGLUE-ds", "number", "ODC-By", _MATHS, "\nAnswer:"),
    _trace("20Minuten", "sari", _UNKNOWN, _SIMPLER, "\n\nSimplification:"),
)
"""The tasks of TRACE, in its learning order."""

_SUPERNI = """
task002_quoref_answer_generation task073_commonsenseqa_answer_generation task1290_xsum_summarization
task1510_evalution_relation_extraction task1572_samsum_summary task1590_diplomacy_text_generation
task1687_sentiment140_classification task1729_personachat_generate_next task181_outcome_extraction
task363_sst2_polarity_classification task511_reddit_tifu_long_text_summarization task591_sciq_answer_generation
task639_multi_woz_user_utterance_generation task748_glucose_reverse_cause_event_detection
task875_emotion_classification
"""
SUPERNI = tuple(
    WrittenTask(name, "rouge_l", "Apache-2.0; each task under its source's terms", by_definition=True)
    for name in _SUPERNI.split()
)

# The prompt of Stanford Alpaca (tatsu-lab/stanford_alpaca, `train.py`), the model for Code Alpaca.
_ALPACA = Template(
    instruction="Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:",
    answer_cue="\n\n### Response:",
)
INSTRUCTION = (WrittenTask("code_alpaca_2k", "rouge_l", "CC BY-NC 4.0", prompt=_ALPACA),)

_BY_NAME = {task.name: task for task in (*TRACE, *SUPERNI, *INSTRUCTION)}


def written(name: str) -> WrittenTask | None:
    """Returns the published task of a name; None if there is none."""
    return _BY_NAME.get(name)


def superni_name(number: str) -> str:
    """Returns the name of the task with a number from SAPT's orders."""
    (name,) = (task.name for task in SUPERNI if task.name.startswith(f"task{number}_"))
    return name
