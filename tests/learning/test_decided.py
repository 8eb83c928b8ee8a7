"""Which task a learner takes each test row for, and how sure its answer is: against each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.evaluation.settings import Decoding
from nacre.events import Event, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.router import routed_by
from nacre.learning.settings import Optim
from nacre.measuring.deciding import decisions_of
from nacre.method import Method
from nacre.parts.curriculum import Joint
from nacre.parts.evidence_posterior import posterior
from nacre.parts.evidence_sums import Sums
from nacre.parts.key_matching import KeyMatching
from nacre.parts.label_evidence import LabelEvidence
from nacre.parts.nearest_class import ClassMeans, NearestClass
from nacre.registry import build_method
from nacre.tasks.task import Row, Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASKS = [
    tiny_task("animals", rows=24),
    tiny_task("birds", rows=17, labels=("red", "green")),
    tiny_task("fish", rows=20, labels=("maybe", "no", "blue")),
]
CHOSEN = Decoding(decode="labels")


def learned(method: Method | str, architecture: str = "t5", tasks: Sequence[Task] = TASKS, **more: object) -> Learner:
    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    settings = {"decoding": CHOSEN, **more}
    made = build_method(method) if isinstance(method, str) else method
    learner = Learner(tiny_host(architecture, torch.float64), made, seed=4, optim=OPTIM, on_event=watch, **settings)  # type: ignore[arg-type]
    for task in tasks:
        learner.learn(task)
    return learner


def foreign(task: Task) -> Task:
    """The task with test rows of which some are of no task."""
    odd = tuple(Row("four four four four Option Answer", row.target) for row in task.test[:3])
    return replace(task, test=(*task.test, *odd))


def by_classes(learner: Learner, task: Task) -> list[str]:
    """EPI's nearest class, one row and one class at a time."""
    routing = learner.method.routing
    assert isinstance(routing, NearestClass)
    known = learner.remembered(routing, ClassMeans)
    assert known is not None
    covariance = known.covariance.numpy() / len(known.slots)
    inverse = np.linalg.pinv(covariance, rcond=routing.tolerance, hermitian=True)
    names = []
    for row in learner.encode(task.examples("test")):
        state = learner.pooled_states([row], routing.states)[0].double().numpy()
        best, name = np.inf, ""
        for slot, own in zip(known.slots, learner.state.tasks, strict=True):
            for mean in slot.means.numpy():
                distance = (state - mean) @ inverse @ (state - mean)
                if distance < best:
                    best, name = distance, own
        names.append(name)
    return names


def by_keys(learner: Learner, task: Task) -> list[str]:
    """MoCL's nearest key, one row and one key at a time."""
    routing = learner.method.routing
    assert isinstance(routing, KeyMatching)
    keys = learner.owners["routing"].tensors()
    found = next(tensor for tensor in keys.values() if tensor.dim() == 2).double().numpy()
    names = []
    for row in learner.encode(task.examples("test")):
        state = learner.pooled_states([row], routing.query)[0].double().numpy()
        cosines = [state @ key / np.linalg.norm(state) / np.linalg.norm(key) for key in found]
        names.append(learner.state.tasks[int(np.argmax(cosines))])
    return names


@pytest.mark.parametrize(
    ("method", "settings", "architecture", "naive"),
    [
        ("epi", {}, "t5", by_classes),
        ("epi", {}, "roberta", by_classes),
        ("mocl", {"composes": "predicted"}, "t5", by_keys),
        ("mocl", {"composes": "all"}, "t5", by_keys),
    ],
)
def test_a_routing_takes_rows_for_the_task_of_their_slot(
    method: str, settings: dict[str, object], architecture: str, naive: Callable[[Learner, Task], list[str]]
) -> None:
    learner = learned(build_method(method, settings), architecture)
    found = learner.decided(TASKS)
    assert found is not None
    assert [[row.task for row in rows] for rows in found] == [naive(learner, task) for task in TASKS]
    assert {(row.by, row.kind, row.probability) for rows in found for row in rows} == {("routing", None, None)}
    decisions = decisions_of(learner, list(zip(TASKS, learner.evaluate(TASKS), strict=True)))
    assert decisions is not None
    assert (decisions.kinds, decisions.calibration, decisions.map) == (None, None, None)
    assert list(decisions.problems()) == []


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("any_ssr", {"blocks": 1, "dimension": 32}),
        ("code_lora", {}),  # its readout answers, and does not say how sure it is
        ("latent_lora", {"rank": 4}),
        ("inc_lora+gaussian_routing", {"gaussian_routing": {"top": 2}}),
        ("inc_lora+gaussian_routing+abstention", {}),
    ],
)
def test_a_row_is_taken_for_the_task_of_the_slot_with_the_largest_weight(
    method: str, settings: dict[str, object]
) -> None:
    learner = learned(build_method(method, settings))
    tasks = [foreign(task) for task in TASKS]
    found = learner.decided(tasks)
    assert found is not None
    assert learner.router is not None
    nobody = 0
    for task, rows in zip(tasks, found, strict=True):
        for own, row in zip(rows, learner.encode(task.examples("test")), strict=True):
            with learner.serving(), routed_by(learner.host.family, None), torch.no_grad():
                route = learner.router.chosen(learner.host.on_device(learner.host.family.prompts([row])))
            assert route is not None
            weights = route.as_weights(len(TASKS))
            assert weights is not None
            largest = weights[0].max().item()
            name = TASKS[weights[0].tolist().index(largest)].name if largest > 0 else None
            assert (own.task, own.by) == (name, "routing")
            nobody += name is None
    assert (nobody > 0) == method.endswith("+abstention")


@pytest.mark.parametrize("architecture", ["t5", "roberta"])
@pytest.mark.parametrize("decoding", [CHOSEN, Decoding()], ids=("labels", "free"))
def test_what_a_readout_decides_is_counted(architecture: str, decoding: Decoding) -> None:
    if architecture == "roberta" and decoding.decode == "free":
        decoding = Decoding(batch_size=1)  # as good as any: an encoder-only host has no other answers
    tasks = [foreign(task) for task in TASKS]
    learner = learned("nacre", architecture, decoding=decoding)
    scores = learner.evaluate(tasks)
    decisions = decisions_of(learner, list(zip(tasks, scores, strict=True)))
    assert decisions is not None
    readout = learner.method.readout
    assert readout is not None
    names = [task.name for task in TASKS]
    counts = [[0] * 4 for _ in tasks]
    kinds = [dict.fromkeys(("known", "reworded", "foreign"), 0) for _ in tasks]
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for number, (task, score) in enumerate(zip(tasks, scores, strict=True)):
        labels = task.labels if decoding.decode == "labels" else None
        for example, answer, right in zip(task.examples("test"), score.answers, score.right, strict=True):
            with learner.serving():
                decision = readout.decide(learner, learner.encode([example]), labels)
            assert decision is not None
            own = decision[0]
            assert own.answer == answer
            kinds[number][own.kind] += 1
            if own.kind == "foreign":
                counts[number][3] += 1
                continue
            counts[number][names.index(max(own.tasks, key=lambda name: own.tasks[name]))] += 1
            assert own.labels[answer] == max(own.labels.values())
            place = next(place for place in range(10) if own.labels[answer] <= (place + 1) / 10 or place == 9)
            bins[place].append((own.labels[answer], right))
    assert decisions.counts == counts
    assert sum(row[3] for row in counts) >= 1
    assert decisions.kinds is not None
    assert [own.model_dump() for own in decisions.kinds] == kinds
    assert decisions.right == sum(counts[number][number] for number in range(3)) / sum(map(sum, counts))
    calibration = decisions.calibration
    assert calibration is not None
    assert [own.rows for own in calibration.bins] == [len(own) for own in bins]
    assert calibration.left_out == sum(row[3] for row in counts)
    off = 0.0
    for own, rows in zip(calibration.bins, bins, strict=True):
        if rows:
            mean, share = sum(p for p, _ in rows) / len(rows), sum(good for _, good in rows) / len(rows)
            assert (own.probability, own.right) == (pytest.approx(mean), share)
            off += len(rows) * abs(mean - share)
        else:
            assert (own.probability, own.right) == (None, None)
    assert calibration.expected_error == pytest.approx(off / sum(map(len, bins)))
    assert list(decisions.problems()) == []


def test_rows_are_decided_alone_whatever_their_batch_and_order() -> None:
    for method in ("nacre", "inc_lora+gaussian_routing"):
        learner = learned(method, tasks=TASKS[:2])
        one = learner.decided([replace(task, test=tuple(reversed(task.test))) for task in TASKS])
        learner.decoding = CHOSEN.model_copy(update={"batch_size": 1})
        other = learner.decided(TASKS)
        assert one is not None
        assert other is not None
        for rows, again in zip(one, other, strict=True):
            assert [row.task for row in rows[::-1]] == [row.task for row in again]
            probable = [own.probability or 0.0 for own in again]
            assert [row.probability or 0.0 for row in rows[::-1]] == pytest.approx(probable, abs=1e-6)


def test_who_is_told_the_task_or_does_not_ask_decides_nothing() -> None:
    for method in ("inc_lora", "lda", "demix", "mocl"):
        settings: dict[str, object] = {"reduction": 2} if method == "demix" else {}
        learner = learned(build_method(method, settings), tasks=TASKS[:1])
        assert learner.decided(TASKS[:1]) is None, method
        assert decisions_of(learner, list(zip(TASKS[:1], learner.evaluate(TASKS[:1]), strict=True))) is None
    assert learned("nacre", tasks=()).decided(TASKS) is None
    cosines = learned(build_method("mocl", {"composes": "predicted", "sharpness": None}), tasks=TASKS[:1])
    assert cosines.decided(TASKS[:1]) is None


def test_tasks_that_share_a_slot_are_not_told_apart() -> None:
    learner = learned(replace(build_method("epi"), curriculum=Joint()), tasks=())
    learner.learn(*TASKS[:2])
    assert learner.decided(TASKS[:2]) is None


def test_kinds_are_counted_only_where_rows_may_be_foreign() -> None:
    learner = learned("seq_ft+evidence", tasks=TASKS[:2])
    decisions = decisions_of(learner, list(zip(TASKS[:2], learner.evaluate(TASKS[:2]), strict=True)))
    assert decisions is not None
    assert decisions.kinds is None
    assert decisions.calibration is not None
    assert [row[-1] for row in decisions.counts] == [0, 0]


def test_labels_lie_where_the_sums_are_whatever_the_order_of_tasks() -> None:
    maps = []
    for order in (TASKS, [TASKS[2], TASKS[0], TASKS[1]]):
        learner = learned("nacre", tasks=order)
        decisions = decisions_of(learner, list(zip(TASKS, learner.evaluate(TASKS), strict=True)))
        assert decisions is not None
        assert decisions.map is not None
        maps.append(decisions.map)
        readout = learner.method.readout
        assert isinstance(readout, LabelEvidence)
        known = learner.remembered(readout, Sums)
        assert known is not None
        solved = posterior(learner, readout.sums, known)
        means = np.concatenate([solved.solved["prompt"][1].numpy(), solved.solved["bare"][1].numpy()], 1)
        centered = means - means.mean(0)
        left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
        expected = np.abs(left[:, :2] * sizes[:2])
        assert np.allclose(np.abs([(own.x, own.y) for own in decisions.map.points]), expected, atol=1e-9)
        assert [(own.task, own.label) for own in decisions.map.points] == solved.pairs
        assert decisions.map.shown == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum())
    assert maps[0] == maps[1]  # to the bit
