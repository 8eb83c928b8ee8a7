"""InfLoRA: directions of the data that stay, outside what earlier inputs span, so that old answers stay."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.contract import state_of
from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.low_rank import LowRank
from nacre.adapters.sites import PlacedSites
from nacre.adapters.unit_gates import HardGates
from nacre.errors import RecipeError, TrainingError
from nacre.events import Event, TrainingPrepared, Warned
from nacre.features.input_moments import read_input_moments
from nacre.features.site_inputs import read_site_inputs
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.methods.inf_lora import inf_lora
from nacre.methods.seq_lora import seq_lora
from nacre.parts.input_directions import Bases, InputDirections, energy_of_task
from nacre.parts.orthogonality import Orthogonality

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [
    tiny_task("animals"),
    tiny_task("birds", labels=("red", "green")),
    tiny_task("fish", labels=("maybe", "no", "blue")),
]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sites_of(learner: Learner) -> dict[str, Any]:
    assert isinstance(learner.adapter, PlacedSites)
    return learner.adapter.sites


def bases_of(learner: Learner) -> Bases:
    known = learner.remembered(learner.method.start, Bases)
    assert known is not None
    return known


def inputs_of(learner: Learner, places: list[str], number: int, count: int = 12) -> dict[str, np.ndarray]:
    """[tokens, d_in] of each site, through the learner as it is."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    rows = learner.encode(TASKS[number].examples("train")[:count])
    read_site_inputs(learner.host, rows, places, lambda place, inputs: found[place].append(inputs), batch_size=1)
    return {place: torch.cat(parts).double().numpy() for place, parts in found.items()}


def test_moments_are_means_over_tokens_and_shared_where_inputs_are(architecture: str) -> None:
    learner = Learner(tiny_host(architecture), inc_lora(), optim=OPTIM)
    places = list(sites_of(learner))
    rows = learner.encode(TASKS[0].examples("train"))
    found = read_input_moments(learner.host, rows, places, 5)
    for place, tokens in inputs_of(learner, places, 0).items():
        moment = found.moments[found.first[place]].numpy()
        np.testing.assert_allclose(moment, tokens.T @ tokens / len(tokens), rtol=1e-4, atol=1e-5)
    pairs = {place.rpartition(".")[0] for place in places}
    shared = {place.rpartition(".")[0] for place in places if found.first[place] != place}
    cross = {pair for pair in pairs if pair.endswith("EncDecAttention")}
    assert shared == pairs - cross, "query and value of one attention, unless it looks at the encoder"


@pytest.mark.parametrize("energy_of", ["moments", "inputs"])
def test_a_reads_the_datas_first_directions_outside_the_earlier_ones(architecture: str, energy_of: Any) -> None:
    """Computed by numpy before each task, through the learner as it was."""
    method = inf_lora(rank=2, energy=0.6, energy_of=energy_of)
    learner = Learner(tiny_host(architecture, torch.float64), method, seed=5, optim=OPTIM)
    places = list(sites_of(learner))
    for number in range(3):
        inputs = inputs_of(learner, places, number)
        known = learner.remembered(method.start, Bases)
        started: dict[str, Tensor] = {}

        def watch(event: Event, started: dict[str, Tensor] = started) -> None:
            if isinstance(event, TrainingPrepared):
                started.update({name: site.slots.down.weight.clone() for name, site in sites_of(learner).items()})

        learner.on_event = watch
        learner.learn(TASKS[number])
        for place, site in sites_of(learner).items():
            down = site.slots.down.weight.detach()
            assert torch.equal(down, started[place]), "it is not trained"
            moment = inputs[place].T @ inputs[place] / len(inputs[place])
            basis = np.zeros((0, site.d_in)) if known is None else known.bases[known.first[place]].numpy()
            left, _, _ = np.linalg.svd(moment - basis.T @ basis @ moment)
            np.testing.assert_allclose(np.abs(np.diag(down.numpy() @ left[:, :2])), 1 / math.sqrt(3), rtol=0, atol=1e-6)
            np.testing.assert_allclose(down.numpy() @ basis.T, 0, atol=1e-12)
    assert all(0 < len(basis) < basis.shape[1] for basis in bases_of(learner).bases.values())


def test_after_a_task_the_bases_hold_its_inputs_as_the_trained_model_reads_them(architecture: str) -> None:
    learner = Learner(tiny_host(architecture, torch.float64), inf_lora(rank=2, energy=0.6), seed=5, optim=OPTIM)
    for number in range(2):
        learner.learn(TASKS[number])
        known = bases_of(learner)
        share = energy_of_task(0.6, 15, number + 1)
        for place, tokens in inputs_of(learner, list(sites_of(learner)), number).items():
            basis, moment = known.bases[known.first[place]].numpy(), tokens.T @ tokens
            assert np.square(basis @ moment).sum() >= (share - 1e-9) * np.square(moment).sum()


@pytest.mark.parametrize("choose", ["data", "random"])
def test_old_answers_stay_where_everything_is_protected(architecture: str, choose: Any) -> None:
    """In float64, with energy 1 and room for it: the same logits of old rows, while new rows' states change.

    Directions in which inputs are below a millionth of their size are rounding, as their moment is below 1e-12.
    """
    tasks = [replace(task, train=task.train[:3]) for task in TASKS]
    method = inf_lora(rank=4, energy=1.0, choose=choose, dropout=0.0)
    optim = OPTIM.model_copy(update={"epochs": 5})
    learner = Learner(tiny_host(architecture, torch.float64, width=160), method, seed=5, optim=optim)
    learner.learn(tasks[0])
    rows = learner.encode(tasks[0].examples("train"))
    with torch.no_grad():
        before, labels = learner.predictions(rows)
    last = list(sites_of(learner))[-1]
    states = [inputs_of(learner, [last], number, 3)[last] for number in (0, 1)]
    learner.learn(tasks[1])
    with torch.no_grad():
        after, _ = learner.predictions(rows)
    kept = labels != IGNORED  # what padding computes is of no task
    torch.testing.assert_close(after[kept][:, : before.shape[-1]], before[kept], rtol=0, atol=1e-5)
    found = [inputs_of(learner, [last], number, 3)[last] for number in (0, 1)]
    np.testing.assert_allclose(found[0], states[0], rtol=0, atol=1e-5)
    assert np.abs(found[1] - states[1]).max() > 1e-3


def test_random_directions_have_one_length_and_lie_outside(architecture: str) -> None:
    method = inf_lora(rank=3, energy=0.6, choose="random")
    learner = Learner(tiny_host(architecture, torch.float64), method, seed=5, optim=OPTIM)
    learner.learn(TASKS[0])
    known = bases_of(learner)
    first = {name: site.slots.down.weight.clone() for name, site in sites_of(learner).items()}
    learner.learn(TASKS[1])
    for name, site in sites_of(learner).items():
        down = site.slots.down.weight.detach()
        for rows in (down, first[name]):
            torch.testing.assert_close(rows.norm(dim=1), torch.full((3,), 3**-0.5).double(), rtol=0, atol=1e-7)
        torch.testing.assert_close((down @ known.bases[known.first[name]].T).abs().max(), down.new_tensor(0.0))
        assert (down @ down.T - torch.eye(3) / 3).abs().max() > 1e-3, "drawn, not orthonormal"


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_the_first_step_with_a_frozen_a_is_loras(architecture: str) -> None:
    """Bit for bit: while B is zero, A has no gradient."""
    found = []
    for trains in ("both", "up"):
        method = Method("", (), LowRank(trains=trains))
        optim = OPTIM.model_copy(update={"batch_size": 12, "max_grad_norm": None})
        learner = Learner(tiny_host(architecture), method, seed=5, optim=optim)
        learner.learn(TASKS[0])
        found.append(state_of(learner))
        assert [group.name for group in learner.adapter.parameter_groups()] == [*method.adapter.groups]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_only_b_moves_and_is_trainable_after_loading(tmp_path: Any) -> None:
    learner = Learner(tiny_host("t5"), inf_lora(rank=2, energy=0.6), optim=OPTIM)
    learner.learn(TASKS[0])
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"))
    for each in (learner, loaded):
        assert not any(site.slots.down.weight.requires_grad for site in sites_of(each).values())
        each.learn(TASKS[1])
        assert [group.name for group in each.trainable()] == ["up"]
    assert all(torch.equal(tensor, state_of(loaded)[name]) for name, tensor in state_of(learner).items())


def test_the_share_grows_to_one() -> None:
    assert [energy_of_task(0.9, 10, number) for number in (1, 6, 11, 30)] == pytest.approx([0.9, 0.95, 1.0, 1.0])


def test_where_nothing_is_left_learning_stops_with_a_message() -> None:
    learner = Learner(tiny_host("llama"), inf_lora(rank=2, energy=1.0), optim=OPTIM)
    learner.learn(TASKS[0])
    with pytest.raises(TrainingError, match="the earlier tasks' inputs span all 16 dimensions"):
        learner.learn(TASKS[1])


def test_fewer_directions_than_the_rank_are_said() -> None:
    said: list[str] = []
    learner = Learner(
        tiny_host("llama"),
        inf_lora(rank=17, energy=0.6),
        optim=OPTIM,
        on_event=lambda event: said.append(event.text) if isinstance(event, Warned) else None,
    )
    learner.learn(TASKS[0])
    assert any("have fewer directions than the rank" in message for message in said)
    down = next(iter(sites_of(learner).values())).slots.down.weight
    assert (down[-1] == 0).all()
    assert (down[0] != 0).any()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="which must not be trained; inf_lora's adapter keeps them"):
        inc_lora().with_start(InputDirections())
    with pytest.raises(RecipeError, match="it acts on both factors of a LoRA"):
        inf_lora().with_penalty(Orthogonality())
    with pytest.raises(RecipeError, match=r"energy: 1\.5 is not in"):
        inf_lora(energy=1.5)
    with pytest.raises(RecipeError, match="steps: 0 is not a positive number of tasks"):
        inf_lora(steps=0)
    with pytest.raises(RecipeError, match="gates on the ranks protect both factors"):
        LowRank(slots="shared", gates=HardGates(), trains="up")
    assert LowRank(slots="shared", trains="up").gated(HardGates()) is None
    assert seq_lora().adapter.gated(HardGates()) is not None
