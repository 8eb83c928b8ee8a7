"""LFPT5: what is written is what is rehearsed, the teacher is the prompt as it was, and without terms it is tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.prompt import PlacedPrompt, Prompt
from nacre.errors import DataError, ModelError, RecipeError
from nacre.events import Event, PseudoRowsGenerated, StepTaken, TrainingPrepared
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.lfpt5 import lfpt5
from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.parts.old_answers import OldAnswers
from nacre.parts.part import MicroBatch, Step
from nacre.parts.row_writing import RowWriting
from nacre.parts.wording import Wording
from nacre.parts.written_rows import PseudoState
from nacre.tasks.pseudo_rows import parse_rows
from nacre.tasks.template import Example

OPTIM = Optim(batch_size=4, learning_rate=0.3, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
SMALL = {"prompt_length": 3, "max_length": 16, "draws": 2}
STUB = ("the big dog Answer : yes", "the old lamp Answer : no", "the sea", "the big dog Answer : yes")


@pytest.fixture(params=["t5", "llama"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that writes what is known."""
    drawn: list[str] = []

    def sample(self: Host, rows: Sequence[object], count: int, **settings: object) -> list[list[str]]:
        assert count == 1
        new = [STUB[(len(drawn) + number) % len(STUB)] for number in range(len(rows))]
        drawn.extend(new)
        return [[text] for text in new]

    monkeypatch.setattr(Host, "sample", sample)


def learner_of(architecture: str, method: Method, on_event=lambda event: None) -> Learner:
    return Learner(tiny_host(architecture), method, seed=4, optim=OPTIM, on_event=on_event)


def state(learner: Learner) -> PseudoState:
    assert learner.method.memory is not None
    found = learner.remembered(learner.method.memory, PseudoState)
    assert found is not None
    return found


def prompt(learner: Learner) -> Tensor:
    assert isinstance(learner.adapter, PlacedPrompt)
    return learner.adapter.prompts.table()[-1].detach().clone()


def test_without_terms_and_pseudo_rows_it_is_prompt_tuning(architecture: str) -> None:
    tuned = Method(title="Prompt tuning", sources=(), adapter=Prompt(tokens=3))
    bare = replace(lfpt5(**SMALL, writing=0, distillation=0), name="", memory=None)
    assert bare.batch_terms == ()
    prompts = []
    for method in (tuned, bare):
        learner = learner_of(architecture, method)
        for task in TASKS[:2]:
            learner.learn(task)
        prompts.append(prompt(learner))
    assert torch.equal(*prompts)


@pytest.mark.usefixtures("stub")
def test_known_strings_give_the_rows_that_are_rehearsed(architecture: str) -> None:
    reports: list[PseudoRowsGenerated] = []
    counted: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, PseudoRowsGenerated):
            reports.append(event)
        if isinstance(event, StepTaken) and event.step == 1:
            counted.append(event.steps)

    learner = learner_of(architecture, lfpt5(**SMALL), watch)
    learner.learn(TASKS[0])
    assert not reports
    assert not state(learner).rows
    learner.learn(TASKS[1])
    assert reports == [
        PseudoRowsGenerated("animals", drawn=4, parsed=3, duplicates=1, kept=2, labels={"yes": 1, "no": 1})
    ]
    expected = [("animals", "the big dog", "yes"), ("animals", "the old lamp", "no")]
    assert [tuple(row) for row in state(learner).rows] == expected
    template = TASKS[0].template
    examples = [template.example(text, answer, TASKS[0].labels, task=task) for task, text, answer in expected]
    assert [example for example, _ in state(learner).examples(learner)] == examples
    assert counted == [3, 4], "twelve rows, and then two more"
    learner.learn(TASKS[2])
    assert [report.task for report in reports] == ["animals", "animals", "birds"]


@pytest.mark.usefixtures("stub")
def test_the_teacher_is_the_prompt_before_the_task(architecture: str) -> None:
    """KL is 0 at the first step, above 0 later, and what it compares with never moves."""
    values: list[float] = []
    prompts: list[Tensor] = []
    teachers: list[Tensor] = []

    def watch(event: Event) -> None:
        if learner.task_number != 2 or not isinstance(event, TrainingPrepared | StepTaken):
            return
        (term,) = (each for each in learner.method.batch_terms if isinstance(each, OldAnswers))
        teacher = learner.resources[term.key]
        rows = list(teacher)
        with torch.no_grad():
            logits, labels = learner.predictions(rows)
            values.append(float(term.value(learner, MicroBatch(rows, {}, logits, labels))))
        teachers.append(torch.cat(list(teacher.values())).clone())
        prompts.append(prompt(learner))
        live = torch.split(logits[labels != IGNORED].double(), [row.num_target_tokens for row in rows])
        by_hand = 0.0
        for row, own in zip(rows, live, strict=True):
            old = teacher[row].double().softmax(-1)
            by_hand += float((old * (old.log() - own.softmax(-1).log())).sum())
        assert values[-1] == pytest.approx(by_hand, abs=1e-4)

    learner = learner_of(architecture, lfpt5(**SMALL, distillation=0.5), watch)
    learner.learn(TASKS[0])
    learner.learn(TASKS[1])
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values[-1] > 1e-3
    assert all(torch.equal(teachers[0], other) for other in teachers)
    assert not torch.equal(prompts[0], prompts[-1])


def test_the_writing_loss_is_that_of_the_whole_row(architecture: str) -> None:
    seen: list[bool] = []

    def watch(event: Event) -> None:
        if not isinstance(event, TrainingPrepared):
            return
        (term,) = (each for each in learner.method.batch_terms if isinstance(each, RowWriting))
        examples = TASKS[0].examples("train")[:3]
        rows = learner.encode(examples)
        logits, labels = learner.predictions(rows)
        learner.step = Step(0, 1, 1e-3, rows=rows)
        value = term.value(learner, MicroBatch(rows, {}, logits, labels)).item()
        total, tokens = 0.0, 0
        for example in examples:
            text = f"{' '.join(example.text.split())} Answer: {example.target}"
            whole = Example("Write an example of animals.", "", "", text, task="animals")
            own, target = learner.predictions([learner.host.family.encode(whole, Lengths(16, 16))])
            words = target[target != IGNORED]
            nats = -own.double().log_softmax(-1)[target != IGNORED]
            total += float(nats.gather(1, words[:, None]).sum())
            tokens += len(words)
        answers = sum(row.num_target_tokens for row in rows)
        assert value == pytest.approx(total / tokens * answers, rel=1e-5)
        seen.append(True)

    learner = learner_of(architecture, lfpt5(**SMALL), watch)
    learner.learn(TASKS[0])
    assert seen


@pytest.mark.parametrize("length", [7, 8, 12, 40])
def test_a_long_text_loses_its_end_and_never_its_answer(architecture: str, length: int) -> None:
    """What is learned to be written can be read back."""
    learner = learner_of(architecture, lfpt5(**SMALL))
    family, text = learner.host.family, "the big dog sees the old lamp near the small rose"
    row = Wording("Write an example of {task}.", "Answer:", length).written(learner, "animals", text, "yes")
    words = 15  # the text's eleven, Answer, the colon, yes and the end
    assert len(row.target) == min(length, words)
    (kept,) = parse_rows([family.text(row.target)], "Answer:", ("yes", "no"), 1).rows
    assert kept.target == "yes"
    assert kept.text.split() == text.split()[: min(length, words) - 4]
    assert not family.is_cut(row.target)


def test_an_answer_that_leaves_no_text_is_refused(architecture: str) -> None:
    learner = learner_of(architecture, lfpt5(**SMALL | {"max_length": 4}))
    with pytest.raises(DataError, match="max_length = 4: the answer 'yes' of task 'animals' takes 4 tokens"):
        learner.learn(TASKS[0])


def test_samples_depend_on_seed_task_and_number_alone(architecture: str, tmp_path: Path) -> None:
    """Batches do not matter, and neither does a restart in between."""
    drawn: list[list[str]] = []
    for batch_size in (1, 5):
        method = lfpt5(**SMALL, top_k=None)
        assert method.memory is not None
        memory = replace(method.memory, batch_size=batch_size)  # type: ignore[call-arg]
        learner = learner_of(architecture, replace(method, memory=memory, name=""))
        learner.learn(TASKS[0])
        texts: list[str] = []
        sample = learner.host.sample

        def watched(*args, texts=texts, sample=sample, **kwargs) -> list[list[str]]:
            found = sample(*args, **kwargs)
            texts.extend(text for (text,) in found)
            return found

        learner.host.sample = watched  # type: ignore[method-assign]
        learner.learn(TASKS[1])
        drawn.append(texts)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1

    whole = learner_of(architecture, lfpt5(**SMALL))
    whole.learn(TASKS[0])
    whole.save(tmp_path / "saved")
    whole.learn(TASKS[1])
    again = Learner.load(tmp_path / "saved", tiny_host(architecture))
    again.learn(TASKS[1])
    assert not whole.snapshot().differences(again.snapshot())
    assert {row[2] for row in state(whole).rows} <= {"yes", "no"}


def test_killed_in_a_task_and_continued_it_rehearses_the_same_rows(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the generator writes follows from the seeds that it is given, and from nothing else."""

    def sample(self: Host, rows: Sequence[object], count: int, *, seeds: Sequence[int], **_: object) -> list[list[str]]:
        things = ("dog", "cat", "cow", "hen", "stone", "lamp", "spoon", "chair")
        return [[f"the {things[seed % 8]} Answer : {('yes', 'no')[seed // 8 % 2]}"] for seed in seeds]

    monkeypatch.setattr(Host, "sample", sample)

    def kill(event: Event) -> None:
        if isinstance(event, StepTaken) and event.step == 2:
            raise KeyboardInterrupt

    whole = learner_of(architecture, lfpt5(**SMALL))
    for task in TASKS:
        whole.learn(task)
    killed = learner_of(architecture, lfpt5(**SMALL))
    for task in TASKS[:2]:
        killed.learn(task)
    killed.save(tmp_path / "saved")
    killed.on_event = kill
    with pytest.raises(KeyboardInterrupt):
        killed.learn(TASKS[2])
    killed.remove()
    again = Learner.load(tmp_path / "saved", tiny_host(architecture))
    again.learn(TASKS[2])
    assert len({task for task, *_ in state(whole).rows}) == 2, "there is something to rehearse of both tasks"
    assert state(again) == state(whole)
    assert torch.equal(prompt(again), prompt(whole))


def test_a_host_that_cannot_write_is_refused() -> None:
    host = tiny_host("roberta")
    with pytest.raises(ModelError, match="'tiny-roberta' is encoder-only and cannot write, which pseudo_reh"):
        Learner(host, lfpt5())
    Learner(host, Method(title="Prompts", sources=(), adapter=Prompt(tokens=3)))  # the host is free


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cue": "Write one."}, "it must contain {task}"),
        ({"separator": "  "}, "something that can be read"),
        ({"distillation": 1.0}, "at least 0 and below 1"),
        ({"draws": 1, "per_label": 2}, "at least one row of a label is kept"),
        ({"max_length": 0}, "not a positive number of tokens"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        lfpt5(**settings)  # type: ignore[arg-type]


def test_a_tokenizer_without_capitals_can_write_the_separator() -> None:
    """The demo's has none."""
    learner = Learner(load_host("demo"), lfpt5(**SMALL), optim=OPTIM.model_copy(update={"epochs": 1}))
    learner.learn(TASKS[0])


def test_a_separator_that_cannot_be_written_is_refused() -> None:
    learner = learner_of("t5", lfpt5(**SMALL, separator="@@"))
    with pytest.raises(DataError, match="cannot write it back"):
        learner.learn(TASKS[0])
