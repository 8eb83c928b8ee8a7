"""Published tasks whose answers are written: TRACE, Super-NaturalInstructions as SAPT uses it, instruction tuning.

Sources: TRACE (Wang et al. 2023, arXiv:2310.06762; BeyonderXX/TRACE), SAPT (Zhao et al. 2024, arXiv:2401.08295;
circle-hit/SAPT, ``src/cl_dataset.py``). Prompts are theirs, cut into parts so that only the text of a long row is
shortened; docs/fidelity.md lists what differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nacre.tasks.task import Row
from nacre.tasks.template import Template

_BARE = Template(answer_cue="")


@dataclass(frozen=True)
class WrittenTask:
    """One published task.

    metric: how it is scored, a name of ``nacre.tasks.metrics``. labels: where answers are labels. license: the terms
    of the rows as generally known; the rows are not covered by nacre's license.
    prompt: what stands around a row's text. in_rows: whether the rows hold it already (TRACE); it is taken off them
        and put back by the template.
    by_definition: whether the prompt is made of the task's definition instead (SuperNI).
    """

    name: str
    metric: str
    license: str
    labels: tuple[str, ...] | None = None
    prompt: Template = _BARE
    in_rows: bool = False
    by_definition: bool = False

    def wraps(self, rows: Iterable[Row]) -> bool:
        """Whether all rows hold the prompt, with something inside it."""
        opening, closing = self._ends
        texts = [row.text for row in rows]
        return all(text.startswith(opening) and text.endswith(closing) and self._inner(text).strip() for text in texts)

    def unwrapped(self, row: Row) -> Row:
        """The row without the prompt that it holds."""
        return replace(row, text=self._inner(row.text))

    @property
    def _ends(self) -> tuple[str, str]:
        example = self.prompt.example("", "", None)
        return example.before, example.after

    def _inner(self, text: str) -> str:
        opening, closing = self._ends
        return text[len(opening) : len(text) - len(closing)]


def definition_prompt(definition: str) -> Template:
    """SAPT's prompt, without the space at its end, which T5's tokenizer drops and others keep apart from the answer."""
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
"""In the order in which TRACE learns them."""

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

# The prompt of Stanford Alpaca (tatsu-lab/stanford_alpaca, ``train.py``), after which Code Alpaca was made.
_ALPACA = Template(
    instruction="Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:",
    answer_cue="\n\n### Response:",
)
INSTRUCTION = (WrittenTask("code_alpaca_2k", "rouge_l", "CC BY-NC 4.0", prompt=_ALPACA),)

_BY_NAME = {task.name: task for task in (*TRACE, *SUPERNI, *INSTRUCTION)}


def written(name: str) -> WrittenTask | None:
    """The published task of that name; None when there is none."""
    return _BY_NAME.get(name)


def superni_name(number: str) -> str:
    """The name of the task with that number, as SAPT's orders give it."""
    (name,) = (task.name for task in SUPERNI if task.name.startswith(f"task{number}_"))
    return name
