"""Every moment at which a part may act, and every slot: when it is called, and that what it does counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from helpers.contract import state_of
from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.no_adapter import NoAdapter
from nacre.adapters.route import Route
from nacre.errors import ModelError, RecipeError, SlotTaken
from nacre.events import Event, RowsEncoded, StepTaken
from nacre.functional.losses import token_loss_sum
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.methods.independent import independent
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.pooled_states import PooledStates
from nacre.parts.part import (
    BatchTerm,
    GradientRule,
    LearnerView,
    Memory,
    MicroBatch,
    Penalty,
    Reading,
    Readout,
    Routing,
)
from nacre.parts.penalty import GroupL1
from nacre.tasks.task import Task
from nacre.tasks.template import Example

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, accumulation=2)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
QUIET = {"dropout": 0.0}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def learned(method: Method, count: int = 1, architecture: str = "t5", optim: Optim = OPTIM) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=optim)
    for task in TASKS[:count]:
        learner.learn(task)
    return learner


@dataclass(frozen=True)
class Diary(GradientRule):
    """Writes down when it is called, with the task's number and how many slots there are."""

    lines: list[str] = dataclasses.field(default_factory=list)

    def _write(self, learner: LearnerView, what: str) -> None:
        self.lines.append(f"{what} {learner.task_number} {learner.adapter.tasks}")

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        self._write(learner, "prepare")

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        self._write(learner, "begin")

    def before_step(self, learner: LearnerView) -> None:
        self._write(learner, f"before {learner.step.number}")

    def apply(self, learner: LearnerView) -> None:
        self._write(learner, f"apply {learner.step.number}")

    def after_step(self, learner: LearnerView) -> None:
        self._write(learner, f"after {learner.step.number}")

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        self._write(learner, "end")


def test_moments_come_in_their_order_with_the_new_tasks_number() -> None:
    diary = Diary()
    learned(inc_lora().with_gradient_rule(diary), 2)
    steps = [f"{what} {step} {{0}} {{0}}" for step in range(3) for what in ("before", "apply", "after")]
    expected = []
    for number in (1, 2):
        lines = [f"prepare {number} {number - 1}", "begin {0} {0}", *steps, "end {0} {0}"]
        expected += [line.format(number) for line in lines]
    assert diary.lines == expected


def test_a_step_that_was_skipped_has_no_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fp16 does where a gradient overflows; the schedule stands still, too."""
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", property(lambda _: True))
    diary = Diary()
    learned(inc_lora().with_gradient_rule(diary))
    assert any(line.startswith("apply") for line in diary.lines)
    assert not any(line.startswith("after") for line in diary.lines)


@dataclass(frozen=True)
class TaskLossAgain(BatchTerm):
    """The task loss once more, so that everything can be checked against a doubled one."""

    strength: float | tuple[float, ...]

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        assert len(batch.rows) <= 2  # a micro-batch, not the step
        return token_loss_sum(batch.logits, batch.labels)


def gradients(method: Method, architecture: str) -> list[Tensor]:
    """Of the first step, before clipping."""
    found: list[Tensor] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken) and not found:
            found.extend(p.grad.clone() for group in learner.trainable() for p in group.parameters)

    optim = OPTIM.model_copy(update={"max_grad_norm": None})
    learner = Learner(tiny_host(architecture, torch.float64), method, seed=5, optim=optim, on_event=watch)
    learner.learn(TASKS[0])
    return found


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_batch_term_is_normalized_as_the_task_loss_is(architecture: str) -> None:
    plain = gradients(seq_lora(**QUIET), architecture)
    doubled = gradients(seq_lora(**QUIET).with_batch_term(TaskLossAgain(1.0)), architecture)
    for one, other in zip(plain, doubled, strict=True):
        assert (2 * one - other).abs().max() <= 1e-12 * max(1.0, one.abs().max())


def test_a_batch_term_is_reported_weighted_and_per_task() -> None:
    seen: list[StepTaken] = []
    learner = Learner(
        tiny_host("t5"),
        inc_lora(**QUIET).with_batch_term(TaskLossAgain((0.5, 0.0))),
        optim=OPTIM,
        on_event=lambda event: seen.append(event) if isinstance(event, StepTaken) else None,
    )
    learner.learn(TASKS[0])
    first = seen[0].terms
    assert first["task_loss_again"] == pytest.approx(first["task"])
    assert first["task_loss_again_weighted"] == pytest.approx(0.5 * first["task"])
    assert seen[0].loss == pytest.approx(1.5 * first["task"])
    seen.clear()
    learner.learn(TASKS[1])
    assert seen[0].terms["task_loss_again_weighted"] == 0
    with pytest.raises(SlotTaken, match="2 parts with the key 'task_loss_again'"):
        learner.method.with_batch_term(TaskLossAgain(1.0))


@dataclass(frozen=True)
class Lessons(Memory):
    """No earlier rows; the new task's first row twice more."""

    asked: list[int] = dataclasses.field(default_factory=list)
    mixed: ClassVar[bool] = True

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        self.asked.append(learner.adapter.tasks)
        return []

    def lessons(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        return tasks[0].examples("train")[:1] * 2


def test_lessons_join_the_new_tasks_epoch_and_a_memory_is_asked_once() -> None:
    rows: list[int] = []
    memory = Lessons()
    learner = Learner(
        tiny_host("t5"),
        inc_lora().with_memory(memory),
        optim=OPTIM,
        on_event=lambda event: rows.append(event.rows) if isinstance(event, RowsEncoded) else None,
    )
    for task in TASKS[:2]:
        learner.learn(task)
    assert rows == [14, 14]
    assert memory.asked == [0, 1], "once a task, before its slot opens"


@dataclass(frozen=True)
class Apart(Memory):
    """Rows that no epoch contains."""

    mixed: ClassVar[bool] = False

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        return TASKS[2].examples("train")


def test_a_memory_that_is_not_mixed_changes_no_epoch() -> None:
    assert same(state_of(learned(seq_lora(), 2)), state_of(learned(seq_lora().with_memory(Apart()), 2)))


@dataclass(frozen=True)
class Beside(Memory):
    """Says of a task that its rows are learned again, by others than the epoch."""

    mixed: ClassVar[bool] = False
    again: tuple[str, ...] = ()

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        return ()

    def rehearsed(self, learner: LearnerView) -> Sequence[str]:
        return self.again if learner.task_number == 2 else ()


@pytest.mark.parametrize("again", [(), ("animals",)])
def test_heads_of_tasks_that_a_memory_rehearses_beside_the_epoch_are_trained(again: tuple[str, ...]) -> None:
    learner = Learner(tiny_host("roberta"), seq_lora().with_memory(Beside(again)), seed=5, optim=OPTIM, head="per_task")
    open_rows: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            open_rows.append(
                sum(len(p) for group in learner.trainable() if group.name == "head" for p in group.parameters)
            )

    learner.on_event = watch
    for task in TASKS[:2]:
        learner.learn(task)
    labels = 2  # of each task; a weight and a bias for each
    assert open_rows[0] == 2 * labels
    assert open_rows[-1] == 2 * labels * (1 + len(again))


@dataclass(frozen=True)
class Halved(GradientRule):
    """Serves half of the newest `up` factors, and trains them whole."""

    reads_gradients: ClassVar[bool] = False

    @contextmanager
    def serving(self, learner: LearnerView) -> Iterator[None]:
        parameters = [p for group in learner.trainable() if group.name == "up" for p in group.parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(0.5)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.mul_(2.0)


def test_what_is_served_may_differ_from_what_is_trained() -> None:
    base = learned(seq_lora(**QUIET, alpha=64.0), 2)
    served = learned(seq_lora(**QUIET, alpha=64.0).with_gradient_rule(Halved()), 2)
    assert same(state_of(base), state_of(served)), "training and saving see the trained factors"
    inputs = [example.input for task in TASKS for example in task.examples("test")]
    answers = served.predict(inputs)
    with torch.no_grad():
        for group in base.trainable():
            for parameter in group.parameters:
                parameter.mul_(0.5 if group.name == "up" else 1.0)
    assert answers == base.predict(inputs)
    assert same(state_of(served), {name: t * (2 if ".up." in name else 1) for name, t in state_of(base).items()})


@dataclass(frozen=True)
class Count:
    tasks: int


@dataclass(frozen=True)
class Rebuilt(GradientRule):
    """Keeps something that follows from its state."""

    State: ClassVar[type[Count]] = Count

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        before = learner.remembered(self, Count)
        learner.remember(self, Count(1 + (before.tasks if before else 0)))
        self.restored(learner)

    def restored(self, learner: LearnerView) -> None:
        state = learner.remembered(self, Count)
        learner.cache[self.key] = "x" * (state.tasks if state else 0)


def test_derived_state_is_rebuilt_on_load(tmp_path: Path) -> None:
    method = seq_lora().with_gradient_rule(Rebuilt())
    learner = learned(method, 2)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"), method)
    assert loaded.cache == learner.cache == {"rebuilt": "xx"}


def test_what_cannot_be_read_back_is_refused_when_it_is_remembered() -> None:
    learner = Learner(tiny_host("t5"), seq_lora().with_gradient_rule(Rebuilt()), optim=OPTIM)
    with pytest.raises(TypeError, match=r"rebuilt\.tasks has the key 1: only text can be a key"):
        learner.remember(Rebuilt(), Count({1: 2}))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"rebuilt\.tasks is a set"):
        learner.remember(Rebuilt(), Count({1}))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a int"):
        learner.remember(Rebuilt(), 3)


class Mixer:
    """A routing's trained tensors: one score for each slot."""

    def __init__(self) -> None:
        self.scores = nn.Parameter(torch.zeros(8))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("scores", (self.scores,))]

    def tensors(self) -> dict[str, Tensor]:
        return {"scores": self.scores.detach()}

    def values(self) -> dict[str, int]:
        return {"slots": 8}

    def load(self, tensors: dict[str, Tensor], values: dict[str, int]) -> None:
        with torch.no_grad():
            self.scores.copy_(tensors["scores"]) if tensors else self.scores.zero_()
        self.freeze()

    def freeze(self) -> None:
        stop_training(self.parameter_groups())

    def remove(self) -> None:
        pass


@dataclass(frozen=True)
class LearnedMixture(Routing):
    """The same trained mixture of slots for every row."""

    groups: ClassVar[tuple[str, ...]] = ("scores",)

    def place(self, host: Host, adapter: object) -> Mixer:
        return Mixer()

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        mixer = learner.owners["routing"]
        assert isinstance(mixer, Mixer)
        mixer.scores.requires_grad_(True)

    def route(self, learner: LearnerView, reading: Reading) -> Route:
        mixer = learner.owners["routing"]
        assert isinstance(mixer, Mixer)
        weights = mixer.scores[: learner.adapter.tasks].softmax(0)
        return Route(weights.expand(len(reading.inputs["input_ids"]), -1))


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_routing_may_train_parameters_of_its_own(architecture: str, tmp_path: Path) -> None:
    """They are trained, penalized by name, saved, loaded, counted and frozen as the adapter's are."""
    method = inc_lora(**QUIET).with_routing(LearnedMixture()).with_penalty(GroupL1("scores", 0.1))
    learner = learned(method, 2, architecture)
    scores = learner.owners["routing"].tensors()["scores"]
    assert scores[:2].abs().min() > 0
    assert not any(p.requires_grad for group in learner.trainable() for p in group.parameters)
    assert "scores" in {group.name for group in learner.trainable()}
    unrouted = learned(inc_lora(**QUIET), 2, architecture)
    assert learner.stored_parameters() == unrouted.stored_parameters() + 8
    learner.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "routing.safetensors").exists()
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture), method)
    assert not learner.snapshot().differences(loaded.snapshot())
    assert loaded.answer(TASKS) == learner.answer(TASKS)
    with pytest.raises(RecipeError, match="'scores' needs one; here are: down, up"):
        inc_lora().with_penalty(GroupL1("scores", 0.1))


@dataclass(frozen=True)
class Means:
    by_label: dict[str, Tensor]
    counts: dict[str, int]


@dataclass(frozen=True)
class NearestMean(Readout):
    """Each label's mean of the bare host's pooled states; the nearest one answers."""

    State: ClassVar[type[Means]] = Means

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        before = learner.remembered(self, Means) or Means({}, {})
        sums = {label: mean * before.counts[label] for label, mean in before.by_label.items()}
        counts = dict(before.counts)
        for example in (example for task in tasks for example in task.examples("train")):
            state = learner.pooled_states(learner.encode([example]), STATES)[0].double()
            sums[example.target] = sums.get(example.target, torch.zeros_like(state)) + state
            counts[example.target] = counts.get(example.target, 0) + 1
        learner.remember(self, Means({label: total / counts[label] for label, total in sums.items()}, counts))

    def classify(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
        known = learner.remembered(self, Means)
        if known is None:
            return [""] * len(rows)
        labels = labels or list(known.by_label)
        means = torch.stack([known.by_label[label] for label in labels])
        nearest = torch.cdist(learner.pooled_states(rows, STATES).double(), means).argmin(-1)
        return [labels[number] for number in nearest.tolist()]


STATES = PooledStates()
READ_WHOLE = OPTIM.model_copy(update={"max_target_length": 8})  # otherwise a tiny decoder has no room for the text


def nearest_by_hand(architecture: str) -> list[str]:
    """Of the first task's test rows, one by one, in a host that carries another learner, which has learned nothing."""
    bare = Learner(tiny_host(architecture), seq_lora(), optim=READ_WHOLE)

    def state(example: Example) -> Tensor:
        return bare.pooled_states(bare.encode([example]), STATES)[0].double()

    means = {}
    for label in TASKS[0].labels or ():
        own = [state(example) for example in TASKS[0].examples("train") if example.target == label]
        means[label] = sum(own[1:], own[0]) / len(own)
    rows = [state(example) for example in TASKS[0].examples("test")]
    return [min(means, key=lambda label: float((row - means[label]).norm())) for row in rows]


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_readout_answers_without_an_adapter(architecture: str, tmp_path: Path) -> None:
    method = Method(title="Nearest mean", sources=(), adapter=NoAdapter()).with_readout(NearestMean())
    steps: list[Event] = []
    host = tiny_host(architecture)
    before = {name: tensor.clone() for name, tensor in host.body.state_dict().items()}
    learner = Learner(
        host, method, optim=READ_WHOLE, on_event=lambda e: steps.append(e) if isinstance(e, StepTaken) else None
    )
    assert set(learner.answer(TASKS[:1])[0]) == {""}, "nothing is known yet"
    learner.learn(TASKS[0])
    assert not steps, "no optimizer step"
    assert learner.answer(TASKS[:1])[0] == nearest_by_hand(architecture)
    assert same(before, dict(host.body.state_dict()))
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture), method)
    assert loaded.task_number == 1
    assert loaded.answer(TASKS[:1]) == learner.answer(TASKS[:1])
    assert not learner.stored_parameters(), "an encoder's head is not opened"
    with pytest.raises(SlotTaken, match="already has a readout"):
        method.with_readout(NearestMean())
    with (
        pytest.raises(ModelError, match="nothing that a route could choose from"),
        learner.under(Route(torch.ones(1, 1))),
    ):
        pass


def test_a_penalty_may_run_the_model_in_training() -> None:
    """Its rows pass the same seam and are differentiated."""

    @dataclass(frozen=True)
    class LossOnFish(Penalty):
        strength: float

        def value(self, learner: LearnerView) -> Tensor:
            rows = learner.encode(TASKS[2].examples("train"))
            return token_loss_sum(*learner.predictions(rows)) / sum(row.num_target_tokens for row in rows)

    with_fish = learned(seq_lora(**QUIET).with_penalty(LossOnFish(1.0)))
    without = learned(seq_lora(**QUIET).with_penalty(LossOnFish(0.0)))
    assert same(state_of(without), state_of(learned(seq_lora(**QUIET))))
    assert not same(state_of(with_fish), state_of(without))


def test_a_second_learner_on_one_model_is_refused_until_the_first_is_removed() -> None:
    host = tiny_host("roberta")
    first = Learner(host, seq_lora(), optim=OPTIM)
    first.learn(TASKS[0])
    answers = first.answer(TASKS[:1])
    for other in (host, Host(host.model, host.tokenizer)):
        with pytest.raises(ModelError, match=r"already carries a learner \(seq_lora\): call its remove\(\) first"):
            Learner(other, inc_lora())
    assert first.answer(TASKS[:1]) == answers, "the first one's head is still there"
    first.remove()
    Learner(host, inc_lora())


def test_a_host_is_hashed_once_and_only_when_somebody_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    digest = Host.fingerprint_of

    def counted(tensors: dict[str, Tensor]) -> str:
        calls.append(1)
        return digest(tensors)

    monkeypatch.setattr(Host, "fingerprint_of", staticmethod(counted))
    host = tiny_host("t5")
    expected = digest(host.body.state_dict())
    learner = Learner(host, independent(), optim=OPTIM)
    learner.learn(TASKS[0])
    assert not calls
    learner.save(tmp_path / "one")
    again = learner.restart()
    again.learn(TASKS[1])
    again.save(tmp_path / "two")
    assert len(calls) == 1
    assert checkpoint.read(tmp_path / "two").host["hash"] == again.pretrained == expected
