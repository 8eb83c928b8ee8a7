"""SAPT-LoRA's written inputs: what generators are taught, what they write, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.kept import KeptAdapters
from nacre.adapters.low_rank import LowRank
from nacre.errors import DataError, ModelError, RecipeError
from nacre.events import Event, GeneratorTaught, PseudoRowsGenerated, StepTaken, TrainingPrepared, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.sapt_lora import sapt_lora
from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.models.roles import ROLES
from nacre.parts.attentive_reflection import Attended
from nacre.parts.shared_attention import LARGEST_WORD
from nacre.parts.wording import Wording
from nacre.registry import build_method
from nacre.seeds import derive
from nacre.tasks.task import Row
from nacre.tasks.template import Turn

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task("animals"), tiny_task("birds", labels=("red", "green")), tiny_task("fish")]
SMALL: dict[str, Any] = {"fraction": 0.25, "generator_steps": 7, "max_length": 24, "draws": 2}
WORDS = ("dog", "cat", "cow", "hen", "stone", "lamp", "spoon", "chair")


@pytest.fixture(params=["t5", "llama"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A generator that writes what follows from its seeds; the seeds of every batch."""
    asked: list[list[int]] = []

    def sample(self: Host, rows: Sequence[object], count: int, *, seeds: Sequence[int], **_: object) -> list[list[str]]:
        asked.append(list(seeds))
        answers = ("yes", "no", "red", "green")
        return [[f"the {WORDS[seed % 8]} {WORDS[seed // 8 % 8]} Answer : {answers[seed % 4]}"] for seed in seeds]

    monkeypatch.setattr(Host, "sample", sample)
    return asked


def learner_of(architecture: str, on_event: Any = ignore, **settings: Any) -> Learner:
    return Learner(tiny_host(architecture), sapt_lora(**SMALL | settings), seed=5, optim=OPTIM, on_event=on_event)


def known(learner: Learner) -> Attended:
    state = learner.state.parts["kept_inputs"]
    assert isinstance(state, Attended)
    return state


def owned(learner: Learner, *names: str) -> dict[str, Tensor]:
    return {f"{name}.{key}": each for name in names for key, each in learner.owners[name].tensors().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_generator_learns_to_write_text_and_answer_from_the_cue(architecture: str) -> None:
    """By the loop, in the bare host, as a learner with that LoRA alone would; the task's own LoRA has no part."""
    told: list[GeneratorTaught] = []
    learner = learner_of(architecture, lambda event: told.append(event) if isinstance(event, GeneratorTaught) else None)
    learner.learn(TASKS[0])
    rows = tuple(
        Row("Write an example.", f"{' '.join(row.text.split())} Answer: {row.target}") for row in TASKS[0].train
    )
    lesson = replace(TASKS[0], train=rows, template=replace(TASKS[0].template, instruction="", options=False))
    lesson = replace(lesson, template=replace(lesson.template, answer_cue=""), labels=None)
    # Twelve rows in batches of four are three steps an epoch, so that seven steps are three epochs.
    optim = OPTIM.model_copy(update={"epochs": 3, "learning_rate": 1e-3, "max_target_length": 24})
    method = Method(title="Alone", sources=(), adapter=LowRank(dropout=0.0))
    seed = derive(5, "pseudo_inputs", 1)
    alone = Learner(tiny_host(architecture), method, seed=seed, optim=optim, on_event=ignore)
    alone.learn(lesson)
    kept = learner.owners["memory"].tensors()
    assert same({name: stack[0] for name, stack in kept.items()}, dict(alone.adapter.tensors()))
    assert [(each.step, each.steps) for each in told] == [(step, 9) for step in range(1, 10)]
    assert told[-1].parameters == sum(tensor.numel() for tensor in kept.values())
    assert told[-1].loss < told[0].loss
    wording = Wording("Write an example.", "Answer:", 24)
    (first, *_) = learner.host.family.encode_all(lesson.examples("train"), Lengths(512, 24))
    assert wording.asked(learner, "animals").source == first.source, "what is asked is what was learned"
    assert wording.written(learner, "animals", TASKS[0].train[0].text, TASKS[0].train[0].target) == first


@pytest.mark.usefixtures("stub")
def test_what_is_written_is_read_and_not_learned(architecture: str) -> None:
    reports: list[PseudoRowsGenerated] = []
    steps: list[StepTaken] = []

    def watch(event: Event) -> None:
        if isinstance(event, PseudoRowsGenerated):
            reports.append(event)
        if isinstance(event, StepTaken):
            steps.append(event)

    learner = learner_of(architecture, watch)
    for task in TASKS:
        learner.learn(task)
    state = known(learner)
    assert [report.task for report in reports] == ["animals", "animals", "birds"]
    assert all(report.drawn == 6 and report.kept == sum(report.labels.values()) for report in reports)
    assert 0 < reports[0].kept <= 3, "a quarter of twelve rows"
    assert {step.steps for step in steps} == {3}, "twelve rows in batches of four, and none of them is a written one"
    assert all(step.terms["reflection"] > 0 for step in steps[3:])
    assert [*learner.state.forms] == ["animals", "birds", "fish"]
    assert state.sizes == [3, 3, 3]
    assert [row[0] for row in state.written] == ["animals"] * reports[1].kept + ["birds"] * reports[2].kept
    assert len(state.means) == 3
    for number, task in enumerate(TASKS[:2]):
        own = [row for row in state.written if row[0] == task.name]
        assert own
        assert {answer for _, _, answer in own} <= {*(task.labels or ())}
        examples = [task.template.example(text, answer, task.labels, task=task.name) for _, text, answer in own]
        assert torch.equal(state.inputs[number], learner.pooled_states(learner.encode(examples), LARGEST_WORD))


def test_every_draw_has_a_seed_of_its_own(stub: list[list[int]], architecture: str) -> None:
    """Of the task, the part, the task that learns next and the number; batches do not matter."""
    found = []
    for batch_size in (2, 16):
        stub.clear()
        method = sapt_lora(**SMALL)
        assert method.memory is not None
        memory = replace(method.memory, batch_size=batch_size)  # type: ignore[call-arg]
        learner = Learner(
            tiny_host(architecture), replace(method, memory=memory, name=""), seed=5, optim=OPTIM, on_event=ignore
        )
        for task in TASKS:
            learner.learn(task)
        found.append([seed for seeds in stub for seed in seeds])
    assert found[0] == found[1]
    assert len(found[0]) == len(set(found[0])) == 3 * 6
    where = [(2, "animals"), (3, "animals"), (3, "birds")]
    assert found[0] == [derive(5, "pseudo_inputs", number, task, j) for number, task in where for j in range(6)]


def test_a_generator_that_learned_enough_writes_rows_of_its_task() -> None:
    """Each one of its own task, with labels of its own; one that learned nothing writes none."""

    def reports_of(steps: int, rate: float) -> list[PseudoRowsGenerated]:
        reports: list[PseudoRowsGenerated] = []
        settings: dict[str, Any] = {"roles": ROLES, "fraction": 0.5, "generator_steps": steps, "generator_rate": rate}
        learner = learner_of(
            "llama",
            lambda event: reports.append(event) if isinstance(event, PseudoRowsGenerated) else None,
            **settings,
            draws=8,  # a dozen samples of each task say little about a share
            top_k=3,
        )
        for task in TASKS:
            learner.learn(task)
        return reports

    taught, untaught = reports_of(200, 1e-2), reports_of(1, 1e-6)
    assert [report.parsed for report in untaught] == [0, 0, 0]
    assert sum(report.parsed for report in taught) >= sum(report.drawn for report in taught) // 4
    assert {label for report in taught[:2] for label in report.labels} <= {"yes", "no"}
    assert set(taught[2].labels) <= {"red", "green"}


@pytest.mark.parametrize("modifiers", ["", "+migu", "+orthogonality", "+copy_init"])
def test_without_the_term_generators_change_nothing_that_answers(architecture: str, modifiers: str) -> None:
    """Nor does what a modifier measures while the task is learned."""
    learners = []
    for inputs in ("pseudo", "real"):
        method = build_method(f"sapt_lora{modifiers}", {**SMALL, "inputs": inputs, "reflection": 0.0})
        learner = Learner(tiny_host(architecture), method, seed=5, optim=OPTIM, on_event=ignore)
        for task in TASKS:
            learner.learn(task)
        learners.append(learner)
    written, kept = learners
    assert same(owned(written, "adapter", "routing"), owned(kept, "adapter", "routing"))
    assert all(map(torch.equal, known(written).means, known(kept).means))
    assert written.answer(TASKS) == kept.answer(TASKS)


def test_generators_are_stored_and_counted_task_by_task(architecture: str) -> None:
    learner, real = learner_of(architecture), learner_of(architecture, inputs="real")
    for number, task in enumerate(TASKS, start=1):
        prepared: list[TrainingPrepared] = []
        learner.on_event = lambda event, to=prepared: to.append(event) if isinstance(event, TrainingPrepared) else None
        learner.learn(task)
        real.learn(task)
        one = dict(prepared[0].groups)["down"] + dict(prepared[0].groups)["up"]
        assert learner.stored_parameters() - real.stored_parameters() == number * one
        kept = learner.owners["memory"]
        assert isinstance(kept, KeptAdapters)
        assert len(kept) == number
        assert all(len(stack) == number for stack in kept.tensors().values())
    assert set(learner.owners) == {"adapter", "routing", "memory"}
    learner.remove()
    assert not learner.owners["memory"].tensors()


def test_earlier_generators_do_not_move(architecture: str) -> None:
    learner = learner_of(architecture)
    before: dict[str, Tensor] = {}
    for task in TASKS:
        learner.learn(task)
        now = dict(learner.owners["memory"].tensors())
        assert all(torch.equal(now[name][: len(stack)], stack) for name, stack in before.items())
        before = {name: stack.clone() for name, stack in now.items()}
    assert not all(torch.equal(stack[0], stack[1]) for stack in before.values())


def test_killed_in_a_task_and_continued_it_writes_the_same(
    stub: list[list[int]], architecture: str, tmp_path: Path
) -> None:
    def kill_at(kind: type, step: int) -> Any:
        def kill(event: Event) -> None:
            if isinstance(event, kind) and event.step == step:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        return kill

    whole = learner_of(architecture)
    for task in TASKS:
        whole.learn(task)
    killed = learner_of(architecture)
    for task in TASKS[:2]:
        killed.learn(task)
    killed.save(tmp_path / "saved")
    killed.remove()
    for kill in (kill_at(StepTaken, 2), kill_at(GeneratorTaught, 4)):  # while the task is learned, and behind it
        again = Learner.load(tmp_path / "saved", tiny_host(architecture))
        again.on_event = kill
        with pytest.raises(KeyboardInterrupt):
            again.learn(TASKS[2])
        again.remove()
        fresh = tiny_host(architecture).model.state_dict()
        assert all(torch.equal(each, fresh[name]) for name, each in again.host.model.state_dict().items())
    again = Learner.load(tmp_path / "saved", tiny_host(architecture))
    again.on_event = ignore
    again.learn(TASKS[2])
    assert not again.snapshot().differences(whole.snapshot())
    assert {row[0] for row in known(again).written} == {"animals", "birds"}


def test_where_nothing_can_be_read_nothing_is_held(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "sample", lambda self, rows, count, **_: [["the sea"] for _ in rows])
    warnings: list[str] = []
    learner = learner_of(architecture, lambda event: warnings.append(getattr(event, "text", "")))
    other = learner_of(architecture, fraction=0.0)
    for task in TASKS:
        learner.learn(task)
        other.learn(task)
    assert "None of 6 samples is a row of 'birds', so that none is kept: train longer, or draw more." in warnings
    assert [len(inputs) for inputs in known(learner).inputs] == [0, 0]
    assert same(owned(learner, "adapter", "routing"), owned(other, "adapter", "routing"))
    assert "memory" not in other.owners


def test_the_instruction_is_put_around_what_is_written(architecture: str, stub: list[list[int]]) -> None:
    """It is a part of what the attention reads, and no generator has to write it."""
    task = replace(TASKS[0], template=replace(TASKS[0].template, instruction="What kind of rose ?"))
    learner, bare = learner_of(architecture), learner_of(architecture)
    for first, own in ((task, learner), (TASKS[0], bare)):
        own.learn(first)
        own.learn(TASKS[1])
    assert known(learner).written == known(bare).written
    assert not torch.equal(known(learner).inputs[0], known(bare).inputs[0])
    assert same(owned(learner, "memory") | {}, owned(bare, "memory")), "nor does its generator see it"


def test_a_host_that_cannot_write_is_refused() -> None:
    with pytest.raises(ModelError, match="'tiny-roberta' is encoder-only and cannot write, which pseudo_inputs of"):
        Learner(tiny_host("roberta"), sapt_lora())
    Learner(tiny_host("roberta"), sapt_lora(inputs="real")).learn(TASKS[0])


def test_what_cannot_be_written_stops_before_anything_is_learned() -> None:
    learner = learner_of("llama", max_length=512)
    with pytest.raises(RecipeError, match="max_length = 512: the model has 64 positions"):
        learner.learn(TASKS[0])
    learner = learner_of("t5", max_length=4)
    with pytest.raises(DataError, match="max_length = 4: the answer 'yes' of task 'animals' takes 4 tokens"):
        learner.learn(TASKS[0])
    learner = learner_of("t5", separator="@@")
    with pytest.raises(DataError, match="cannot write it back"):
        learner.learn(TASKS[0])
    spoken = Row("dog", "yes", turns=(Turn("user", "dog", learned=False),))
    learner = learner_of("llama")
    with pytest.raises(DataError, match=r"[Cc]onversations"):
        learner.learn(replace(TASKS[0], train=(spoken,), labels=None))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"generator_steps": 0}, "generator_steps = 0, draws = 4: a generator learns for at least one step"),
        ({"draws": 0}, "writes at least one sample for each row"),
        ({"generator_rate": 0.0}, "generator_rate = 0.0 is not a positive learning rate"),
        ({"separator": " "}, "something that can be read"),
        ({"max_length": 0}, "not a positive number of tokens"),
        ({"fraction": 1.5}, "fraction: 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        sapt_lora(**settings)
