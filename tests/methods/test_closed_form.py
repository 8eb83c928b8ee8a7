"""Closed-form learners: equal to scikit-learn's fit on all rows, to the bit in any order, and what they refuse."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from helpers.tiny import tiny_host, tiny_task
from nacre.errors import DataError, RecipeError
from nacre.evaluation.settings import Decoding
from nacre.events import Event, StepTaken
from nacre.functional.random_features import standard_normal
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_lora import seq_lora
from nacre.models.pooled_states import PooledStates
from nacre.parts.linear_discriminant import Discriminant, LinearDiscriminant
from nacre.parts.nearest_mean import NearestMean
from nacre.parts.random_ridge import RandomRidge
from nacre.registry import build_method
from nacre.seeds import derive
from nacre.tasks.task import Row, Task

OPTIM = Optim(batch_size=4, log_every=1, max_target_length=8)
TASKS = [
    tiny_task("animals", rows=24),
    tiny_task("birds", rows=17, labels=("red", "green")),
    tiny_task("fish", rows=20, labels=("maybe", "no", "blue")),
]
ALL: dict[str, tuple[str, dict[str, Any]]] = {
    "nearest_mean": ("nearest_mean", {}),
    "nearest_mean-cosine": ("nearest_mean", {"rule": "cosine", "text": "prompt", "layer": "words"}),
    "lda": ("lda", {}),
    "lda-tasks": ("lda", {"covariance": "tasks", "shrinkage": 0.2, "prior": "tasks", "answer": "sum"}),
    "lda-classes": ("lda", {"covariance": "classes", "prior": "counts", "layer": 1, "pooling": "last"}),
    "ridge": ("ridge", {"dimension": 64}),
    "ridge-plain": ("ridge", {"dimension": None, "lam": 0.5, "scale": "absolute", "pooling": "max"}),
    "klda": ("klda", {"dimension": 60, "gamma": 0.3}),
    "knn": ("knn", {"per_pair": 5, "k": 3}),
    "knn-all": ("knn", {"per_pair": None, "k": 1, "distance": "euclidean", "precision": "float32"}),
    "lda-unit": ("lda", {"unit": "task", "shrinkage": 0.01, "prior": "tasks"}),
}


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(name: str, architecture: str, tasks: list[Task] = TASKS, **decoding: Any) -> Learner:
    learner = Learner(
        tiny_host(architecture), build_method(*ALL[name]), seed=4, optim=OPTIM, decoding=Decoding(**decoding)
    )
    for task in tasks:
        learner.learn(task)
    return learner


def features(architecture: str, states: PooledStates, split: str, tasks: list[Task] = TASKS) -> tuple[Any, list[str]]:
    """Row by row, and the pairs as text, in a host that has learned nothing."""
    bare = Learner(tiny_host(architecture), seq_lora(), optim=OPTIM)
    rows = [(task.name, row) for task in tasks for row in bare.encode(task.examples(split))]
    names = [f"{task.name}/{row.target}" for task in tasks for row in task.rows(split)]
    return torch.cat([bare.pooled_states([row], states) for _, row in rows]).double().numpy(), names


def own_states(learner: Learner) -> PooledStates:
    readout = learner.method.readout
    return readout._view(learner)  # type: ignore[union-attr]


def test_nearest_mean_is_scikit_learns(architecture: str) -> None:
    learner = learned("nearest_mean", architecture)
    states, names = features(architecture, own_states(learner), "train")
    theirs = NearestCentroid().fit(states, names)
    tests, _ = features(architecture, own_states(learner), "test")
    expected = [name.split("/")[1] for name in theirs.predict(tests)]
    assert [answer for own in learner.answer(TASKS) for answer in own] == expected
    assert len(set(expected)) > 3


def test_the_cosine_is_that_of_normalized_means(architecture: str) -> None:
    learner = learned("nearest_mean-cosine", architecture)
    states, names = features(architecture, own_states(learner), "train")
    tests, _ = features(architecture, own_states(learner), "test")
    directions = states / np.linalg.norm(states, axis=1, keepdims=True)
    pairs = sorted(set(names))
    means = np.stack([directions[[name == pair for name in names]].mean(0) for pair in pairs])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = [pairs[number].split("/")[1] for number in (tests @ means.T).argmax(1)]
    assert [answer for own in learner.answer(TASKS) for answer in own] == expected


def test_the_sums_of_lda_are_scikit_learns_of_all_rows(architecture: str) -> None:
    learner = learned("lda", architecture)
    known = learner.state.parts["linear_discriminant"]
    assert isinstance(known, Discriminant)
    # The very states that were summed: of one row alone they differ by the rounding of float32.
    readout = learner.method.readout
    assert isinstance(readout, LinearDiscriminant)
    states, names = [], []
    for task in TASKS:
        rows = learner.encode(task.examples("train"))
        order = sorted(
            range(len(rows)), key=lambda n: (len(rows[n].source), rows[n].source, rows[n].bare, task.train[n].target)
        )
        for start in range(0, len(order), readout.batch_size):
            batch = order[start : start + readout.batch_size]
            states.append(learner.pooled_states([rows[n] for n in batch], own_states(learner)))
            names += [f"{task.name}/{task.train[n].target}" for n in batch]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True)
    theirs.fit(torch.cat(states).double().numpy(), names)
    means = sorted(known.pairs.means, key=lambda own: own.pair)
    assert [f"{own.task}/{own.label}" for own in means] == list(theirs.classes_)
    np.testing.assert_allclose(torch.stack([own.mean for own in means]), theirs.means_, rtol=1e-10, atol=1e-10)
    assert known.pairs.scatter is not None
    covariance = known.pairs.scatter.matrix().numpy() / len(names)
    np.testing.assert_allclose(covariance, theirs.covariance_, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["lda", "lda-tasks", "lda-classes", "lda-unit"])
def test_answers_of_lda_are_those_of_its_equations(name: str) -> None:
    """The pooled covariances, priors and units written out with numpy."""
    learner = learned(name, "llama")
    part = learner.method.readout
    assert isinstance(part, LinearDiscriminant)
    states, names = features("llama", own_states(learner), "train")
    tests, _ = features("llama", own_states(learner), "test")
    share = part.shrinkage

    def scores(groups: list[str]) -> tuple[list[str], Any]:
        classes = sorted(set(groups))
        own = {each: states[[group == each for group in groups]] for each in classes}
        scatters = {each: (len(z) - 1) * np.cov(z.T) for each, z in own.items()}
        tasks: dict[str, list[str]] = {}
        for each in classes:
            tasks.setdefault(each.split("/")[0], []).append(each)
        pooled = {
            "rows": sum(scatters.values()) / (len(states) - len(classes)),
            "classes": np.mean([scatters[each] / (len(own[each]) - 1) for each in classes], axis=0),
            "tasks": np.mean(
                [
                    sum(scatters[each] for each in members) / (sum(len(own[each]) for each in members) - len(members))
                    for members in tasks.values()
                ],
                axis=0,
            ),
        }[part.covariance]
        width = len(pooled)
        spread, squares = np.trace(pooled) / width, (pooled**2).mean()
        oas = min(1, (squares + spread**2) / ((len(states) + 1) * (squares - spread**2 / width)))
        g = oas if share == "oas" else share
        precision = np.linalg.inv((1 - g) * pooled + g * spread * np.eye(width))
        prior = {
            "pairs": [1.0] * len(classes),
            "tasks": [1 / len(tasks[each.split("/")[0]]) for each in classes],
            "counts": [len(own[each]) for each in classes],
        }[part.prior]
        away = tests[:, None] - np.stack([own[each].mean(0) for each in classes])
        return classes, np.log(prior) - np.einsum("bpd,de,bpe->bp", away, precision, away) / 2

    pairs, found = scores(names)
    if part.unit == "task":
        tasks, of_task = scores([name.split("/")[0] for name in names])
        best = [tasks[number] for number in of_task.argmax(1)]
        wrong = np.array([[pair.split("/")[0] != task for pair in pairs] for task in best])
        found = np.where(wrong, -np.inf, found)
    labels = sorted({pair.split("/")[1] for pair in pairs})
    by_label = np.stack(
        [
            (np.logaddexp if part.answer == "sum" else np.maximum).reduce(
                found[:, [pair.split("/")[1] == label for pair in pairs]], axis=1
            )
            for label in labels
        ],
        axis=1,
    )
    expected = [labels[number] for number in by_label.argmax(1)]
    assert [answer for own in learner.answer(TASKS) for answer in own] == expected
    assert len(set(expected)) > 3


def shuffled(tasks: list[Task]) -> list[Task]:
    draw = random.Random(8)
    mixed = [replace(task, train=tuple(draw.sample(task.train, len(task.train)))) for task in tasks]
    return [mixed[2], mixed[0], mixed[1]]


@pytest.mark.parametrize("name", ALL)
def test_any_order_of_tasks_and_rows_gives_the_same_bits(name: str) -> None:
    """Of what is remembered, pair by pair, and of all evidence."""
    one, two = learned(name, "t5"), learned(name, "t5", shuffled(TASKS))
    for tasks in (TASKS, shuffled(TASKS)):
        assert one.answer(tasks) == two.answer(tasks)
    readout = one.method.readout
    states = torch.linspace(-2, 2, 160, dtype=torch.float64).view(10, 16)

    def evidence(learner: Learner) -> Any:
        known = learner.state.parts[readout.key]  # type: ignore[union-attr]
        return readout.pairs(known), readout.evidence(learner, known)(states)  # type: ignore[union-attr]

    (pairs, scores), (other_pairs, other_scores) = evidence(one), evidence(two)
    assert pairs == other_pairs
    assert torch.equal(scores, other_scores)


@pytest.mark.parametrize("name", ["nearest_mean", "lda"])
def test_a_task_in_two_halves_is_one_pass(name: str) -> None:
    halves = [replace(TASKS[0], train=TASKS[0].train[:11]), replace(TASKS[0], train=TASKS[0].train[11:])]
    whole, parts = learned(name, "t5"), learned(name, "t5", [halves[0], TASKS[2], TASKS[1]])
    parts.learn(halves[1], again=True)
    key = whole.method.readout.key  # type: ignore[union-attr]
    one, two = whole.snapshot().parts[key], parts.snapshot().parts[key]
    one, two = (one["pairs"], two["pairs"]) if name == "lda" else (one, two)
    ordered = [sorted(each["means"], key=lambda own: (own["task"], own["label"])) for each in (one, two)]
    for mine, theirs in zip(*ordered, strict=True):
        assert mine["count"] == theirs["count"]
        torch.testing.assert_close(mine["mean"], theirs["mean"], rtol=1e-5, atol=1e-6)  # states are float32
    if name == "lda":
        known = [learner.state.parts[key].pairs.scatter.matrix() for learner in (whole, parts)]
        torch.testing.assert_close(*known, rtol=1e-4, atol=1e-4)
    assert whole.answer(TASKS) == parts.answer(TASKS)


@pytest.mark.parametrize("name", ALL)
def test_saved_loaded_and_resumed_bit_for_bit(name: str, architecture: str, tmp_path: Path) -> None:
    never_stopped = learned(name, architecture)
    learned(name, architecture, TASKS[:1]).save(tmp_path / "saved")
    resumed = Learner.load(tmp_path / "saved", tiny_host(architecture))
    for task in TASKS[1:]:
        resumed.learn(task)
    assert not never_stopped.snapshot().differences(resumed.snapshot())
    assert never_stopped.answer(TASKS) == resumed.answer(TASKS)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_trained_and_a_row_is_read_once(name: str, architecture: str) -> None:
    """Training rows when their task ends; test rows once, however often they are answered."""
    events: list[Event] = []
    host = tiny_host(architecture)
    before = {key: tensor.clone() for key, tensor in host.model.state_dict().items()}
    learner = Learner(host, build_method(*ALL[name]), optim=OPTIM, on_event=events.append)
    read = 0
    plain = learner.pooled_states

    def counted(rows: Any, states: PooledStates) -> Any:
        nonlocal read
        read += len(rows)
        return plain(rows, states)

    learner.pooled_states = counted  # type: ignore[method-assign]
    for task in TASKS:
        learner.learn(task)
        learner.answer(TASKS)
    assert read == sum(len(task.train) + len(task.test) for task in TASKS)
    assert not any(isinstance(event, StepTaken) for event in events)
    assert dict.fromkeys(before, True) == {
        key: torch.equal(tensor, before[key]) for key, tensor in host.model.state_dict().items()
    }
    assert not learner.stored_parameters()


@pytest.mark.parametrize("name", ALL)
def test_answers_do_not_depend_on_the_batch(name: str, architecture: str) -> None:
    one, eight = (learned(name, architecture, batch_size=size, split_padding=None) for size in (1, 8))
    assert one.answer(TASKS) == eight.answer(TASKS)
    backwards = [replace(task, test=task.test[::-1]) for task in TASKS]
    assert [own[::-1] for own in one.answer(backwards)] == one.answer(TASKS)


@pytest.mark.parametrize("name", ALL)
def test_free_answers_are_among_all_labels_and_others_among_the_tasks_own(name: str) -> None:
    """Before a task, none of its labels is known; one that another task has is."""
    free, own = learned(name, "t5", TASKS[:2]), learned(name, "t5", TASKS[:2], decode="labels")
    seen = {label for task in TASKS[:2] for label in task.labels or ()}
    assert {answer for answers in free.answer(TASKS) for answer in answers} <= seen
    for task, answers in zip(TASKS[:2], own.answer(TASKS[:2]), strict=True):
        assert set(answers) <= set(task.labels or ())
    assert set(own.answer([TASKS[2]])[0]) == {"no"}
    assert set(own.answer([tiny_task("fish", labels=("maybe", "blue"))])[0]) == {""}
    assert set(learned(name, "t5", []).answer(TASKS)[0]) == {""}
    assert free.ask("animals", TASKS[0].test[0].text) == free.answer(TASKS)[0][0]


def test_full_shrinkage_is_the_nearest_mean(architecture: str) -> None:
    method = build_method("lda", {"shrinkage": 1.0})
    learner = Learner(tiny_host(architecture), method, optim=OPTIM)
    for task in TASKS:
        learner.learn(task)
    assert learner.answer(TASKS) == learned("nearest_mean", architecture).answer(TASKS)


def test_a_source_is_read_without_its_instruction() -> None:
    def told(task: Task) -> Task:
        return replace(task, template=replace(task.template, instruction="What kind of thing ?", options=False))

    by_source, by_prompt = learned("nearest_mean", "t5"), learned("nearest_mean-cosine", "t5")
    for learner, same in ((by_source, True), (by_prompt, False)):
        known = learner.snapshot().parts["nearest_mean"]["means"][0]["mean"]
        other = (
            learned("nearest_mean" if same else "nearest_mean-cosine", "t5", [told(TASKS[0])])
            .snapshot()
            .parts["nearest_mean"]["means"][0]["mean"]
        )
        assert torch.equal(known, other) is same


def test_what_makes_no_sense_is_refused() -> None:
    free = Task("free", *(3 * [(Row("the dog", "a cat"),)]), TASKS[0].template)
    learner = learned("lda", "t5", [])
    with pytest.raises(DataError, match="Task 'free' has no labels, and lda answers with labels alone"):
        learner.learn(free)
    text = Task("text", *(3 * [(Row("the dog", ""),)]), TASKS[0].template, kind="text")
    with pytest.raises(DataError, match="is unlabeled text, and lda learns none"):
        learner.learn(text)
    with pytest.raises(RecipeError, match="an adapter would be trained for nothing"):
        seq_lora().with_readout(NearestMean())
    with pytest.raises(RecipeError, match="rehearsal cannot be a part of lda: nothing is trained there"):
        build_method("lda+replay")
    with pytest.raises(RecipeError, match=r"shrinkage: 1.5 is not in \[0, 1\]"):
        build_method("lda", {"shrinkage": 1.5})
    for name, wrong in [
        ("ridge", {"lam": 0.0}),
        ("ridge", {"dimension": 0}),
        ("klda", {"dimension": 0}),
        ("klda", {"gamma": -1.0}),
        ("knn", {"k": 0}),
        ("knn", {"tau": 0.0}),
        ("knn", {"per_pair": 0}),
    ]:
        with pytest.raises(RecipeError, match=f"{next(iter(wrong))}: .* is not positive"):
            build_method(name, wrong)
    with pytest.raises(RecipeError, match="head=per_task: lda answers without a classification head"):
        Learner(tiny_host("roberta"), build_method("lda"), head="per_task")
    few = Learner(tiny_host("t5"), build_method("lda", {"shrinkage": 0.0}), optim=OPTIM)
    few.learn(replace(TASKS[0], train=TASKS[0].train[:6]))
    with pytest.raises(RecipeError, match="shrinkage: 0 leaves the covariance of 6 rows in 16 dimensions"):
        few.answer(TASKS[:1])
    with pytest.raises(RecipeError, match="layer: 9 is not a layer of this model"):
        Learner(tiny_host("t5"), build_method("lda", {"layer": 9}), optim=OPTIM).learn(TASKS[0])


def test_plain_ridge_is_scikit_learns(architecture: str) -> None:
    learner = learned("ridge-plain", architecture)
    states, names = features(architecture, own_states(learner), "train")
    tests, _ = features(architecture, own_states(learner), "test")
    pairs = sorted(set(names))
    one_hot = np.array([[name == pair for pair in pairs] for name in names], dtype=float)
    theirs = Ridge(alpha=0.5, fit_intercept=False).fit(states, one_hot)
    expected = [pairs[number].split("/")[1] for number in theirs.predict(tests).argmax(1)]
    assert [answer for own in learner.answer(TASKS) for answer in own] == expected
    readout = learner.method.readout
    evidence = readout.evidence(learner, learner.state.parts["random_ridge"])  # type: ignore[union-attr]
    np.testing.assert_allclose(evidence(torch.from_numpy(tests)), theirs.predict(tests), rtol=1e-3, atol=1e-3)


def test_ridge_on_random_features_is_least_squares_on_all_rows_at_once() -> None:
    learner = learned("ridge", "t5")
    part = learner.method.readout
    assert isinstance(part, RandomRidge)
    states, names = features("t5", own_states(learner), "train")
    tests, _ = features("t5", own_states(learner), "test")
    projection = standard_normal(16, 64, derive(4, "random_ridge")).numpy()
    expanded = np.maximum(states @ projection, 0)
    moment = expanded.T @ expanded
    pairs = sorted(set(names))
    one_hot = np.array([[name == pair for pair in pairs] for name in names], dtype=float)
    lam = 0.1 * np.trace(moment) / 64
    weights = np.linalg.solve(moment + lam * np.eye(64), expanded.T @ one_hot)
    found = part.evidence(learner, learner.state.parts["random_ridge"])(torch.from_numpy(tests))
    np.testing.assert_allclose(found, np.maximum(tests @ projection, 0) @ weights, rtol=1e-4, atol=1e-4)


def test_the_nearest_of_all_kept_rows_is_scikit_learns(architecture: str) -> None:
    learner = learned("knn-all", architecture)
    states, names = features(architecture, own_states(learner), "train")
    tests, _ = features(architecture, own_states(learner), "test")
    theirs = KNeighborsClassifier(n_neighbors=1).fit(states, names)
    expected = [name.split("/")[1] for name in theirs.predict(tests)]
    assert [answer for own in learner.answer(TASKS) for answer in own] == expected
    assert len(set(expected)) > 3


def test_a_bounded_store_keeps_the_same_rows_in_any_order_and_halves() -> None:
    def kept(tasks: list[Task], again: Task | None = None) -> dict[Any, Any]:
        learner = learned("knn", "t5", tasks)
        if again is not None:
            learner.learn(again, again=True)
        assert not learner.traits["rehearsal-free"], "vectors are data"
        return {(own.task, own.label): own for own in learner.state.parts["nearest_neighbors"].kept}

    one, two = kept(TASKS), kept(shuffled(TASKS))
    assert all(own.ranks == two[pair].ranks and torch.equal(own.states, two[pair].states) for pair, own in one.items())
    assert {len(own.ranks) for own in one.values()} == {5}
    assert one["animals", "yes"].states.dtype == torch.float16
    assert all(own.ranks == sorted(own.ranks) for own in one.values())
    again = kept(TASKS, TASKS[0])["animals", "yes"]
    assert set(again.ranks) <= set(one["animals", "yes"].ranks), "the same rows twice are the same rows"


def test_gamma_is_decided_by_the_first_task_and_kept() -> None:
    learner = Learner(tiny_host("t5"), build_method("klda", {"dimension": 30}), seed=4, optim=OPTIM)
    learner.learn(TASKS[0])
    gamma = learner.state.parts["linear_discriminant"].gamma
    states, _ = features("t5", own_states(learner), "train", TASKS[:1])
    distances = pdist(states)
    distances = np.sort(distances[distances > 1e-5])
    assert gamma == pytest.approx(1 / (2 * distances[(len(distances) - 1) // 2] ** 2), rel=1e-3)
    learner.learn(TASKS[1])
    assert learner.state.parts["linear_discriminant"].gamma == gamma


def test_without_two_rows_of_a_class_the_identity_stands_for_the_covariance() -> None:
    lone = replace(TASKS[0], train=TASKS[0].train[:2])
    for name in ("lda", "lda-tasks", "lda-classes"):
        answers = learned(name, "t5", [lone]).answer([TASKS[0]])[0]
        assert set(answers) <= {"yes", "no"}
    assert learned("lda", "t5", [lone]).answer([lone]) == learned("nearest_mean", "t5", [lone]).answer([lone])
