"""A start that keeps the function: an average of earlier triplets is injected, and taken out of the frozen part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.proofs import epi_like
from helpers.tiny import outputs, tiny_host, tiny_task
from nacre.adapters.gated import Gated
from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.adapters.slotted import SlottedAdapter
from nacre.adapters.svd import Svd
from nacre.errors import RecipeError
from nacre.events import Event, TrainingPrepared, Warned
from nacre.functional.sensitivity import Triplets
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.modifiers.sensitivity_init import sensitivity_init
from nacre.parts import sensitivity_start
from nacre.parts.measured_sensitivity import through_folded, through_triplets
from nacre.parts.sensitivity_start import ADDS_ONCE_MORE, SensitivityStart
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=3e-2, epochs=2, log_every=1)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish", "worms")]
KEPT = ("lb_cl", "inc_lora+sensitivity_init")


def made(name: str, **parameters: object) -> Method:
    return build_method(name, {"rank": 2, "dropout": 0.0, **parameters})


def logits(learner: Learner) -> Tensor:
    return outputs(learner.host, learner.host.family.batch(learner.encode(TASKS[0].examples("test"))))


def jumps(method: Method, architecture: str, dtype: torch.dtype, *, training: bool = False) -> list[float]:
    """For tasks 2 and 3: the largest change of a logit when the task begins, beside what the task then changes."""
    learner = Learner(tiny_host(architecture, dtype), method, seed=4, optim=OPTIM)
    found: list[Tensor] = []
    read = _trained_logits if training else logits

    def listen(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            learner.host.model.train(training)
            found.append(read(learner))

    learner.learn(TASKS[0])
    learner.on_event = listen
    sizes = []
    for task in TASKS[1:3]:
        before = read(learner)
        learner.learn(task)
        moved = (read(learner) - before).abs().max()
        assert moved > 1e-2, "the task itself changes something"
        sizes.append((found.pop() - before).abs().max().item())
    return sizes


def _trained_logits(learner: Learner) -> Tensor:
    """As a training step computes them, with a graph."""
    found, _ = learner.predictions(learner.encode(TASKS[0].examples("test")))
    return found.detach()


# The adapter


def filled(settings: SlottedAdapter, tasks: int = 4) -> tuple[LowRankSite, list[Triplets], list[Triplets]]:
    """A site in float64 after some tasks, with each task's start and its present factors."""
    site = LowRankSite(nn.Linear(7, 5, dtype=torch.float64), settings)
    generator = torch.Generator().manual_seed(0)
    starts: list[Triplets] = []
    ends: list[Triplets] = []
    for number in range(tasks):
        site.grow()
        site.fresh(number)
        if number:
            start = _random(generator, "sigma" in settings.groups)
            site.write(start)
            starts.append(start)
        ends.append(_random(generator, "sigma" in settings.groups))
        _overwrite(site, ends[-1])
        if number + 1 < tasks:
            site.freeze()
    return site, starts, ends


def _random(generator: torch.Generator, has_sigma: bool) -> Triplets:
    shapes = ((2, 7), (2, 5), *(((2,),) if has_sigma else ()))
    return Triplets(*(torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes))


def _overwrite(site: LowRankSite, end: Triplets) -> None:
    """What training makes of the newest factors."""
    values = {"down": end.down, "up": end.up.T, "sigma": end.sigma}
    for group, parameter in site.parameters_by_group().items():
        parameter.data.copy_(values[group])
        parameter.requires_grad_(True)


def _matrix(triplets: Triplets) -> Tensor:
    """sum_i sigma_i u_i v_i^T, in a loop."""
    rank = len(triplets.down)
    sigma = torch.ones(rank, dtype=torch.float64) if triplets.sigma is None else triplets.sigma
    return sum((sigma[i] * torch.outer(triplets.up[i], triplets.down[i]) for i in range(rank)), torch.zeros(5, 7))


@pytest.mark.parametrize("kind", [Svd, LowRank])
def test_an_update_is_what_has_been_added_to_its_start(kind: type[SlottedAdapter]) -> None:
    """Forward, gradients, the one weight, and slots weighted by row, against matrices made in loops in float64."""
    site, starts, ends = filled(kind(rank=2, alpha=3.0, dropout=0.0, from_start=True))
    deltas = [_matrix(end) for end in ends]
    for number, start in enumerate(starts, 1):
        deltas[number] = deltas[number] - _matrix(start)
    assert all(delta.abs().max() > 0.1 for delta in deltas)
    base, x = site.base, torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = base.weight + 1.5 * sum(deltas)
    expected = x @ whole.T + base.bias
    assert site.working.folded is not None
    assert (site(x) - expected).abs().max() <= 1e-12
    with site.working.set_aside():
        assert (site(x) - expected).abs().max() <= 1e-12, "in rank space"
    assert (site.effective_weight() - whole).abs().max() <= 1e-12

    newest = {group: p.detach().clone().requires_grad_() for group, p in site.parameters_by_group().items()}
    sigma = newest.get("sigma", torch.ones(2, dtype=torch.float64))
    update = (newest["up"] * sigma) @ newest["down"] - _matrix(starts[-1])
    (x @ (base.weight + 1.5 * (sum(deltas[:-1]) + update)).T + base.bias).square().sum().backward()
    site(x).square().sum().backward()
    for group, parameter in site.parameters_by_group().items():
        naive = newest[group].grad
        assert (parameter.grad - naive).abs().max() <= 1e-11 * naive.abs().max()

    weights = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    site.rows = weights
    routed = torch.stack(
        [row @ (base.weight + 1.5 * sum(w * d for w, d in zip(by, deltas, strict=True))).T + base.bias
         for row, by in zip(x, weights, strict=True)]
    )  # fmt: skip
    assert (site(x) - routed).abs().max() <= 1e-12

    site.rows = None
    site.freeze()
    site.eval()
    assert site.working.folded_all is not None
    assert (site(x) - expected).abs().max() <= 1e-12
    site.grow()
    assert (site(x) - expected).abs().max() <= 1e-12, "the next task begins where this one ended"


def test_a_slot_that_begins_as_usual_has_nothing_to_take_out() -> None:
    """Counting from the start is then counting everything: the same function, and origins of zeros."""
    counted, whole = (filled(Svd(rank=2, dropout=0.0, from_start=way), tasks=1)[0] for way in (True, False))
    whole.base.load_state_dict(counted.base.state_dict())
    for site in (counted, whole):
        site.freeze()
        site.grow()
        site.fresh(9)
        _overwrite(site, _random(torch.Generator().manual_seed(3), True))
    x = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (counted(x) - whole(x)).abs().max() <= 1e-14 * whole(x).abs().max()
    assert counted.slots.origin_down.shape == (1, 2, 7)
    assert not counted.slots.origin_up.any()


def test_what_has_no_sum_to_take_a_start_out_of_is_refused() -> None:
    with pytest.raises(RecipeError, match="all tasks share one slot here"):
        Svd(slots="shared", from_start=True)
    with pytest.raises(RecipeError, match="mixed by gates here"):
        Gated(from_start=True)


# The methods


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2", "roberta"])
@pytest.mark.parametrize("name", KEPT)
def test_a_task_begins_at_the_function_that_the_last_one_left(name: str, architecture: str, training: bool) -> None:
    """To the rounding of float64, answering and in the training step; the literal start jumps."""
    assert max(jumps(made(name), architecture, torch.float64, training=training)) <= 1e-11
    literal = {"sensitivity_init": {"sigma": "average"}} if "+" in name else {"sigma": "average"}
    assert min(jumps(made(name, **literal), architecture, torch.float64, training=training)) > 1e-4


@pytest.mark.parametrize("name", KEPT)
def test_in_single_precision_it_begins_there_to_its_rounding(name: str) -> None:
    assert max(jumps(made(name), "t5", torch.float32)) <= 2e-4


@pytest.mark.parametrize("settings", [{"orthonormalize": "qr"}, {"align": "align", "match": "sigma_sorted"}])
def test_however_the_triplets_are_made_the_function_is_kept(settings: dict[str, object]) -> None:
    assert max(jumps(made("lb_cl", **settings), "t5", torch.float64)) <= 1e-11


def test_the_injected_triplets_are_those_of_the_literal_start_and_all_get_gradients() -> None:
    """With sigma not zero, U, V and sigma are trained from the first step on."""
    found: dict[str, dict[str, Tensor]] = {}
    for sigma in ("kept", "average"):
        learner = Learner(tiny_host("t5"), made("lb_cl", sigma=sigma), seed=4, optim=OPTIM)
        learner.learn(TASKS[0])
        learner.on_event = lambda event, learner=learner, sigma=sigma: (
            isinstance(event, TrainingPrepared)
            and found.update({sigma: {n: t.clone() for n, t in learner.adapter.tensors().items()}})
        )
        learner.learn(TASKS[1])
    for name, tensor in found["average"].items():
        assert torch.equal(tensor, found["kept"][name]), name
    for name in found["kept"].keys() - found["average"].keys():
        site, _, kind = name.rpartition(".origin_")
        own = found["kept"][f"{site}.{kind}.weight"]
        assert torch.equal(found["kept"][name][-1], own if kind == "down" else (own * found["kept"][f"{site}.sigma"]).T)
        assert own.any()


@pytest.mark.parametrize("name", KEPT)
def test_saved_and_merged_it_answers_as_before(name: str, tmp_path: Path) -> None:
    """A loaded learner has the same bits, and goes on to the same ones; the merged model is the same function."""
    learner = Learner(tiny_host("t5", torch.float64), made(name), seed=4, optim=OPTIM)
    for task in TASKS[:3]:
        learner.learn(task)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5", torch.float64))
    assert torch.equal(logits(loaded), logits(learner))
    merged = learner.merged().eval()
    inputs = learner.host.family.batch(learner.encode(TASKS[0].examples("test")))
    with torch.no_grad():
        assert (merged(**inputs).logits - logits(learner)).abs().max() <= 1e-11
    for each in (learner, loaded):
        each.learn(TASKS[3])
    assert torch.equal(logits(loaded), logits(learner))
    origins = [t for key, t in learner.adapter.tensors().items() if ".origin_" in key]
    assert {len(origin) for origin in origins} == {3}
    assert all(origin.flatten(1).any(1).all() for origin in origins)


def test_in_half_precision_it_begins_there_to_the_rounding_of_the_weights() -> None:
    """Where updates are so small that they stay beside the weight, nothing of them is rounded to bfloat16."""
    learner = Learner(tiny_host("llama", torch.bfloat16), made("lb_cl"), seed=4, optim=OPTIM)
    learner.learn(TASKS[0])
    for site in learner.adapter.sites.values():
        site.slots.sigma.data.mul_(1e-3)
    learner.adapter.freeze()
    before = logits(learner)
    seen: list[tuple[Tensor, bool]] = []
    learner.on_event = lambda event: (
        isinstance(event, TrainingPrepared)
        and seen.append((logits(learner), all(s.working.folded is None for s in learner.adapter.sites.values())))
    )
    learner.learn(TASKS[1])
    started, beside = seen[0]
    assert beside
    assert (started - before).abs().max() <= 2**-7 * before.abs().max()


@pytest.mark.parametrize("estimate", ["batch", "sample"])
def test_sensitivities_are_of_the_triplets_in_the_function_as_it_is(
    estimate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded with what was taken out, or beside the weight: the same numbers."""
    learner = Learner(tiny_host("t5", torch.float64), made("lb_cl"), seed=4, optim=OPTIM)
    for task in TASKS[:3]:
        learner.learn(task)
    learner.adapter.grow()
    start, names = SensitivityStart(seed_samples=5, estimate=estimate), list(learner.adapter.sites)
    found = []
    for way in (through_folded, through_triplets):
        monkeypatch.setattr(sensitivity_start, "through_folded", way)
        found.append(start.sensitivities(learner, [TASKS[3]], names))
    folded, triplets = found
    largest = max(scores.norm() for scores in triplets.values())
    assert largest > 1e-4
    for name in names:
        assert folded[name].shape == (3, 2)
        assert (folded[name] - triplets[name]).norm() <= 1e-12 * largest


# What is chosen, and what is said


def warnings_of(method: Method) -> list[str]:
    found: list[str] = []
    learner = Learner(tiny_host("t5"), method, seed=4, optim=OPTIM)
    learner.on_event = lambda event: isinstance(event, Warned) and found.append(event.text)
    for task in TASKS[:2]:
        learner.learn(task)
    return [text for text in found if text == ADDS_ONCE_MORE]


def test_the_literal_start_says_once_that_it_adds_earlier_updates_again() -> None:
    literal = {"sensitivity_init": {"sigma": "average"}}
    assert len(warnings_of(made("lb_cl", sigma="average"))) == 1
    assert len(warnings_of(made("inc_lora+sensitivity_init", **literal))) == 1
    assert "adds earlier updates once more" in ADDS_ONCE_MORE
    for method in (
        made("lb_cl"),
        made("lb_cl", sigma="zero"),
        made("lb_cl", variant="b_cl"),
        made("inc_lora+sensitivity_init"),
        made("am_lora+sensitivity_init", **literal),
    ):
        assert warnings_of(method) == [], method


def test_the_default_keeps_the_function_where_updates_are_summed() -> None:
    """Elsewhere gates or a routing weight the slots, so that an average adds nothing to a sum."""
    assert made("lb_cl").adapter == made("lb_cl", sigma="kept").adapter
    assert made("lb_cl").adapter.from_start
    assert made("lb_cl", variant="l_cl").adapter.from_start
    for method in (
        made("lb_cl", variant="b_cl"),
        made("lb_cl", variant="nlnb_cl"),
        made("lb_cl", sigma="average"),
        made("lb_cl", sigma="zero"),
        made("am_lora+sensitivity_init"),
        sensitivity_init(epi_like()),
    ):
        assert not method.adapter.from_start, method
    assert made("inc_lora+sensitivity_init").adapter.from_start


def test_a_mixture_cannot_keep_the_function() -> None:
    kept = {"sensitivity_init": {"sigma": "kept"}}
    for build in (lambda: made("am_lora+sensitivity_init", **kept), lambda: sensitivity_init(epi_like(), sigma="kept")):
        with pytest.raises(RecipeError, match="weights each of them instead; 'average' and 'zero' work here"):
            build()
    with pytest.raises(RecipeError, match="all tasks share one slot"):
        build_method("seq_lora+sensitivity_init", kept)
