"""+evidence and +gaussian_routing: naive float64 twins, the same bits in any order, and their edges."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import RecipeError, SlotTaken
from nacre.evaluation.settings import Decoding
from nacre.events import Event, TrainingPrepared
from nacre.functional.gaussian_evidence import TEMPERATURES, held_out_evidence, surprise
from nacre.learning import learner as learning
from nacre.learning import router
from nacre.learning.learner import Learner
from nacre.learning.router import LearnerRouter
from nacre.learning.settings import Optim
from nacre.models import generative, label_passes, pooled_states
from nacre.models.batch import Batch
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.pooled_states import PooledStates
from nacre.parts.evidence_posterior import posterior
from nacre.parts.evidence_sums import FOLDS, Sums, SumsSettings, View
from nacre.parts.gaussian_routing import GaussianRouting
from nacre.parts.label_evidence import LabelEvidence
from nacre.registry import build_method
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASKS = [
    tiny_task("animals", rows=24),
    tiny_task("birds", rows=17, labels=("red", "green")),
    tiny_task("fish", rows=20, labels=("maybe", "no", "blue")),
]
RIDGE = 0.3


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(name: str, architecture: str, tasks: list[Task] = TASKS, decode: Any = "free", **settings: Any) -> Learner:
    """After the tasks, each moved off its start, where slots hardly differ."""

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    learner = Learner(
        tiny_host(architecture, torch.float64),
        build_method(name, settings),
        seed=4,
        optim=OPTIM,
        decoding=Decoding(decode=decode),
        on_event=watch,
    )
    for task in tasks:
        learner.learn(task)
    return learner


def sums_of(learner: Learner) -> Sums:
    part = next(part for part in learner.method.parts if isinstance(part, LabelEvidence | GaussianRouting))
    found = learner.remembered(part, Sums)
    assert found is not None
    return found


def encoded(learner: Learner, split: Any = "test", tasks: list[Task] = TASKS) -> list[Encoded]:
    return learner.encode([example for task in tasks for example in task.examples(split)])


class Naive:
    """The evidence by numpy alone, from the states of one row at a time."""

    def __init__(
        self, learner: Learner, settings: SumsSettings, views: tuple[Any, ...], tasks: list[Task] = TASKS
    ) -> None:
        self.learner, self.settings, self.views = learner, settings, views
        self.pairs = sorted({(task.name, row.target) for task in tasks for row in task.train})
        self.means, self.inverse = {}, {}
        for view in views:
            rows = [(task.name, row.target, self.state(task, row, view)) for task in tasks for row in task.train]
            own = {pair: np.array([z for *of, z in rows if tuple(of) == pair]) for pair in self.pairs}
            self.means[view] = {pair: states.mean(0) for pair, states in own.items()}
            spread = sum((states - states.mean(0)).T @ (states - states.mean(0)) for states in own.values())
            covariance = spread / (len(rows) - len(self.pairs))
            added = (
                np.diag(covariance)
                if settings.along == "diagonal"
                else np.diag(covariance).mean() * np.ones(len(spread))
            )
            self.inverse[view] = np.linalg.inv(covariance + settings.ridge * np.diag(added))

    def state(self, task: Task, row: Any, view: Any) -> np.ndarray:
        example = task.template.example(row.text, row.target, task.labels, task=task.name)
        states = self.settings.states(self.learner, view)
        return self.learner.pooled_states(self.learner.encode([example]), states)[0].double().numpy()  # type: ignore[no-any-return]

    def evidence(self, task: Task, row: Any) -> dict[tuple[str, str], float]:
        found = dict.fromkeys(self.pairs, 0.0)
        for view in self.views:
            z = self.state(task, row, view)
            for pair in self.pairs:
                away = z - self.means[view][pair]
                found[pair] -= away @ self.inverse[view] @ away / 2
        return found


def test_the_evidence_alone_is_the_naive_one(architecture: str) -> None:
    settings = {"host_weight": 0.0, "along": "identity", "ridge": 0.7}
    learner = learned("inc_lora+evidence", architecture, evidence=settings)
    naive = Naive(learner, SumsSettings(ridge=0.7, along="identity"), ("prompt", "bare"))
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        found = [naive.evidence(task, row) for row in task.test]
        assert answers == [max(each, key=each.__getitem__)[1] for each in found]


def test_the_answer_is_the_hosts_log_probability_times_w_plus_the_evidence_over_its_temperature(
    architecture: str,
) -> None:
    learner = learned(
        "inc_lora+evidence", architecture, decode="labels", evidence={"host_weight": 2.0, "views": "bare"}
    )
    part = learner.method.readout
    assert isinstance(part, LabelEvidence)
    naive = Naive(learner, part.sums, ("bare",))
    temperature = posterior(learner, part.sums, sums_of(learner)).temperatures["bare"]
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        labels = list(task.labels or ())
        for row, answer in zip(task.test, answers, strict=True):
            example = task.template.example(row.text, row.target, task.labels, task=task.name)
            host = learner.label_scores(learner.encode([example]), labels)[0].tolist()
            found = naive.evidence(task, row)
            scores = [
                2 * own + max(value for (_, other), value in found.items() if other == label) / temperature
                for own, label in zip(host, labels, strict=True)
            ]
            assert answer == labels[int(np.argmax(scores))]


@pytest.mark.parametrize(("weight", "asks_all"), [(0.25, False), (8.0, True)])
def test_the_host_is_asked_about_few_labels_and_no_answer_changes(
    architecture: str, weight: float, asks_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learned("nacre", architecture, host_weight=weight, abstain=False)
    part, rows = learner.method.readout, encoded(learner)
    assert isinstance(part, LabelEvidence)
    with learner.serving():
        decisions = part.decide(learner, rows, None)
        asked: list[int] = []
        scores = Learner.label_scores

        def counted(self: Learner, rows: list[Encoded], labels: list[str], *route: Any) -> Tensor:
            asked.append(len(rows) * len(labels))
            return scores(self, rows, labels, *route)

        monkeypatch.setattr(Learner, "label_scores", counted)
        answers = [part.classify(learner, [row], None)[0] for row in rows]
    assert answers == [decision.answer for decision in decisions]
    assert 0 < sum(asked) <= 6 * len(rows), "of six labels"
    assert asks_all or sum(asked) < 6 * len(rows)


def test_rows_asked_about_again_are_not_read_again_for_their_route(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learned("nacre", "t5", host_weight=4.0, abstain=False)
    part, rows = learner.method.readout, encoded(learner)[-8:]
    assert isinstance(part, LabelEvidence)
    asked, read, routes = [], [], []
    scores, pooled, chosen = Learner.label_scores, pooled_states.pooled_states, LearnerRouter.chosen

    def counted(self: Learner, rows: list[Encoded], labels: list[str], *route: Any) -> Tensor:
        asked.append([row.source for row in rows])
        return scores(self, rows, labels, *route)

    def reads(host: Host, inputs: dict[str, Tensor], states: PooledStates) -> Tensor:
        read.append((states.text, len(inputs["input_ids"])))
        return pooled(host, inputs, states)

    def routed(self: LearnerRouter, batch: Batch) -> Route | None:
        route = chosen(self, batch)
        assert route is not None
        routes.append(route.likeliest_slots.tolist())
        return route

    monkeypatch.setattr(Learner, "label_scores", counted)
    for module in (router, learning):
        monkeypatch.setattr(module, "pooled_states", reads)
    monkeypatch.setattr(LearnerRouter, "chosen", routed)
    with learner.serving():
        part.classify(learner, rows, None)
    assert len(asked) > 1
    assert len(asked[1]) < len(rows)
    assert sorted(read) == [("bare", len(rows)), ("prompt", len(rows))]
    first = dict(zip(asked[0], routes[0], strict=True))
    assert all(
        first[row] == slot
        for own, slots in zip(asked, routes, strict=True)
        for row, slot in zip(own, slots, strict=True)
    )
    with learner.serving():
        read.clear()
        part.classify(learner, [row for row in rows if row.source in asked[1]], None)
    assert read, "rows that are a batch of their own are read as one"


def test_the_same_bits_in_any_order_of_rows_and_tasks(architecture: str) -> None:
    drawn = random.Random(0)
    shuffled = [replace(task, train=tuple(drawn.sample(task.train, len(task.train)))) for task in reversed(TASKS)]
    one, other = (
        sums_of(learned("inc_lora+evidence", architecture, tasks, evidence={"host_weight": 0.0}))
        for tasks in (TASKS, shuffled)
    )
    assert [own.task for own in one.tasks] == [own.task for own in other.tasks] == ["animals", "birds", "fish"]
    for mine, theirs in zip(one.tasks, other.tasks, strict=True):
        for text in ("prompt", "bare"):
            assert torch.equal(mine.view(text).scatter, theirs.view(text).scatter)
            for own, their in zip(mine.view(text).means, theirs.view(text).means, strict=True):
                assert own.pair == their.pair
                assert torch.equal(own.mean, their.mean)


def test_a_task_in_two_parts_has_the_sums_of_the_whole() -> None:
    halves = [replace(TASKS[0], train=TASKS[0].train[:9]), replace(TASKS[0], train=TASKS[0].train[9:])]
    whole = sums_of(learned("inc_lora+evidence", "t5", TASKS[:1]))
    learner = learned("inc_lora+evidence", "t5", halves[:1])
    learner.learn(halves[1], again=True)
    parts = sums_of(learner)

    def numbers(view: View) -> list[Tensor]:
        return [view.scatter, *(own.mean for own in view.means)]

    for text in ("prompt", "bare"):
        for one, other in zip(numbers(whole.tasks[0].view(text)), numbers(parts.tasks[0].view(text)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert [own.count for own in parts.tasks[0].bare.means] == [12, 12]


def test_the_temperature_is_that_at_which_held_out_rows_surprise_the_least() -> None:
    learner = learned("inc_lora+evidence", "t5", TASKS[:1], evidence={"host_weight": 0.0})
    rows = sorted(
        encoded(learner, "train", TASKS[:1]), key=lambda row: (len(row.source), row.source, row.bare, row.target)
    )
    labels = [row.example.target for row in rows if row.example]
    classes = torch.tensor([sorted(set(labels)).index(label) for label in labels])
    settings = SumsSettings()
    total = torch.zeros(len(TEMPERATURES)).double()
    both = 0
    for text in ("prompt", "bare"):
        z = learner.pooled_states(rows, settings.states(learner, text)).double()
        both = both + held_out_evidence(
            z, classes, torch.arange(len(z)) % FOLDS, z[:0], torch.zeros(z.shape[1], z.shape[1]).double(), 0,
            strength=RIDGE, along="diagonal",
        )  # fmt: skip
    total = surprise(both, classes)
    torch.testing.assert_close(sums_of(learner).tasks[0].surprise["both"], total, rtol=1e-4, atol=1e-4)
    found = posterior(learner, settings, sums_of(learner)).temperatures["both"]
    assert total[TEMPERATURES.tolist().index(found)] <= total.min() + 1e-3


@pytest.mark.parametrize("decode", ["labels", "free"])
def test_a_host_that_counts_for_everything_answers_as_it_does_without_evidence(architecture: str, decode: str) -> None:
    learner = learned("inc_lora+evidence", architecture, decode=decode, evidence={"host_weight": 1e9})
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        known = sorted({label for each in TASKS for label in each.labels or ()})
        labels = list(task.labels or ()) if decode == "labels" else known
        with torch.no_grad():
            scores = learner.label_scores(learner.encode(task.examples("test")), labels)
        assert answers == [labels[number] for number in scores.argmax(1).tolist()]


def test_training_is_that_of_the_method_without_evidence_to_the_bit(architecture: str) -> None:
    with_evidence, without = (learned(name, architecture) for name in ("inc_lora+evidence", "inc_lora"))
    for name, tensor in without.adapter.tensors().items():
        assert torch.equal(tensor, with_evidence.adapter.tensors()[name])


def test_a_task_without_labels_is_answered_by_the_host(architecture: str) -> None:
    if architecture == "roberta":
        pytest.skip("it answers with labels alone")
    story = replace(tiny_task("story"), labels=None)
    learner, plain = (learned(name, architecture, [TASKS[0], story]) for name in ("inc_lora+evidence", "inc_lora"))
    assert learner.answer([story, TASKS[0], story])[::2] == plain.answer([story, story])
    assert learner.predict(["the dog sees"]) == plain.predict(["the dog sees"])


def test_routing_is_by_the_posterior_of_the_naive_evidence(architecture: str) -> None:
    learner = learned("inc_lora+gaussian_routing", architecture, gaussian_routing={"top": None, "views": "prompt"})
    part = learner.method.routing
    assert isinstance(part, GaussianRouting)
    naive = Naive(learner, part.sums, ("prompt",))
    temperature = posterior(learner, part.sums, sums_of(learner)).temperatures["prompt"]
    seen: list[Tensor] = []
    follow = learner.adapter.use
    learner.adapter.use = lambda route: (seen.append(route.weights), follow(route))[1]  # type: ignore[method-assign]
    for task in TASKS:
        seen.clear()
        rows = learner.encode(task.examples("test"))
        learner.host.write(rows, 1)
        (weights,) = seen
        for row, found in zip(task.test, weights, strict=True):
            evidence = naive.evidence(task, row)
            posteriors = dict(zip(evidence, log_softmax(np.array(list(evidence.values())) / temperature), strict=True))
            expected = [
                np.exp(logsumexp([value for (owner, _), value in posteriors.items() if owner == other.name]))
                for other in TASKS
            ]
            assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_hard_route_is_the_slot_of_the_likeliest_task_to_the_bit(architecture: str) -> None:
    """The tasks' options tell them apart."""
    learner = learned("inc_lora+gaussian_routing", architecture)
    for number, task in enumerate(TASKS):
        rows, labels = encoded(learner, tasks=[task]), list(task.labels or ())
        slots = torch.full((len(rows),), number)
        with torch.no_grad():
            found = learner.label_scores(rows, labels)
            head = learner.host.family.head
            own = (
                None if head is None else torch.tensor([[label in labels for label in head.labels.classes]] * len(rows))
            )
            with learner.under(Route(slots=slots, classes=own)):
                assert torch.equal(learner.label_scores(rows, labels), found)
            with learner.under(Route(slots=(slots + 1) % 3, classes=own)):
                assert not torch.equal(learner.label_scores(rows, labels), found)


def test_gates_with_offsets_are_the_naive_softmax(architecture: str) -> None:
    learner = learned("am_lora+gaussian_routing", architecture, dropout=0.0)
    site = next(iter(learner.adapter.sites.values()))  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, site.d_in, generator=generator, dtype=torch.float64)
    offsets = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    site.row_offsets = offsets
    with torch.no_grad():
        found = site(x)
    down, up = site.slots.all_pairs()
    for row in range(2):
        for place in range(3):
            y = [site.scale * (up[task].T @ (down[task] @ x[row, place])) for task in range(3)]
            scores = [offsets[row, 0], *(site.selector[task] @ y[task] + offsets[row, 1 + task] for task in range(3))]
            gates = torch.stack([torch.as_tensor(score) for score in scores]).softmax(0)
            expected = site.untouched(x[row, place]) + sum(gates[1 + task] * y[task] for task in range(3))
            torch.testing.assert_close(found[row, place], expected, rtol=1e-9, atol=1e-12)


def test_offsets_of_zero_change_no_gate(architecture: str) -> None:
    learner = learned("am_lora", architecture)
    rows = encoded(learner)
    with torch.no_grad():
        plain, _ = learner.predictions(rows)
        with learner.adapter.use(Route(score_offsets=torch.zeros(len(rows), 4))):
            offset, _ = learner.predictions(rows)
    torch.testing.assert_close(offset, plain, rtol=1e-9, atol=1e-12)


def test_the_offset_makes_the_loss_the_cross_entropy_of_the_labels_under_both_opinions(architecture: str) -> None:
    losses: list[Tensor] = []

    def keep(loss: Any) -> Any:
        def kept(*arguments: Any) -> Any:
            found = loss(*arguments)
            rows = arguments[1]
            with torch.no_grad():
                labels = list(TASKS[1].labels or ())
                scores = learner.label_scores(rows, labels)
            losses.append(found.task.detach() + found.terms["evidence_offset"].detach())
            offsets = learner.resources["evidence_offset"]["birds"]
            evidence, targets = offsets.of_rows(rows)
            expected = -(scores.double() + evidence).log_softmax(1)[torch.arange(len(rows)), targets].sum()
            torch.testing.assert_close(losses[-1].double(), expected, rtol=1e-9, atol=1e-9)
            return found

        return kept

    method = build_method("seq_lora+evidence", {"dropout": 0.0, "evidence": {"offset": 1.0}})
    learner = Learner(tiny_host(architecture, torch.float64), method, optim=OPTIM)
    learner.loss = keep(learner.loss)  # type: ignore[method-assign]
    learner.learn(TASKS[1])
    assert len(losses) == 5


@pytest.mark.parametrize("way", ["together", "a row at a time"])
def test_a_route_goes_with_its_rows_however_many_passes_they_take(
    architecture: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are sequences behind cached prompts, of which few fit into memory at once."""
    learner = learned("inc_lora+gaussian_routing", architecture)
    rows = [row for rows in zip(*(encoded(learner, tasks=[task]) for task in TASKS), strict=True) for row in rows]
    slots = torch.tensor([2, 0, 1, 1] * len(rows))[: len(rows)]
    labels = ["yes", "green"]
    with torch.no_grad():
        expected = torch.cat(
            [
                learner.label_scores([row], labels, Route(slots=slots[number : number + 1]))
                for number, row in enumerate(rows)
            ]
        )
        if way != "together":
            monkeypatch.setattr(generative, "LOGITS_AT_ONCE", 1)
            monkeypatch.setattr(label_passes, "takes_tree", lambda model, tree, width: False)
            monkeypatch.setattr(generative, "takes_tree", lambda model, tree, width: False)
        found = learner.label_scores(rows, labels, Route(slots=slots))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert len({row.task for row in rows[:4]}) > 1


@pytest.mark.parametrize("memory", ["replay", "der"])
def test_rows_that_a_memory_adds_have_no_offset(memory: str) -> None:
    """Also those of the task itself, when it is learned again with other rows."""
    method = build_method(f"seq_lora+evidence+{memory}", {"evidence": {"offset": 1.0}})
    learner = Learner(tiny_host("t5", torch.float64), method, optim=OPTIM)
    learner.learn(TASKS[0])
    learner.learn(TASKS[1])
    learner.learn(replace(TASKS[0], train=TASKS[0].test), again=True)
    assert learner.state.tasks == ["animals", "birds", "animals"]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="ridge"):
        build_method("inc_lora+evidence", {"evidence": {"ridge": 0.0}})
    with pytest.raises(RecipeError, match="host_weight: -1 is negative"):
        build_method("inc_lora+evidence", {"evidence": {"host_weight": -1.0}})
    with pytest.raises(RecipeError, match="top: 0 is not a positive number"):
        build_method("inc_lora+gaussian_routing", {"gaussian_routing": {"top": 0}})
    with pytest.raises(RecipeError, match="one for each task; inc_lora and am_lora have them"):
        build_method("seq_lora+gaussian_routing")
    with pytest.raises(RecipeError, match="keep_gates leaves tasks out by gates"):
        build_method("am_lora+gaussian_routing", {"keep_gates": 1})
    with pytest.raises(SlotTaken):
        build_method("lda+evidence")
    both = build_method("inc_lora+gaussian_routing+evidence", {"evidence": {"layer": 1}})
    with pytest.raises(RecipeError, match="which are of layer -1"):
        Learner(tiny_host("t5"), both, optim=OPTIM).learn(TASKS[0])
