"""The weight gradients of kept rows only, against their naive twin: whole gradients, masked after the backward pass."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers.contract import same_state
from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.adapter import FeatureMap
from nacre.events import Event, StepTaken
from nacre.features import masked_step
from nacre.features.kept_rows import KeptRows
from nacre.functional.kept_rows import FEWEST, ChosenRows, KeptRowsLinear, largest_rows, weight_gradient
from nacre.functional.masking import largest, zero_masked_
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.models.families import Encoded
from nacre.parts.magnitude_mask import MagnitudeMask
from nacre.parts.part import GradientRule, Penalty
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.5, split_padding=None)
MIGU: dict[str, object] = {"migu": {"first_task": True, "threshold": 0.6}}
ROWS = [Encoded((5, 6, 7, 8, 9, 1), (9, 12, 1), False), Encoded((10, 11, 1), (10, 1), False)]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Pure functions


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_against_a_loop(transposed: bool) -> None:
    gradient, x = drawn(5, 4, seed=1), drawn(5, 3, seed=2)
    rows = ChosenRows(torch.tensor([1, 3, 0]), 2, torch.tensor([False, True, False, True]))
    found = weight_gradient(gradient, x, rows, transposed=transposed)
    found = found.T if transposed else found
    for j in range(4):
        for i in range(3):
            expected = sum(gradient[t, j].item() * x[t, i].item() for t in range(5)) if j in (1, 3) else 0.0
            assert abs(found[j, i].item() - expected) <= 1e-14


@pytest.mark.parametrize(("features", "kept"), [(7, 1), (7, 3), (7, 7), (FEWEST - 1, 40), (FEWEST, 40), (300, 250)])
def test_the_rows_are_those_of_the_mask(features: int, kept: int) -> None:
    scores = [drawn(features, seed=seed).round(decimals=1) for seed in range(3)]  # some are equal
    for score, rows in zip(scores, largest_rows(scores, kept), strict=True):
        mask = largest(score, kept)
        assert torch.equal(rows.mask, mask)
        assert rows.kept.tolist() == mask.nonzero().flatten().tolist()
        assert len(set(rows.computed.tolist())) == len(rows.computed)
        if features >= FEWEST:
            assert len(rows.computed) == max(kept, FEWEST)


# One map


def plain_linear(features: int, d_in: int, kind: str, dtype: torch.dtype) -> nn.Module:
    made = Conv1D(features, d_in) if kind == "conv1d" else nn.Linear(d_in, features, bias=kind == "bias")
    made = made.to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=seed))
    return made


def feature_map(module: nn.Module, name: str = "map") -> FeatureMap:
    axis = 1 if isinstance(module, Conv1D) else 0
    parameters = [(module.weight, axis)] + ([] if module.bias is None else [(module.bias, 0)])
    return FeatureMap(name, name, (), module, tuple(parameters))


def gradients_of(module: nn.Module, x: Tensor, compute: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The output, and the gradients of the input and of the parameters."""
    x = x.clone().requires_grad_()
    h = compute(x)
    (h * drawn(*h.shape, seed=9, dtype=h.dtype)).sum().backward()
    found = [h.detach(), x.grad, *(parameter.grad for parameter in module.parameters())]
    module.zero_grad()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["no bias", "bias", "conv1d"])
@pytest.mark.parametrize(
    ("shape", "features", "kept"),
    [((2, 5, 3), 8, 3), ((7, 16), 24, 1), ((3, 40, 33), 64, 20), ((2, 300, 50), 200, 60), ((4, 80, 64), 512, 154)],
)
def test_one_map_is_bit_for_bit_what_masking_makes(
    shape: tuple[int, ...], features: int, kept: int, kind: str, dtype: torch.dtype
) -> None:
    module, x = plain_linear(features, shape[-1], kind, dtype), drawn(*shape, dtype=dtype)
    score = drawn(features, seed=3).abs()
    whole = gradients_of(module, x, module)
    for (parameter, axis), gradient in zip(feature_map(module).parameters, whole[2:], strict=True):
        assert gradient.shape == parameter.shape
        zero_masked_(gradient, largest(score, kept), axis)
    owner = KeptRows([feature_map(module)], [kept], ready=lambda: True, scores=lambda: [score])
    for one, other in zip(gradients_of(module, x, module), whole, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(owner.take()[0], largest(score, kept))
    owner.ready = lambda: False
    for one, other in zip(gradients_of(module, x, module)[2:], whole[2:], strict=True):
        assert not torch.equal(one, other), "whole gradients when the step is not ready"
    owner.close()
    assert "forward" not in module.__dict__


def test_many_tokens_are_added_up_as_in_the_whole_product() -> None:
    """At the size of T5-small's maps, to the rounding of float32 on any machine (on MKL to the bit)."""
    gradient, x = (drawn(1024, 512, seed=seed, dtype=torch.float32) for seed in (1, 2))
    [rows] = largest_rows([drawn(512).abs()], 154)
    expected = gradient.double().T @ x.double() * rows.mask[:, None]
    found = weight_gradient(gradient, x, rows, transposed=False)
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    assert not found[~rows.mask].any()


class _Always:
    def __init__(self, rows: ChosenRows) -> None:
        self.found = rows

    def rows(self) -> ChosenRows:
        return self.found

    def made(self, weight: Tensor | None, bias: Tensor | None) -> None:
        pass


@pytest.mark.parametrize("kind", ["no bias", "bias", "conv1d"])
def test_gradients_of_gradients_are_the_plain_maps(kind: str) -> None:
    module, x = plain_linear(6, 4, kind, torch.float64), drawn(3, 4).requires_grad_()
    [rows] = largest_rows([drawn(6).abs()], 2)

    def kept_rows(x: Tensor) -> Tensor:
        return KeptRowsLinear.apply(x, module.weight, module.bias, kind == "conv1d", _Always(rows))

    found = []
    for compute in (module, kept_rows):
        leaves = [x, *module.parameters()]
        first = torch.autograd.grad(compute(x).square().sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(one.square().sum() for one in first), leaves)])
    axis = 1 if kind == "conv1d" else 0
    for number, (plain, ours) in enumerate(zip(*found, strict=True)):
        if number > len(found[0]) // 2 and plain.dim() == 2:
            # The outer pass is not differentiated any more: what it adds itself to a weight is of kept rows only.
            plain, ours = (one.index_select(axis, rows.kept) for one in (plain, ours))
        elif number > len(found[0]) // 2:
            plain, ours = plain[rows.kept], ours[rows.kept]
        assert (plain - ours).abs().max() <= 1e-12 * plain.abs().max()


def test_a_gradient_is_only_kept_rows_until_something_else_reaches_it() -> None:
    module, x = plain_linear(8, 4, "bias", torch.float32), drawn(5, 4, dtype=torch.float32)
    other = plain_linear(8, 4, "bias", torch.float32)
    other.weight = module.weight  # tied
    owner = KeptRows([feature_map(module)], [3], ready=lambda: True, scores=lambda: [drawn(8, seed=3).abs()])
    # ``other`` is not among the maps: its gradients are whole.
    cases: dict[str, Callable[[], object]] = {
        "alone": lambda: module(x).sum().backward(),
        "twice in one graph": lambda: (module(x).sum() + module(2 * x).sum()).backward(),
        "two backward passes": lambda: [module(x).sum().backward() for _ in range(2)],
        "penalty": lambda: (module(x).sum() + module.weight.square().sum()).backward(),
        "penalty first": lambda: (module.weight.square().sum() + module(x).sum()).backward(),
        "tied": lambda: (other(x).sum() + module(x).sum()).backward(),
        "tied, before": lambda: (module(x).sum() + other(x).sum()).backward(),
        "changed in place": lambda: (module(x).sum().backward(), module.weight.grad.add_(1)),
        "replaced": lambda: (module(x).sum().backward(), setattr(module.weight, "grad", module.weight.grad + 1)),
    }
    for name, backward in cases.items():
        module.zero_grad()
        owner.clear()
        backward()
        assert owner.only_kept(module.weight) == (name == "alone"), name
        if name == "alone":
            assert owner.only_kept(module.bias)
            assert not module.weight.grad[~owner.take()[0]].any()
    module.zero_grad()
    assert not owner.only_kept(module.weight)
    owner.close()


def test_only_plain_maps_are_touched() -> None:
    class Own(nn.Linear):
        pass

    own, tied, replaced, plain = Own(3, 4), nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
    replaced.forward = lambda x: x  # as libraries do that move weights between devices
    half = FeatureMap("half", "half", (), tied, ((tied.weight, 0),))  # its bias is not of the map
    maps = [feature_map(own), feature_map(replaced), half, feature_map(plain)]
    before = replaced.forward
    owner = KeptRows(maps, [2] * 4, ready=lambda: True, scores=lambda: [drawn(4)] * 4)
    assert owner.patched == [plain]
    owner.close()
    assert replaced.forward is before


def test_a_deep_copy_computes_with_its_own_weights() -> None:
    module = nn.Linear(3, 4)
    owner = KeptRows([feature_map(module)], [2], ready=lambda: False, scores=list)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        copied.weight.zero_()
        copied.bias.zero_()
    assert not copied(drawn(2, 3, dtype=torch.float32)).any()
    assert module(drawn(2, 3, dtype=torch.float32)).any()
    owner.close()
    assert not pickle.loads(pickle.dumps(module)).__dict__.get("forward")


# Whole training


@dataclass(frozen=True)
class Note(GradientRule):
    """Keeps every step's gradients, as the optimizer sees them."""

    gradients: list[list[Tensor | None]] = field(default_factory=list)

    def after_step(self, learner: Learner) -> None:  # type: ignore[override]
        self.gradients.append([None if p.grad is None else p.grad.clone() for p in learner.host.model.parameters()])


def patched(model: nn.Module) -> bool:
    """Whether a linear map has another forward than its class; accelerate gives the model as a whole one."""
    return any("forward" in one.__dict__ for one in model.modules() if isinstance(one, nn.Linear | Conv1D))


def trained(
    method: Method, architecture: str, optim: Optim, prepare: Callable[[nn.Module], None] = lambda model: None
) -> tuple[Learner, list[list[Tensor | None]], int]:
    """After two tasks: the learner, the gradients of every step, and how many were masked after the backward pass."""
    host = tiny_host(architecture)
    prepare(host.model)
    note, masked = Note(), []
    learner = Learner(host, method.with_gradient_rule(note), seed=3, optim=optim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_step, "zero_masked_", lambda *args: (masked.append(1), zero_masked_(*args)))
        for name in ("one", "two"):
            learner.learn(tiny_task(name))
    assert not patched(host.model)
    return learner, note.gradients, len(masked)


def same_as_masking(
    method: Method, architecture: str, optim: Optim, prepare: Callable[[nn.Module], None] = lambda model: None
) -> tuple[int, int]:
    """Checks that both ways end with the same bits. Returns how many gradients each masked after the backward pass."""
    ours, gradients, masked = trained(method, architecture, optim, prepare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MagnitudeMask, "_can_choose_early", lambda *_: False)
        naive, expected, all_masked = trained(method, architecture, optim, prepare)
    assert len(gradients) == len(expected) > 0
    for step, other in zip(gradients, expected, strict=True):
        for one, two in zip(step, other, strict=True):
            assert (one is None and two is None) or torch.equal(one, two)
    for one, two in zip(ours.host.model.parameters(), naive.host.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert same_state(ours, naive)
    ours.remove()
    return masked, all_masked


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize(
    ("architecture", "mask"),
    [("t5", "gradient"), ("t5", "update"), ("gpt2", "gradient"), ("bart", "update"), ("bert", "gradient")],
)
def test_training_is_bit_for_bit_what_masking_makes(architecture: str, mask: str) -> None:
    method = build_method("seq_ft+migu", {"migu": {"first_task": True, "threshold": 0.6, "mask": mask}})
    masked, all_masked = same_as_masking(method, architecture, OPTIM)
    assert masked == 0 < all_masked


@pytest.mark.parametrize("optim", [{"accumulation": 2}, {"split_padding": 0}])
def test_with_several_micro_batches(optim: dict[str, int]) -> None:
    """The last one makes kept rows only, the others whole gradients; so the sums are masked."""
    masked, all_masked = same_as_masking(build_method("seq_ft+migu", MIGU), "t5", OPTIM.model_copy(update=optim))
    assert 0 < masked <= all_masked


def test_with_a_penalty_on_the_same_weights() -> None:
    """From the second task on EWC pulls at all rows; and the importances it measures at a task's end are whole."""
    method = build_method("seq_ft+ewc+migu", {**MIGU, "ewc": {"strength": 10.0}})
    masked, all_masked = same_as_masking(method, "t5", OPTIM)
    assert masked == all_masked // 2, "the first task has no penalty"


@pytest.mark.parametrize("reentrant", [True, False])
def test_with_activation_checkpointing(reentrant: bool) -> None:
    def prepare(model: nn.Module) -> None:
        without_dropout(model)
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()

    masked, all_masked = same_as_masking(build_method("seq_ft+migu", MIGU), "llama", OPTIM, prepare)
    assert masked == 0 < all_masked


def test_under_autocast_gradients_are_masked_as_ever() -> None:
    optim = OPTIM.model_copy(update={"mixed_precision": "bf16"})
    AcceleratorState._reset_state()  # accelerate keeps one precision for a whole process
    try:
        masked, all_masked = same_as_masking(build_method("seq_ft+migu", MIGU), "llama", optim)
    finally:
        AcceleratorState._reset_state()
    assert masked == all_masked > 0


@dataclass(frozen=True)
class Inner(Penalty):
    """Runs the model, and a backward pass of its own, before the step's; nothing of it may be masked."""

    seen: list[list[Tensor]] = field(default_factory=list)

    def value(self, learner: Any) -> Tensor:
        parameters = [found.module.weight for found in learner.adapter.feature_maps()]
        self.seen.append(list(torch.autograd.grad(learner.loss_sum(ROWS), parameters)))
        return learner.loss_sum(ROWS[:1])  # type: ignore[no-any-return]

    def weight(self, learner: Any) -> float:
        return 0.1


@dataclass(frozen=True)
class Later(GradientRule):
    """The same after the masks."""

    seen: list[list[Tensor]] = field(default_factory=list)

    def apply(self, learner: Any) -> None:
        parameters = [found.module.weight for found in learner.adapter.feature_maps()]
        self.seen.append(list(torch.autograd.grad(learner.loss_sum(ROWS), parameters)))


def test_other_parts_may_differentiate_the_model_in_a_step() -> None:
    seen = []

    def method() -> Method:
        parts = Inner(), Later()
        seen.append(parts)
        base = build_method("seq_ft+migu", MIGU)
        return base.with_penalty(parts[0]).with_gradient_rule(parts[1])

    _, _, masked = trained(method(), "t5", OPTIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MagnitudeMask, "_can_choose_early", lambda *_: False)
        _, _, all_masked = trained(method(), "t5", OPTIM)
    assert masked == all_masked, "two calls of the model reach every weight"
    for ours, naive in zip(*seen, strict=True):
        assert len(ours.seen) == len(naive.seen) > 0
        for step, other in zip(ours.seen, naive.seen, strict=True):
            assert all(torch.equal(one, two) for one, two in zip(step, other, strict=True))
            assert all(one.flatten(1).any(1).float().mean() > 0.6 for one in step), "no row is missing"


@dataclass(frozen=True)
class Doubled(GradientRule):
    """A rule that works on gradients before they are masked."""

    def apply(self, learner: Any) -> None:
        for parameter in learner.host.model.parameters():
            parameter.grad.mul_(2)


def test_where_kept_rows_are_not_used() -> None:
    def used_in(method: Method) -> bool:
        learner = Learner(tiny_host("t5"), method, optim=OPTIM)
        used = []

        def watch(event: Event) -> None:
            if isinstance(event, StepTaken):
                used.append(patched(learner.host.model))

        learner.on_event = watch
        learner.learn(tiny_task())
        assert len(set(used)) == 1
        return used[0]

    plain = build_method("seq_ft+migu", MIGU)
    assert used_in(plain)
    assert used_in(plain.with_gradient_rule(Doubled())), "a rule that comes later"
    rule = MagnitudeMask(first_task=True)
    assert not used_in(build_method("seq_ft").with_gradient_rule(Doubled()).with_gradient_rule(rule))
    assert not used_in(build_method("seq_lora+migu", MIGU))
    for by in ("random", "weight", "gradient"):
        assert not used_in(build_method("seq_ft+migu", {"migu": {"first_task": True, "by": by}}))
    pytest.importorskip("sklearn")
    assert not used_in(build_method("seq_ft+migu", {"migu": {"first_task": True, "clusters": 3}}))


def test_the_masks_are_chosen_once_a_step_and_an_error_leaves_nothing() -> None:
    learner = Learner(tiny_host("t5"), build_method("seq_ft+migu", MIGU), optim=OPTIM)
    names, asked = list(learner.host.model.state_dict()), []

    def stop(event: Event) -> None:
        if isinstance(event, StepTaken):
            assert list(learner.host.model.state_dict()) == names
            owner = learner.resources["magnitude_mask"].rows
            scores = owner.scores
            owner.scores = lambda: (asked.append(event.step), scores())[1]
            if event.step == 3:
                raise KeyboardInterrupt

    learner.on_event = stop
    learner.optim = OPTIM.model_copy(update={"log_every": 1})
    with pytest.raises(KeyboardInterrupt):
        learner.learn(tiny_task())
    assert asked == [1, 2, 1], "once in the second step; in the third each of the two wrappers, once"
    assert not patched(learner.host.model)
    learner.remove()
    fresh = tiny_host("t5").model.state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in learner.host.model.state_dict().items())


# Memory


def saved_bytes(method: str, accumulation: int = 1) -> int:
    """Kept for the backward passes of all steps of one task, each storage of a step once, parameters and buffers not
    counted."""
    parameters = MIGU if "+migu" in method else {}
    optim = OPTIM.model_copy(update={"accumulation": accumulation})
    learner = Learner(tiny_host("t5"), build_method(method, parameters), seed=3, optim=optim)
    kept: dict[tuple[int, int], int] = {}
    alive: list[Tensor] = []  # so that no address is used again

    def note(tensor: Tensor) -> Tensor:
        model = learner.host.model
        own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive.append(tensor.detach())
            kept[learner.step.number, storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        learner.learn(tiny_task())
    assert kept
    return sum(kept.values())


@pytest.mark.parametrize(("base", "accumulation"), [("seq_ft", 1), ("seq_ft", 2), ("seq_lora", 1)])
def test_hardly_a_byte_more_is_saved_for_the_backward_pass(base: str, accumulation: int) -> None:
    plain, masked = saved_bytes(base, accumulation), saved_bytes(f"{base}+migu", accumulation)
    assert masked <= 1.001 * plain
