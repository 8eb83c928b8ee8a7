"""Texts of two parts: read apart, compared, and counted as far as held-out rows say."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.tiny import tiny_host, tiny_task
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.evidence_posterior import posterior
from nacre.parts.evidence_sums import PairSums, Sums, SumsSettings
from nacre.parts.label_evidence import LabelEvidence
from nacre.parts.text_pairs import of_pairs, two_parts
from nacre.registry import build_method
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Example

OPTIM = Optim(batch_size=4, learning_rate=1e-3, max_target_length=8)
THINGS = ("dog", "cat", "cow", "hen", "stone", "lamp", "spoon", "chair", "rose", "grass")


def same_or_not(name: str = "same", rows: int = 60) -> Task:
    """Are both lines about the same thing? Neither line alone says so."""
    drawn = random.Random(name)

    def made(count: int) -> tuple[Row, ...]:
        found = []
        for number in range(count):
            thing = drawn.choice(THINGS)
            other = thing if number % 2 else drawn.choice([each for each in THINGS if each != thing])
            found.append(Row(f"the big {thing}\nthe big {other}", "yes" if number % 2 else "no"))
        return tuple(found)

    return replace(tiny_task(name), train=made(rows), validation=made(8), test=made(40))


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(architecture: str, tasks: list[Task], **settings: object) -> Learner:
    method = build_method("inc_lora+evidence", {"evidence": {"host_weight": 0.0, **settings}})
    learner = Learner(tiny_host(architecture, torch.float64), method, seed=4, optim=OPTIM)
    for task in tasks:
        learner.learn(task)
    return learner


def pairs_of(learner: Learner, task: str) -> PairSums | None:
    sums: Sums = learner.state.parts["evidence"]
    return next(own.pairs for own in sums.tasks if own.task == task)


def test_parts_are_the_last_line_and_those_before() -> None:
    assert two_parts("one\ntwo\nthree") == ("one\ntwo", "three")
    assert two_parts("one\n two\n") == ("one", " two")
    for text in ("one", "", None, "\none", "one\n", " \n one"):
        assert two_parts(text) is None


def test_what_neither_part_says_alone_is_said_by_their_comparison(architecture: str) -> None:
    task = same_or_not()
    compared, alone = learned(architecture, [task]), learned(architecture, [task], pairs=False)
    pairs = pairs_of(compared, "same")
    assert pairs is not None
    assert pairs.weight > 0
    assert pairs_of(alone, "same") is None
    assert compared.evaluate(task).value > alone.evaluate(task).value + 0.1


def test_their_sums_and_what_they_say_are_the_naive_ones(architecture: str) -> None:
    task, plain = same_or_not(), tiny_task("animals", rows=24)
    learner = learned(architecture, [plain, task])
    part = learner.method.readout
    assert isinstance(part, LabelEvidence)
    view = part.sums.states(learner, "prompt")

    def state(text: str) -> np.ndarray:
        rows = learner.encode([Example("", text, "", "")])
        return learner.pooled_states(rows, view)[0].double().numpy()  # type: ignore[no-any-return]

    def features(row: Row) -> np.ndarray:
        first, second = (state(each) for each in row.text.split("\n"))
        return np.concatenate([np.abs(first - second), first * second])

    own = {label: np.array([features(row) for row in task.train if row.target == label]) for label in ("no", "yes")}
    spread = sum((z - z.mean(0)).T @ (z - z.mean(0)) for z in own.values())
    covariance = spread / (len(task.train) - 2)
    inverse = np.linalg.inv(covariance + SumsSettings().ridge * np.diag(np.diag(covariance)))
    sums: Sums = learner.state.parts["evidence"]
    solved = posterior(learner, part.sums, sums)
    pairs = pairs_of(learner, "same")
    assert pairs is not None
    said = of_pairs(learner, part.sums, sums, solved.pairs, learner.encode(task.examples("test")))
    assert said is not None
    places = [solved.pairs.index(("same", label)) for label in ("no", "yes")]
    assert not said[:, [number for number in range(4) if number not in places]].any()
    for row, found in zip(task.test, said, strict=True):
        z = features(row)
        evidence = np.array([-(z - own[label].mean(0)) @ inverse @ (z - own[label].mean(0)) / 2 for label in own])
        weighted = pairs.weight * evidence
        expected = weighted - np.logaddexp(*weighted) + np.log(2)
        assert found[places].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


def test_rows_and_tasks_of_one_part_are_answered_as_without_it(architecture: str) -> None:
    plain, other = tiny_task("animals", rows=24), tiny_task("birds", rows=17, labels=("red", "green"))
    compared, alone = learned(architecture, [plain, other]), learned(architecture, [plain, other], pairs=False)
    assert pairs_of(compared, "animals") is None
    assert compared.answer([plain, other]) == alone.answer([plain, other])
    mixed = same_or_not()
    one_line = replace(mixed, train=(*mixed.train, Row("the big dog", "yes")))
    assert pairs_of(learned(architecture, [one_line]), "same") is None


def test_the_same_bits_in_any_order_of_rows() -> None:
    task = same_or_not()
    drawn = random.Random(1)
    shuffled = replace(task, train=tuple(drawn.sample(task.train, len(task.train))))
    one, other = (pairs_of(learned("t5", [each]), "same") for each in (task, shuffled))
    assert one is not None
    assert other is not None
    assert torch.equal(one.scatter, other.scatter)
    assert one.weight == other.weight


def test_training_with_an_offset_counts_what_the_parts_say() -> None:
    task = same_or_not()
    method = build_method("seq_lora+evidence", {"evidence": {"offset": 1.0}})
    learner = Learner(tiny_host("t5", torch.float64), method, seed=4, optim=OPTIM)
    seen = []
    begin = learner.begin_step
    learner.begin_step = lambda step: (seen.append(learner.resources["evidence_offset"]["same"].evidence), begin(step))[
        1
    ]  # type: ignore[method-assign]
    learner.learn(task)
    without = Learner(
        tiny_host("t5", torch.float64),
        build_method("seq_lora+evidence", {"evidence": {"offset": 1.0, "pairs": False}}),
        seed=4,
        optim=OPTIM,
    )
    bare = []
    begin_bare = without.begin_step
    without.begin_step = lambda step: (
        bare.append(without.resources["evidence_offset"]["same"].evidence),
        begin_bare(step),
    )[1]  # type: ignore[method-assign]
    without.learn(task)
    right = torch.tensor([0 if row.target == "no" else 1 for row in task.train])
    assert seen[0].shape == bare[0].shape == (len(right), 2)
    assert not torch.equal(seen[0], bare[0])
