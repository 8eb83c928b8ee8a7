"""Orthogonal training from task to task: directions kept up to date, and how much room is left."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.low_rank import PlacedLowRank
from nacre.errors import RecipeError, TrainingError
from nacre.events import EVENT_KINDS, FreeDimensionsCounted, Warned
from nacre.functional.stacking import group_by_shape
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts import orthogonal_gradient
from nacre.parts.used_directions import UsedDirections, up_to_date
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_grad_norm=None)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish", "worms", "bees")]
ROOM: dict[str, object] = {"rank": 2, "roles": ["query", "output"]}


def learner_of(architecture: str = "t5", optim: Optim = OPTIM, **parameters: object) -> Learner:
    return Learner(tiny_host(architecture), build_method("lb_cl", {**ROOM, **parameters}), seed=4, optim=optim)


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def used(learner: Learner) -> dict[tuple[str, ...], UsedDirections]:
    found: dict[tuple[str, ...], UsedDirections] = learner.cache["orthogonal_gradient"]
    return found


def same(one: UsedDirections, other: UsedDirections) -> bool:
    pairs = [
        (one.spans.basis, other.spans.basis),
        (one.spans.dimensions, other.spans.dimensions),
        (one.spans.largest, other.spans.largest),
        (one.directions, other.directions),
        (one.newest, other.newest),
    ]
    return one.tasks == other.tasks and all(torch.equal(left, right) for left, right in pairs)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"energy": 0.8}, {"space": "sum"}, {"space": "vectors"}, {"sigma_gradient": "flat", "rank": 5, "on": "both"}],
    ids=str,
)
@pytest.mark.parametrize("stacks", [False, True], ids=["one by one", "stacked"])
def test_what_is_kept_is_what_a_resumed_run_computes_again(
    parameters: dict[str, object], stacks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, task after task, and so is what is learnt; and nothing of it is saved."""
    if stacks:
        on_an_accelerator(monkeypatch)
    straight = learner_of(**parameters)
    for task in TASKS[:2]:
        straight.learn(task)
    for task in TASKS[2:4]:
        straight.save(tmp_path / task.name)
        resumed = Learner.load(tmp_path / task.name, tiny_host("t5"))
        assert resumed.cache == {}
        for learner in (straight, resumed):
            learner.learn(task)
        assert used(straight).keys() == used(resumed).keys() != set()
        assert all(same(found, used(resumed)[names]) for names, found in used(straight).items())
        assert all(torch.equal(tensor, tensors_of(resumed)[name]) for name, tensor in tensors_of(straight).items())
        assert straight.state == resumed.state
        for file in (tmp_path / task.name).iterdir():
            assert b"basis" not in file.read_bytes()
            assert b"derived" not in file.read_bytes()


def test_a_task_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known is extended by the newest task only."""
    calls: list[int] = []
    extended = orthogonal_gradient.up_to_date.__globals__["extended"]

    def counted(spans: Any, vectors: Tensor, **settings: float) -> Any:
        calls.append(spans.basis.shape[1])
        return extended(spans, vectors, **settings)

    monkeypatch.setitem(orthogonal_gradient.up_to_date.__globals__, "extended", counted)
    learner = learner_of()
    factors = 2 * len(learner.adapter.sites)
    for number, task in enumerate(TASKS[:4]):
        learner.learn(task)
        assert len(calls) == number * factors
    assert sorted(set(calls)) == [0, 2, 4]


def test_other_tensors_in_the_adapter_are_noticed() -> None:
    one, other = learner_of(), learner_of(optim=OPTIM.model_copy(update={"learning_rate": 3e-2}))
    for learner in (one, other):
        for task in TASKS[:3]:
            learner.learn(task)
    one.adapter.load(other.adapter.tensors(), {"slots": 3})
    for learner in (one, other):
        learner.learn(TASKS[3])
    assert all(same(found, used(other)[names]) for names, found in used(one).items())


def test_nothing_stays_alive_after_the_learner_and_removal_forgets() -> None:
    learner = learner_of()
    for task in TASKS[:2]:
        learner.learn(task)
    bases = [weakref.ref(found.spans.basis) for found in used(learner).values()]
    assert all(basis() is not None for basis in bases)
    learner.remove()
    assert learner.cache == {}
    del learner
    gc.collect()
    assert not any(basis() is not None for basis in bases)


def on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stack factors of one shape here, too; returns where the sizes of the stacks will be noted."""
    sizes: list[int] = []

    def stacked(items: Any, shape: Any, device: torch.device) -> list[list[Any]]:
        found = group_by_shape(items, shape, torch.device("cuda"))
        sizes.extend(len(group) for group in found)
        return found

    monkeypatch.setattr(orthogonal_gradient, "group_by_shape", stacked)
    return sizes


@pytest.mark.parametrize("parameters", [{}, {"on": "update"}, {"space": "sum"}, {"energy": 0.7}], ids=str)
def test_stacked_as_on_an_accelerator_it_trains_the_same(
    parameters: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def after() -> Learner:
        learner = learner_of("llama", **parameters)
        for task in TASKS[:4]:
            learner.learn(task)
        return learner

    alone = after()
    sizes = on_an_accelerator(monkeypatch)
    together = after()
    assert max(sizes) > 1
    assert len(used(together)) < len(used(alone))
    one, other = tensors_of(alone), tensors_of(together)
    # AdamW turns a rounding of a gradient near zero into a step: few entries may part, by no more than that.
    apart = torch.cat([(tensor - other[name]).abs().flatten() for name, tensor in one.items()])
    assert apart.median() <= 1e-6
    assert (apart > 1e-3).float().mean() < 0.02
    inside = together.state.parts["orthogonal_gradient"].share_in_old_span
    if parameters.get("on") == "update":
        assert max(inside) <= 1e-4


def told(learner: Learner) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    wanted = (FreeDimensionsCounted, Warned)
    learner.on_event = lambda event: (
        isinstance(event, wanted) and events.append((EVENT_KINDS[type(event)], asdict(event)))
    )
    return events


def test_the_room_that_is_left_is_reported_and_a_task_ahead_there_is_a_warning() -> None:
    """Rank 5 in 16 dimensions (t5's query: 16 to 16): 11 are left for the second task, 6 for the third, 1 for the
    fourth, which takes it, and none for the fifth."""
    learner = learner_of(rank=5, roles=["query"], variant="b_cl")
    events = told(learner)
    learner.learn(TASKS[0])
    assert events == [], "a first task has all the room"
    left = []
    for number, task in enumerate(TASKS[1:4], start=2):
        learner.learn(task)
        (kind, values), *warnings = events
        events.clear()
        assert kind == "room"
        json.dumps(values)
        left.append(values["left"])
        assert values["width"] == 16
        assert values["remaining"][f"{values['site']}.{values['factor']}"] == values["left"]
        assert set(values["remaining"]) == {
            f"{name}.{group}" for name in learner.adapter.sites for group in ("down", "up")
        }
        assert min(values["remaining"].values()) == values["left"]
        assert [kind for kind, _ in warnings] == (["warning"] if number > 2 else [])
        if number == 3:
            assert (
                f"{values['site']}: the earlier tasks' '{values['factor']}' factors leave 6 of 16"
                in warnings[0][1]["text"]
            )
            assert "may use 5 of them" in warnings[0][1]["text"]
            assert "energy below 1" in warnings[0][1]["text"]
    assert left == [11, 6, 1]
    with pytest.raises(TrainingError, match=r"\(4 tasks of rank 5\) span all 16 .* energy below 1"):
        learner.learn(TASKS[4])


def test_rooms_are_those_of_the_public_tensors() -> None:
    learner = learner_of("llama", rank=1, roles=["query", "value", "output"], variant="b_cl")
    events = told(learner)
    for task in TASKS[:4]:
        learner.learn(task)
    remaining = events[-1][1]["remaining"]
    tensors = tensors_of(learner)
    for name in learner.adapter.sites:
        for group in ("down", "up"):
            past = tensors[f"{name}.past_{group}"].flatten(0, 1).double()
            assert remaining[f"{name}.{group}"] == past.shape[1] - int(torch.linalg.matrix_rank(past, rtol=1e-5))


def test_less_energy_leaves_more_room_and_says_what_it_gives_up() -> None:
    """Where all of it is full after four tasks, half of it goes on; of every earlier factor at least that half is in
    the span that was closed when its next task began."""
    learner = learner_of(rank=5, roles=["query"], variant="b_cl", energy=0.5, on="update")
    events = told(learner)
    for task in TASKS:
        learner.learn(task)
    left = [values["left"] for kind, values in events if kind == "room"]
    assert left == sorted(left, reverse=True)
    assert left[-1] > 1
    assert isinstance(learner.adapter, PlacedLowRank)
    open_share = []
    for (name,), found in used(learner).items():
        site, group = name.rsplit(".", 1)
        (basis,) = found.spans.basis.double()
        assert found.tasks == 4
        for task in learner.adapter.sites[site].past_by_group()[group].double():
            inside = (task @ basis.T).norm() ** 2 / task.norm() ** 2
            open_share.append(1 - float(inside))
            assert inside >= 0.5 - 1e-6
    assert max(open_share) > 0.05, "what is given up is not nothing"


def test_full_energy_is_the_default_bit_for_bit() -> None:
    learners = [learner_of(), learner_of(energy=1.0), learner_of(energy=0.4)]
    for learner in learners:
        for task in TASKS[:3]:
            learner.learn(task)
    default, full, less = (tensors_of(learner) for learner in learners)
    assert all(torch.equal(tensor, full[name]) for name, tensor in default.items())
    assert not all(torch.equal(tensor, less[name]) for name, tensor in default.items())


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"energy": 0.0}, r"energy: 0\.0 is not in \(0, 1\]"),
        ({"energy": 1.5}, r"energy: 1\.5 is not in"),
        ({"energy": float("nan")}, "energy = nan: a finite number is expected"),
        ({"energy": 0.9, "space": "sum"}, "space='sum' has none: take space='union'"),
        ({"variant": "l_cl", "energy": 0.9}, "without its orthogonal training"),
    ],
)
def test_what_cannot_be_is_refused(parameters: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        build_method("lb_cl", parameters)


def test_nothing_is_known_of_a_task_that_is_not_there() -> None:
    """A shorter past than the known one, as after a return to an earlier state."""
    learner = learner_of()
    for task in TASKS[:3]:
        learner.learn(task)
    rule = learner.method.gradient_rules[0]
    factors = list(rule._factors(learner))[:1]
    long = up_to_date(None, factors, "union", 1.0)
    short = [type(factor)(factor.site, factor.group, factor.parameter, factor.stack[:1]) for factor in factors]
    assert long.tasks == 2
    assert same(up_to_date(long, short, "union", 1.0), up_to_date(None, short, "union", 1.0))
