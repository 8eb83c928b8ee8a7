"""The preset nacre: the composition of its parts, and what its own sheet says of its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.events import Event, StartChosen
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.models.host import Host
from nacre.models.pooled_states import PooledStates, pooled_states
from nacre.parts.evidence_sums import Sums
from nacre.registry import build_method

COMPOSED = "inc_lora+gaussian_routing+evidence+abstention+warm_start"
PARTS = [field.name for field in fields(Method) if field.name not in ("title", "sources", "name", "parameters")]


@pytest.mark.parametrize(
    ("settings", "composed", "of_parts"),
    [
        ({}, COMPOSED, {}),
        ({"abstain": False, "begin_with": "fresh"}, "inc_lora+gaussian_routing+evidence", {}),
        (
            {"views": "bare", "ridge": 0.5, "offset": 0.5, "known_share": 0.9, "nearest": 2},
            COMPOSED,
            {
                "evidence": {"views": "bare", "ridge": 0.5, "offset": 0.5},
                "gaussian_routing": {"views": "bare", "ridge": 0.5},
                "warm_start": {"views": "bare", "ridge": 0.5, "nearest": 2},
                "abstention": {"known_share": 0.9},
            },
        ),
    ],
)
def test_it_is_the_composition_of_its_parts(
    settings: dict[str, object], composed: str, of_parts: dict[str, object]
) -> None:
    preset, built = build_method("nacre", settings), build_method(composed, of_parts)
    for part in PARTS:
        assert getattr(preset, part) == getattr(built, part), part


def test_a_task_takes_the_bytes_that_the_sheet_says() -> None:
    host = tiny_host("t5")
    learner = Learner(host, build_method("nacre", {"rank": 2}), optim=Optim(batch_size=4, max_target_length=8))
    sizes = []
    for name in ("animals", "birds", "fish"):
        learner.learn(tiny_task(name))
        (sums,) = learner.state.parts.values()
        assert isinstance(sums, Sums)
        sizes.append(sum(tensor.nbytes for tensor in learner.adapter.tensors().values()))
    width = host.model.config.d_model
    for own in sums.tasks:
        scatters = sum(own.view(text).scatter.nbytes for text in ("prompt", "bare"))
        means = sum(mean.mean.nbytes for text in ("prompt", "bare") for mean in own.view(text).means)
        assert scatters == 8 * width * (width + 1)
        assert means == 2 * 16 * width, "of two labels"
        histograms = sum(own.view(text).distances.nbytes for text in ("prompt", "bare"))
        assert histograms + sum(tensor.nbytes for tensor in own.surprise.values()) < 5120
    sites = learner.adapter.sites.values()  # type: ignore[attr-defined]
    a_lora = sum(4 * 2 * (site.d_in + site.d_out) for site in sites)
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == a_lora


def test_a_head_for_each_task_is_given_the_task_everywhere() -> None:
    """Also where a row's text alone is read, or its two parts."""
    options = Optim(batch_size=4, max_target_length=8)
    method = build_method("nacre", {"abstain": False})
    learner = Learner(tiny_host("roberta"), method, optim=options, head="per_task")
    tasks = [tiny_task("animals"), tiny_task("birds", labels=("red", "green"))]
    two_lines = [
        replace(row, text=row.text.replace("sees", "sees\n").replace("near", "near\n")) for row in tasks[0].train
    ]
    learner.learn(replace(tasks[0], train=tuple(two_lines)))
    learner.learn(tasks[1])
    assert all(answer in ("yes", "no", "red", "green") for answer in learner.answer(tasks)[1])


@pytest.mark.parametrize("architecture", ["t5", "roberta"])
def test_a_task_that_is_learned_again_begins_where_it_ended(architecture: str) -> None:
    said: list[StartChosen] = []

    def watch(event: Event) -> None:
        if isinstance(event, StartChosen):
            said.append(event)

    method = build_method("nacre", {"begin_with": "nearest"})
    options = Optim(batch_size=4, max_target_length=8)
    learner = Learner(tiny_host(architecture), method, optim=options, on_event=watch)
    learner.learn(tiny_task("animals"))
    learner.learn(tiny_task("birds", labels=("red", "green")))
    learner.learn(tiny_task("animals"), again=True)
    assert said[-1].tasks == ["animals"]
    assert len(learner.answer([tiny_task("animals")])[0]) == 6


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_the_bare_host_reads_a_row_once_in_each_view(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for the evidence and again for the routing, and not again after a later task."""
    options = Optim(batch_size=4, max_target_length=8)
    method = build_method("nacre", {"abstain": False, "host_weight": 1.0})
    learner = Learner(tiny_host(architecture), method, optim=options)
    tasks = [tiny_task("animals"), tiny_task("birds", labels=("red", "green"))]
    for task in tasks:
        learner.learn(task)
    read: list[str] = []

    def counted(host: Host, inputs: Mapping[str, Tensor], states: PooledStates) -> Tensor:
        read.append(states.text)
        return pooled_states(host, inputs, states)

    monkeypatch.setattr("nacre.learning.learner.pooled_states", counted)
    monkeypatch.setattr("nacre.learning.router.pooled_states", counted)
    answers = learner.answer(tasks[:1])
    assert sorted(read) == ["bare", "prompt"], "one batch"
    assert learner.answer(tasks[:1]) == answers
    assert len(read) == 2
    learner.cache.clear()
    assert learner.answer(tasks[:1]) == answers


def test_a_task_that_is_learned_later_changes_no_earlier_sums() -> None:
    learner = Learner(tiny_host("llama"), build_method("nacre"), optim=Optim(batch_size=4, max_target_length=8))
    learner.learn(tiny_task("animals"))
    (before,) = (own for own in learner.state.parts["evidence"].tasks)
    learner.learn(tiny_task("birds"))
    after = next(own for own in learner.state.parts["evidence"].tasks if own.task == "animals")
    for text in ("prompt", "bare"):
        assert torch.equal(before.view(text).scatter, after.view(text).scatter)
