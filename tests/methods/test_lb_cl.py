"""LB-CL as a method: where a task begins, which directions it moves in, and what its parts do elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import ARCHITECTURES, outputs, perturb, tiny_host, tiny_task
from nacre.adapters.low_rank import LowRankSite
from nacre.adapters.slotted import PlacedSlots
from nacre.adapters.svd import Svd
from nacre.errors import RecipeError, TrainingError
from nacre.events import TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.models.roles import in_top_layers, layer_of
from nacre.parts.measured_sensitivity import _without_newest
from nacre.parts.orthonormality import Orthonormality
from nacre.parts.part import GradientRule
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish", "worms")]
Tensors = dict[str, Tensor]


def tensors_of(learner: Learner) -> Tensors:
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def learnt(method: Method, tasks: int, architecture: str = "t5", optim: Optim = OPTIM, seed: int = 4) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=seed, optim=optim)
    for task in TASKS[:tasks]:
        learner.learn(task)
    return learner


def at_start(method: Method, tasks: int, architecture: str = "t5") -> tuple[Tensors, Tensor]:
    """The tensors and logits of a learner when the last of its tasks begins, before the first step."""
    found: list[tuple[Tensors, Tensor]] = []
    learner = Learner(tiny_host(architecture), method, seed=4, optim=OPTIM)
    learner.on_event = lambda event: (
        isinstance(event, TrainingPrepared) and found.append((tensors_of(learner), logits(learner)))
    )
    for task in TASKS[:tasks]:
        learner.learn(task)
    return found[-1]


def logits(learner: Learner) -> Tensor:
    family = learner.host.family
    return outputs(learner.host, family.batch(learner.encode(TASKS[0].examples("test"))))


def lb_cl(**parameters: object) -> Method:
    return build_method("lb_cl", {"rank": 2, **parameters})


# The adapter


def test_the_site_is_the_sum_of_its_triplets() -> None:
    """Forward and gradients, folded or not, against loops over tasks and triplets."""
    base = nn.Linear(7, 5, dtype=torch.float64)
    site = LowRankSite(base, Svd(rank=2, alpha=3.0, dropout=0.0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        site.grow()
        for parameter in site.parameters_by_group().values():
            parameter.data.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    assert [tuple(t.shape) for t in site.past_by_group().values()] == [(3, 2, 7), (3, 2, 5), (3, 2)]
    x = torch.randn(6, 7, dtype=torch.float64, generator=generator)
    u, v, sigma = (
        p.detach().clone().requires_grad_() for p in (site.slots.up.weight, site.slots.down.weight, site.slots.sigma)
    )
    expected = base(x)
    for i in range(2):
        for past_v, past_u, past_sigma in zip(
            site.slots.past_down, site.slots.past_up, site.slots.past_sigma, strict=True
        ):
            expected = expected + 1.5 * past_sigma[i] * torch.outer(x @ past_v[i], past_u[i])
        expected = expected + 1.5 * sigma[i] * torch.outer(x @ v[i], u[:, i])
    unfolded = site(x)
    site.fold_past()
    folded = site(x)
    assert (unfolded - expected).abs().max() <= 1e-12
    assert (folded - expected).abs().max() <= 1e-12
    folded.square().sum().backward()
    expected.square().sum().backward()
    for found, naive in ((site.slots.up.weight, u), (site.slots.down.weight, v), (site.slots.sigma, sigma)):
        assert (found.grad - naive.grad).abs().max() <= 1e-10 * naive.grad.abs().max()


def test_scale_is_one_unless_alpha_says_otherwise() -> None:
    assert lb_cl().adapter.scale == 1.0
    assert lb_cl(alpha=6.0).adapter.scale == 3.0
    with pytest.raises(RecipeError, match=r"alpha: 0\.0 is not positive"):
        lb_cl(alpha=0.0)


def test_the_first_task_begins_at_the_host() -> None:
    """U and V normal(0, 0.02), sigma 0: nothing is changed, and the draw depends on seed and site only."""
    tensors, found = at_start(lb_cl(rank=6), 1)
    assert torch.equal(found, logits(Learner(tiny_host("t5"), lb_cl(), optim=OPTIM)))
    factors = torch.cat([t.flatten() for name, t in tensors.items() if name.endswith(".weight")])
    assert abs(factors.std() / 0.02 - 1) < 0.1
    assert all(not t.any() for name, t in tensors.items() if name.endswith(".sigma"))
    ups = [t for name, t in tensors.items() if name.endswith("up.weight")]
    assert not torch.equal(ups[0], ups[1])
    downs = [t for name, t in tensors.items() if name.endswith("down.weight")]
    assert not torch.equal(ups[0].T, downs[0])


def test_one_svd_adapter_for_the_whole_stream() -> None:
    """SeqSVD: a shared slot works with it, too."""
    learner = learnt(Method(title="SeqSVD", sources=(), adapter=Svd(rank=2, slots="shared")), 2)
    assert learner.adapter.tasks == 2
    assert all(len(tensor) == 0 for name, tensor in tensors_of(learner).items() if ".past_" in name)


@pytest.mark.parametrize("name", ["lb_cl", "inc_lora", "am_lora"])
def test_the_past_can_be_opened_and_is_closed_again(name: str) -> None:
    """Its tensors are leaves for a while: the function is the same, gradients arrive, and all is put back."""
    learner = learnt(build_method(name, {"rank": 2}), 3)
    adapter = learner.adapter
    assert isinstance(adapter, PlacedSlots)
    perturb(learner.host.model)
    before = {name: (site.past_weight, site.past_by_group()) for name, site in adapter.sites.items()}
    closed = logits(learner)
    rows = learner.encode(TASKS[0].examples("train"))
    with adapter.past_open() as leaves:
        assert torch.allclose(logits(learner), closed, rtol=1e-4, atol=1e-4)
        wanted = [leaf for stacks in leaves.values() for leaf in stacks.values()]
        assert {leaf.shape[0] for leaf in wanted} == {2}
        assert all(g.any() for g in torch.autograd.grad(learner.loss_sum(rows), wanted))
    for site_name, site in adapter.sites.items():
        folded, past = before[site_name]
        assert site.past_weight is folded
        assert all(site.past_by_group()[group] is stack for group, stack in past.items())
        assert not any(stack.requires_grad for stack in past.values())
    assert torch.equal(logits(learner), closed)


# Where a task begins


def test_sensitivities_are_measured_on_the_model_that_the_last_task_left() -> None:
    """The new slot takes no part, not even in AM-LoRA's softmax; nothing is dropped; the model's mode comes back."""
    for name in ("lb_cl", "inc_lora", "am_lora"):
        learner = learnt(
            build_method(name, {"rank": 2, "dropout": 0.5}), 2, optim=OPTIM.model_copy(update={"epochs": 4})
        )
        rows = learner.encode(TASKS[2].examples("train"))
        with torch.no_grad():
            expected = learner.loss_sum(rows)
        learner.adapter.grow()
        seen: list[Tensor] = []
        loss_sum = learner.loss_sum
        learner.loss_sum = lambda given, seen=seen, f=loss_sum: seen.append(f(given)) or seen[-1]
        learner.host.model.train()
        SensitivityStart(seed_samples=99).sensitivities(learner, [TASKS[2]], list(learner.adapter.sites))
        assert learner.host.model.training
        learner.host.model.eval()
        assert torch.allclose(seen[0].detach(), expected, rtol=1e-5), name
        if name == "am_lora":
            with torch.no_grad():
                assert abs(loss_sum(rows) - expected) > 1e-3 * expected, "without care it would"
            with _without_newest(learner.adapter), torch.no_grad():
                assert torch.allclose(loss_sum(rows), expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["lb_cl", "inc_lora+sensitivity_init", "am_lora+sensitivity_init"])
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_second_task_begins_as_an_exact_copy_of_the_first(method: str, architecture: str) -> None:
    """One earlier task: alpha = 1."""
    tensors, _ = at_start(build_method(method, {"rank": 2}), 2, architecture)
    pasts = [name for name in tensors if ".past_" in name]
    assert pasts
    for name in pasts:
        site, kind = name.split(".past_")
        new = tensors[f"{site}.{kind}" if kind == "sigma" else f"{site}.{kind}.weight"]
        assert torch.equal(tensors[name][0], new.T if kind == "up" else new), name
        assert new.any()


def test_a_start_without_sigma_changes_no_bit_of_the_function() -> None:
    """Directions are taken over, sigma is 0: the logits are those of a fresh slot, and the old ones up to folding."""
    done = logits(learnt(lb_cl(variant="nlnb_cl"), 1))
    zero, fresh, average = (
        at_start(method, 2)
        for method in (
            lb_cl(variant="l_cl", sigma="zero"),
            lb_cl(variant="nlnb_cl"),
            lb_cl(variant="l_cl", sigma="average"),
        )
    )
    assert torch.equal(zero[1], fresh[1])
    assert torch.allclose(zero[1], done, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(average[1], done, rtol=1e-4, atol=1e-5)
    up = next(name for name in zero[0] if name.endswith("up.weight"))
    assert torch.equal(zero[0][up], average[0][up])
    assert not torch.equal(zero[0][up], fresh[0][up])


@pytest.mark.parametrize("base", ["inc_lora", "am_lora"])
def test_without_sigma_a_lora_takes_over_its_input_directions_only(base: str) -> None:
    tensors, found = at_start(
        build_method(f"{base}+sensitivity_init", {"rank": 2, "sensitivity_init": {"sigma": "zero"}}), 2
    )
    assert torch.equal(found, at_start(build_method(base, {"rank": 2}), 2)[1])
    for name, tensor in tensors.items():
        if name.endswith("up.weight"):
            assert not tensor.any()
        if name.endswith("down.weight"):
            assert torch.equal(tensor, tensors[name.replace("down.weight", "past_down")][0])


def test_ones_and_orthonormal_factors() -> None:
    tensors, _ = at_start(lb_cl(sigma="ones", orthonormalize="qr"), 3)
    for name, tensor in tensors.items():
        if name.endswith(".sigma"):
            assert torch.equal(tensor, torch.ones(2))
        if name.endswith(".weight"):
            rows = tensor.T if name.endswith("up.weight") else tensor
            assert (rows @ rows.T - torch.eye(2)).abs().max() < 1e-5
    with pytest.raises(TrainingError, match="has 8 dimensions, too few for 9"):
        at_start(lb_cl(variant="l_cl", rank=9, orthonormalize="qr"), 2, "llama")


def test_only_the_upper_layers_take_part() -> None:
    """T5: the decoder's last layer. All other sites begin as they do without the part."""
    some, everything, fresh = (
        at_start(lb_cl(**parameters), 2)[0]
        for parameters in ({"top_layers": 1}, {}, {"variant": "b_cl"})
    )  # fmt: skip
    for name in some:
        if ".origin_" in name:
            assert some[name].any() == name.startswith("decoder.block.1.")
        elif ".past_" not in name:
            taken = name.startswith("decoder.block.1.")
            assert torch.equal(some[name], (everything if taken else fresh)[name])
            assert not torch.equal(some[name], (fresh if taken else everything)[name])


@pytest.mark.parametrize(("architecture", "upper"), [("t5", "decoder.block.1."), ("llama", "model.layers.1.")])
@pytest.mark.parametrize("base", ["lb_cl", "inc_lora", "am_lora"])
def test_copies_of_the_last_task(base: str, architecture: str, upper: str) -> None:
    parameters = {"variant": "b_cl", "rank": 2} if base == "lb_cl" else {"rank": 2}
    fresh, _ = at_start(build_method(base, parameters), 3, architecture)
    for layers in (1, "all"):
        copied, _ = at_start(
            build_method(f"{base}+copy_init", {**parameters, "copy_init": {"layers": layers}}), 3, architecture
        )
        # Until now both learners have learnt other things: task 2 began with a copy as well. Compared is the rule.
        for name, tensor in copied.items():
            site, _, kind = name.removesuffix(".weight").rpartition(".")
            if f"past_{kind}" in {key.rpartition(".")[2] for key in copied}:
                last = copied[f"{site}.past_{kind}"][-1]
                taken = layers == "all" or name.startswith(upper)
                assert torch.equal(tensor, last.T if kind == "up" else last) == taken, name
                if not taken:
                    assert torch.equal(tensor, fresh[name])


def test_layers_are_found_in_every_architecture() -> None:
    assert layer_of("decoder.block.3.layer.0.SelfAttention.q") == ("decoder.block", 3)
    assert layer_of("lm_head") is None
    for architecture in ARCHITECTURES:
        learner = Learner(tiny_host(architecture), build_method("inc_lora"), optim=OPTIM)
        body, sites = learner.host.body, list(learner.adapter.sites)
        top, both = in_top_layers(body, sites, 1), in_top_layers(body, sites, 9)
        assert {layer_of(name)[1] for name in top} == {1}
        assert {layer_of(name)[1] for name in both} == {0, 1}
        only_decoder = [name for name in sites if "decoder" in name.split(".")]
        assert both == (only_decoder or sites)
    with pytest.raises(RecipeError, match=r"None of the adapter's linear maps lies in the 1 layer"):
        in_top_layers(tiny_host("t5").model, ["encoder.block.1.layer.0.SelfAttention.q"], 1)


def test_seed_rows_are_rows_of_the_new_task_drawn_by_seed() -> None:
    def rows(seed: int, number: int = 8) -> list[str]:
        learner = learnt(lb_cl(), 1, seed=seed)
        return [example.text for example in SensitivityStart(number).seed_rows(learner, [TASKS[1]])]

    everything = sorted(example.text for example in TASKS[1].examples("train"))
    assert len(rows(1)) == 8
    assert all(text in everything for text in rows(1))
    assert rows(1) == rows(1) != rows(2)
    assert sorted(rows(1, 99)) == everything, "each once"


# Which directions it moves in


def inside(learner: Learner, before: Tensors) -> float:
    """The largest ||Q^T (U - U_init)|| over all factors, with explicit projectors in float64."""
    found = moved = 0.0
    for name, tensor in tensors_of(learner).items():
        if name.endswith(".weight"):
            site, kind = name.removesuffix(".weight").rsplit(".", 1)
            change = (tensor - before[name]).double()
            rows = change.T if kind == "up" else change
            old = before[f"{site}.past_{kind}"].flatten(0, 1).double()
            moved = max(moved, change.norm().item())
            found = max(found, (rows @ torch.linalg.pinv(old, rtol=1e-6) @ old).norm().item())
    assert moved > 0.02
    return found


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize(
    ("on", "optimizer", "exact"),
    [("update", "adamw", True), ("both", "adamw", True), ("gradient", "sgd", True), ("gradient", "adamw", False)],
)
def test_what_stays_out_of_the_old_span(
    architecture: str, on: str, optimizer: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projected updates are exact under AdamW with decay; gradients only where a step is a sum of gradients."""
    decay = 0.01 if on != "gradient" else 0.0
    if optimizer == "sgd":

        def sgd(parameters: list[nn.Parameter], lr: float = 0.1, **_: object) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

        monkeypatch.setattr("torch.optim.AdamW", sgd)
    rate = 3.0 if optimizer == "sgd" else 1e-2
    optim = Optim(batch_size=4, learning_rate=rate, epochs=3, weight_decay=decay)
    for method in (
        lb_cl(on=on),
        build_method("inc_lora+orthogonal_gradient", {"rank": 2, "orthogonal_gradient": {"on": on}}),
    ):
        begun: list[Tensors] = []
        learner = Learner(tiny_host(architecture), method, seed=4, optim=optim)
        learner.on_event = lambda event, learner=learner, begun=begun: (
            isinstance(event, TrainingPrepared) and begun.append(tensors_of(learner))
        )
        for task in TASKS[:3]:
            learner.learn(task)
        share = learner.state.parts["orthogonal_gradient"].share_in_old_span
        assert len(share) == 3
        assert share[0] == 0
        assert (inside(learner, begun[-1]) <= 1e-5) == exact
        assert (max(share) <= 1e-4) == exact
        if not exact:
            assert inside(learner, begun[-1]) > 1e-2
            assert 0.01 < share[-1] < 0.6


class Seen(GradientRule):
    """Keeps copies of the gradients, as they are when it is its turn."""

    def __init__(self) -> None:
        self.found: list[Tensors] = []

    def apply(self, learner: Learner) -> None:
        sites = learner.adapter.sites.items()
        groups = [(f"{name}.{group}", p) for name, site in sites for group, p in site.parameters_by_group().items()]
        self.found.append({name: parameter.grad.clone() for name, parameter in groups})


def gradients_of_first_step(method: Method, tasks: int) -> list[Tensor]:
    seen = Seen()
    learnt(method.with_gradient_rule(seen), tasks, optim=Optim(batch_size=99, learning_rate=1e-2))
    assert len(seen.found) == tasks
    return list(seen.found[-1].values())


def test_spaces_are_one_for_one_earlier_task_and_differ_for_two() -> None:
    for tasks, equal in ((2, True), (3, False)):
        union, literal = (gradients_of_first_step(lb_cl(space=space), tasks) for space in ("union", "sum"))
        assert all(torch.equal(a, b) for a, b in zip(union, literal, strict=True)) == equal


@pytest.mark.parametrize("space", ["union", "sum", "vectors"])
def test_gradients_are_projected_site_by_site(space: str) -> None:
    """The first step's gradients, unclipped, are those without the rule, less what explicit projectors take."""
    found: dict[str, Tensors] = {}
    learner = learnt(lb_cl(space=space), 2)
    plain = replace(learner.method, gradient_rules=())
    tensors = tensors_of(learner)
    for label, method in (("ruled", learner.method), ("plain", plain)):
        seen = Seen()
        optim = Optim(batch_size=99, learning_rate=1e-2)
        twin = Learner(tiny_host("t5"), method.with_gradient_rule(seen), seed=4, optim=optim)
        twin.adapter.load(tensors, {"slots": 2})
        twin.learn(TASKS[2])
        found[label] = {name: gradient.double() for name, gradient in seen.found[0].items()}
    past = {name: tensor.double() for name, tensor in tensors_of(twin).items() if ".past_" in name}
    for name, gradient in found["plain"].items():
        site, kind = name.rsplit(".", 1)
        if kind == "sigma":
            assert torch.equal(found["ruled"][name], gradient), "left free"
            continue
        rows, stack = (gradient.T if kind == "up" else gradient), past[f"{site}.past_{kind}"]
        groups = {"union": [stack.flatten(0, 1)], "sum": list(stack), "vectors": list(stack.flatten(0, 1).unsqueeze(1))}
        expected = rows - sum(rows @ torch.linalg.pinv(old, rtol=1e-6) @ old for old in groups[space])
        result = found["ruled"][name].T if kind == "up" else found["ruled"][name]
        assert (result - expected).norm() <= 1e-5 * rows.norm()


def test_sigma_may_be_kept_out_of_the_old_sigmas() -> None:
    learner = learnt(lb_cl(rank=3, sigma_gradient="flat", on="update"), 1)
    before = tensors_of(learner)
    start: list[Tensors] = []
    learner.on_event = lambda event: isinstance(event, TrainingPrepared) and start.append(tensors_of(learner))
    learner.learn(TASKS[1])
    for name, tensor in tensors_of(learner).items():
        if name.endswith(".sigma"):
            old, change = before[name], tensor - start[0][name]
            assert change.norm() > 1e-4
            assert (change @ old / old.norm()).abs() <= 1e-6


def test_a_full_width_is_an_error_that_names_the_site() -> None:
    learner = learnt(lb_cl(rank=8), 1, "llama")
    with pytest.raises(
        TrainingError, match=r"v_proj: the earlier tasks' 'up' factors \(1 tasks of rank 8\) span all 8"
    ):
        learner.learn(TASKS[1])


# The method and its variants


def test_variants_are_the_parts_they_name() -> None:
    parts = {name: lb_cl(variant=name) for name in ("lb_cl", "l_cl", "b_cl", "nlnb_cl")}
    assert {name: (m.start.key, [rule.key for rule in m.gradient_rules]) for name, m in parts.items()} == {
        "lb_cl": ("sensitivity_start", ["orthogonal_gradient"]),
        "l_cl": ("sensitivity_start", []),
        "b_cl": ("fresh", ["orthogonal_gradient"]),
        "nlnb_cl": ("fresh", []),
    }


def test_neither_is_incremental_svd() -> None:
    """nlnb_cl without its regularizer trains what the adapter alone trains, bit for bit."""
    bare = Method(title="bare", sources=(), adapter=Svd(rank=2))
    expected = tensors_of(learnt(bare, 3))
    found = tensors_of(learnt(lb_cl(variant="nlnb_cl", orthonormality=0.0), 3))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_the_first_task_is_the_same_in_all_variants_and_the_second_in_none() -> None:
    learners = {name: learnt(lb_cl(variant=name), 1) for name in ("nlnb_cl", "lb_cl", "l_cl", "b_cl")}
    first = {name: tensors_of(learner) for name, learner in learners.items()}
    for found in first.values():
        assert all(torch.equal(tensor, found[name]) for name, tensor in first["nlnb_cl"].items())
    for learner in learners.values():
        learner.learn(TASKS[1])
    second = [torch.cat([t.flatten() for t in tensors_of(learner).values()]) for learner in learners.values()]
    assert all(not torch.equal(a, b) for place, a in enumerate(second) for b in second[:place])


def test_the_regularizer_is_that_of_adalora_in_peft() -> None:
    """The mean over matrices of ||P P^T - I||, as peft's forward adds it; and the paper's sum of squares."""
    learner = learnt(lb_cl(), 2)
    norms = []
    for name, tensor in tensors_of(learner).items():
        if name.endswith(".weight"):
            gram = tensor @ tensor.T if name.endswith("down.weight") else tensor.T @ tensor
            norms.append(torch.norm(gram - torch.eye(2), p="fro"))
    assert torch.allclose(Orthonormality().value(learner), sum(norms) / len(norms), rtol=1e-6)
    assert torch.allclose(Orthonormality(form="paper").value(learner), sum(n**2 for n in norms), rtol=1e-6)
    assert Orthonormality().weight(1) == 0.5
    assert Orthonormality((0.5, 0.25)).weight(2) == 0.25


@pytest.mark.parametrize("form", ["released", "paper"])
def test_the_regularizer_makes_factors_orthonormal(form: str) -> None:
    def error(strength: float) -> float:
        method = lb_cl(orthonormality=strength, orthonormality_form=form)
        optim = OPTIM.model_copy(update={"epochs": 12, "learning_rate": 3e-2})
        return Orthonormality().value(learnt(method, 1, "llama", optim)).item()

    assert error(5.0) < 0.2 * error(0.0)


def test_saved_and_loaded_a_learner_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    learner = learnt(lb_cl(), 2)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"))
    assert loaded.state == learner.state
    for one in (learner, loaded):
        one.learn(TASKS[2])
    assert loaded.state == learner.state
    assert len(loaded.state.parts["orthogonal_gradient"].share_in_old_span) == 3
    assert vars(loaded.state.parts["orthogonal_gradient"]).keys() == {"share_in_old_span"}, "no basis is kept"
    assert all(torch.equal(tensor, tensors_of(loaded)[name]) for name, tensor in tensors_of(learner).items())


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lb_cl", {}),
        ("am_lora+sensitivity_init", {"sensitivity_init": {"sigma": "zero"}}),
        ("inc_lora+orthogonal_gradient", {"orthogonal_gradient": {"on": "update"}}),
    ],
)
def test_a_third_task_is_learnt(name: str, parameters: dict[str, object], architecture: str) -> None:
    optim = Optim(batch_size=6, learning_rate=2e-2, epochs=8)
    learner = learnt(build_method(name, {"rank": 2, **parameters}), 2, architecture, optim)
    # Familiar rows with other answers: what earlier tasks learnt does not help.
    task = tiny_task("worms", labels=("no", "maybe"))

    def loss() -> float:
        with torch.no_grad():
            return learner.loss_sum(learner.encode(task.examples("train"))).item()

    before = loss()
    learner.learn(task)
    assert loss() < 0.9 * before


def test_migu_masks_sigma_with_the_rows_of_v() -> None:
    learner = learnt(lb_cl(), 1)
    by_name = {found.name: found for found in learner.adapter.feature_maps()}
    for name, site in learner.adapter.sites.items():
        down, up = by_name[f"{name}.down"], by_name[name]
        assert [id(parameter) for parameter, _ in down.parameters] == [id(site.slots.down.weight), id(site.slots.sigma)]
        assert [axis for _, axis in down.parameters] == [0, 0]
        assert down.features == 2
        assert [parameter is site.slots.up.weight for parameter, _ in up.parameters] == [True]
    learnt(build_method("lb_cl+migu", {"rank": 2}), 2)  # and both rules work side by side


# Who cannot have them


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("seq_lora+sensitivity_init", {}, "sensitivity_start cannot be a part of seq_lora: .*all tasks share one slot"),
        ("seq_lora+orthogonal_gradient", {}, "all tasks share one slot; inc_lora, am_lora and lb_cl have one for each"),
        ("seq_lora+copy_init", {}, "all tasks share one slot"),
        ("seq_ft+sensitivity_init", {}, "earlier tasks' low-rank factors, and here are none"),
        ("seq_ft+orthogonal_gradient", {}, "earlier tasks' low-rank factors, and here are none"),
        ("seq_ft+copy_init", {}, "earlier tasks' low-rank factors, and here are none"),
        ("inc_lora+sensitivity_init", {"sensitivity_init": {"sigma": "ones"}}, "'average' or 'zero' work here"),
        ("am_lora+sensitivity_init", {"sensitivity_init": {"orthonormalize": "qr"}}, "without a sigma"),
        ("inc_lora+orthogonal_gradient", {"orthogonal_gradient": {"sigma": "flat"}}, "'none' works here"),
        ("lb_cl", {"space": "sum", "on": "update"}, "needs a projection"),
        ("lb_cl", {"seed_samples": 0}, "seed_samples: 0 is not a positive"),
        ("lb_cl", {"top_layers": 0}, "top_layers: 0 is not a positive"),
        ("lb_cl", {"orthonormality": -1.0}, "cannot be negative"),
        ("inc_lora+copy_init", {"copy_init": {"layers": 0}}, "layers: 0 is not a positive"),
    ],
)
def test_what_does_not_fit_says_why(name: str, parameters: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        build_method(name, parameters)


def test_orthonormal_factors_need_a_sigma() -> None:
    make: Callable[[], Method] = lambda: build_method("inc_lora").with_penalty(Orthonormality())  # noqa: E731
    with pytest.raises(RecipeError, match="leave no size to an update without a sigma"):
        make()


@pytest.mark.parametrize(
    ("variant", "settings", "what"),
    [
        ("b_cl", {"seed_samples": 4}, "its start"),
        ("nlnb_cl", {"sigma": "zero"}, "its start"),
        ("l_cl", {"on": "update"}, "its orthogonal training"),
        ("nlnb_cl", {"space": "sum"}, "its orthogonal training"),
    ],
)
def test_settings_without_effect_are_refused(variant: str, settings: dict[str, object], what: str) -> None:
    with pytest.raises(RecipeError, match=f"without {what}"):
        build_method("lb_cl", {"variant": variant, **settings})
