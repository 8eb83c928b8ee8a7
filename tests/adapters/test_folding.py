"""Where earlier tasks are added to a working copy of the weight, and where not: half precision, autocast, quantized
and other maps with a forward of their own. The pristine weight stays what it was, and no file holds the copy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.folding import LOST_IN_HALF_PRECISION
from nacre.adapters.gated import Gated, GatedSite
from nacre.adapters.low_rank import LowRank, LowRankSite, PlacedLowRank
from nacre.adapters.merged import merged_copy
from nacre.adapters.slotted import SlottedAdapter
from nacre.adapters.svd import Svd
from nacre.cli.display import Display
from nacre.errors import ModelError
from nacre.events import PastFolded, as_document
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.host import Host
from nacre.registry import build_method

D_IN, D_OUT, RANK, ALPHA = 48, 40, 4, 8.0
OPTIM = Optim(batch_size=4, learning_rate=3e-2)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish", "worms")]
HALVES = (torch.bfloat16, torch.float16)


def drawn(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


def with_past(base: nn.Module, tasks: int, size: float = 0.1, settings: SlottedAdapter | None = None) -> Any:
    """A site with this many earlier tasks, folded if it can be, and a newest of zeros."""
    settings = settings or LowRank(RANK, ALPHA, 0.0)
    site = settings.site(base.requires_grad_(False)).eval()
    for task in range(tasks + 1):
        site.grow()
        if task < tasks:
            with torch.no_grad():
                for number, tensor in enumerate(site.parameters_by_group().values()):
                    tensor.copy_(drawn(*tensor.shape, seed=10 * task + number, size=size))
    if isinstance(site, LowRankSite):
        site.fold_past()
    return site


def update_of(site: LowRankSite) -> Tensor:
    """s sum_i B_i A_i in float64, task by task."""
    found = torch.zeros(site.d_out, site.d_in, dtype=torch.float64)
    for number in range(len(site.slots.past_down)):
        up = site.slots.past_up[number].double()
        if site.slots.has_sigma:
            up = site.slots.past_sigma[number].double().unsqueeze(1) * up
        found += site.settings.scale * up.T @ site.slots.past_down[number].double()
    return found


def linear(dtype: torch.dtype = torch.float32, conv: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return (Conv1D(D_OUT, D_IN) if conv else nn.Linear(D_IN, D_OUT)).to(dtype)


# Half precision


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("kind", [LowRank, Svd])
@pytest.mark.parametrize("tasks", [1, 5, 15, 50])
def test_a_half_precision_weight_is_rounded_once(tasks: int, kind: type[LowRank], conv: bool) -> None:
    """Off the exact sum by what one rounding costs, and never worse than adding adapter after adapter."""
    base = linear(torch.bfloat16, conv)
    pristine = base.weight.detach().clone()
    site = with_past(base, tasks, settings=kind(RANK, ALPHA, 0.0))
    assert site.working.folded is not None
    assert site.working.folded.dtype == torch.bfloat16
    exact = site.base_weight().double() + update_of(site)
    one_after_another = site.base_weight().clone()
    for down, up in zip(*site.slots.past_pairs(), strict=True):
        one_after_another += (site.settings.scale * up.T @ down).to(torch.bfloat16)
    error, other = (found.double() - exact for found in (site.working.folded, one_after_another))
    assert (error.abs() <= exact.abs() * 2.0**-8 + 1e-6).all(), "half a unit in the last place, once"
    assert error.norm() <= 1.8e-3 * exact.norm()
    assert error.norm() <= other.norm()
    if tasks >= 5:
        assert error.norm() < 0.9 * other.norm()
    if tasks == 50:
        assert error.norm() < 0.4 * other.norm()
        assert error.abs().max() <= 3e-3 * exact.abs().max()
    assert torch.equal(base.weight, pristine)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [0.5, 0.98, 1.02, 10.0])
def test_small_updates_stay_in_rank_space_in_half_precision_alone(factor: float, dtype: torch.dtype) -> None:
    base = linear(dtype)
    size = base.weight.double().norm()
    wanted = factor * LOST_IN_HALF_PRECISION
    site = with_past(base, 3)
    site.slots.past_up *= wanted * size / update_of(site).norm()
    site.fold_past()
    assert site.working.folding is not None
    assert site.working.folding.ratio == pytest.approx(wanted, rel=1e-3)
    folds = dtype not in HALVES or factor > 1
    assert (site.working.folded is not None) == folds == (site.working.folding.obstacle is None)
    if not folds:
        assert f"lost in the rounding to {dtype}" in str(site.working.folding.obstacle)
    x = drawn(6, D_IN, seed=9).to(dtype)
    exact = F.linear(x.double(), base.weight.double() + update_of(site), base.bias.double())
    limit = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert (site(x).double() - exact).abs().max() <= limit * exact.abs().max()


def test_what_the_limit_is_for() -> None:
    """An update of a thousandth of the weight, rounded into it, would be lost by 70 % and more; of a fiftieth, not."""
    for wanted, lost in ((1e-3, True), (2e-2, False)):
        base = linear(torch.bfloat16)
        site = with_past(base, 3)
        site.slots.past_up *= wanted * base.weight.double().norm() / update_of(site).norm()
        update = update_of(site)
        rounded = (base.weight.float() + update.float()).bfloat16().double() - base.weight.double()
        assert ((rounded - update).norm() > 0.7 * update.norm()) == lost
        site.fold_past()
        assert (site.working.folded is None) == lost


def test_weights_of_zeros_can_be_folded_into() -> None:
    base = linear(torch.bfloat16)
    nn.init.zeros_(base.weight)
    site = with_past(base, 2)
    assert site.working.folding is not None
    assert site.working.folding.ratio == math.inf
    assert site.working.folded is not None
    placed = PlacedLowRank(tiny_host("llama").model, LowRank(RANK, ALPHA))
    placed.sites = {"zeros": site}
    assert placed.folding_summary() == {"sites": 1, "folded": 1, "obstacles": [], "ratios": None}


def test_nothing_to_fold() -> None:
    """Neither before a second task nor where one LoRA is shared or gates depend on the input."""
    shared, gated = LowRank(RANK, ALPHA, 0.0, slots="shared"), Gated(RANK, ALPHA, 0.0)
    for site in (
        with_past(linear(), 0),
        with_past(linear(), 3, settings=shared),
        with_past(linear(), 3, settings=gated),
    ):
        assert site.past_weight is None
        assert isinstance(site, GatedSite) or site.working.folding is None


def test_what_was_folded_before_is_gone_when_there_is_no_past() -> None:
    host = tiny_host("llama")
    placed = LowRank(2, 4.0, 0.0).place(host.model)
    placed.grow()
    first = {name: tensor.clone() for name, tensor in placed.tensors().items()}
    perturb(host.model)
    placed.grow()
    assert all(site.working.folded is not None for site in placed.sites.values())
    placed.load(first, {"slots": 1})
    assert all(site.working.folded is None for site in placed.sites.values())
    assert all(torch.equal(site.working.folded_all, site.weight) for site in placed.sites.values()), (
        "whose one task adds zero"
    )


def test_small_updates_do_not_vanish_under_autocast() -> None:
    """Autocast rounds the folded weight like any other, so that a small past is added in rank space there."""
    x = drawn(64, D_IN, seed=9).float()
    for wanted, folds in ((1e-3, False), (5e-2, True)):
        base = linear()
        site = with_past(base, 3)
        site.slots.past_up *= wanted * base.weight.double().norm() / update_of(site).norm()
        site.fold_past()
        assert site.working.folded is not None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, through_folded = site.past(x), site.base_with(x, site.working.folded)
        assert torch.equal(found, through_folded) == folds
        assert torch.equal(site.past(x), site.base_with(x, site.working.folded)), "not without autocast"


# Whole learners


def half_host(dtype: torch.dtype = torch.bfloat16) -> Host:
    return tiny_host("llama", dtype)


def hosts_own(learner: Learner) -> dict[str, Tensor]:
    """The host's own tensors by the names that they have without sites."""
    state = learner.host.body.state_dict()
    pristine = half_host().body.state_dict()
    return {name.replace(".base", ""): t.clone() for name, t in state.items() if name.replace(".base", "") in pristine}


@pytest.mark.parametrize("method", ["inc_lora", "o_lora", "lb_cl"])
@pytest.mark.parametrize("size", [0.1, 1e-3])
def test_a_half_precision_learner_resumes_with_the_same_bits(method: str, size: float, tmp_path: Path) -> None:
    """Pristine weights are bit-equal before and after everything, no file holds a folded one, and what is loaded
    folds the same sites to the same bits."""
    pristine = half_host().body.state_dict()
    told: list[PastFolded] = []
    parameters = {"rank": 2, "roles": ["query", "output"]}
    learner = Learner(half_host(), build_method(method, parameters), seed=3, optim=OPTIM)
    learner.on_event = lambda event: told.append(event) if isinstance(event, PastFolded) else None
    for task in TASKS[:3]:
        learner.learn(task)
        for tensor in learner.adapter.tensors().values():
            tensor.mul_(size).add_(size)
        learner.adapter.load(learner.adapter.tensors(), learner.adapter.values())
        assert hosts_own(learner).keys() == pristine.keys()
        assert all(torch.equal(tensor, pristine[name]) for name, tensor in hosts_own(learner).items())
    assert isinstance(learner.adapter, PlacedLowRank)
    sites = learner.adapter.sites
    folds = size == 0.1
    assert all((site.working.folded_all is not None) == folds for site in sites.values())
    assert len(told) == 2, "from the second task on"
    lines = [as_document(event) for event in told]
    assert json.loads(json.dumps(lines, allow_nan=False)) == lines
    assert told[-1].sites == len(sites) == 4

    learner.save(tmp_path / "saved")
    shapes = {tuple(site.weight.shape) for site in sites.values()}
    for file in sorted((tmp_path / "saved").rglob("*.safetensors")):
        for name, tensor in load_file(file).items():
            assert "folded" not in name
            assert tuple(tensor.shape) not in shapes, f"{file.name}: {name}"
    assert not any("folded" in name for name in learner.host.model.state_dict())

    loaded = Learner.load(tmp_path / "saved", half_host())
    assert isinstance(loaded.adapter, PlacedLowRank)
    assert loaded.adapter.folding() == learner.adapter.folding()
    for name, site in sites.items():
        other = loaded.adapter.sites[name].working.folded_all
        assert torch.equal(site.working.folded_all, other) if folds else other is None  # type: ignore[arg-type]
    for each in (learner, loaded):
        each.learn(TASKS[3])
    found = loaded.adapter.tensors()
    assert all(torch.equal(tensor, found[name]) for name, tensor in learner.adapter.tensors().items())
    learner.remove()
    restored = learner.host.body.state_dict()
    assert list(restored) == list(pristine)
    assert all(torch.equal(tensor, restored[name]) for name, tensor in pristine.items())


def test_folding_is_part_of_neither_the_state_nor_the_future() -> None:
    """A half-precision host computes nearly the same in both ways, and folding anew changes no bit."""
    host = half_host()
    placed = LowRank(2, 4.0, 0.0).place(host.model)
    for _ in range(3):
        placed.grow()
        perturb(host.model, size=0.2)
    ids = torch.tensor([[3, 5, 8, 13, 21]])
    with torch.no_grad():
        folded = host.model(input_ids=ids).logits.float()
        before = {name: site.working.folded for name, site in placed.sites.items()}
        assert all(tensor is not None for tensor in before.values())
        for name, site in placed.sites.items():
            site.fold_past()
            assert torch.equal(site.working.folded, before[name])  # type: ignore[arg-type]
            site.working.folded = None
        in_rank_space = host.model(input_ids=ids).logits.float()
    assert (folded - in_rank_space).abs().max() <= 0.1 * folded.abs().max()
    assert not torch.equal(folded, tiny_host("llama", torch.bfloat16).model(input_ids=ids).logits.float())


# Maps whose weight cannot stand for them


class Int8Linear(nn.Linear):
    """Weight-only quantization, a scale for each output."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__(whole.in_features, whole.out_features, bias=whole.bias is not None)
        scale = whole.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((whole.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.bias = whole.bias
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


class PackedLinear(Int8Linear):
    """And packed: the weight's shape says nothing about the map."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__(whole)
        self.weight = nn.Parameter(self.weight.reshape(-1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(self.out_features, self.in_features)
        return F.linear(x, weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


class Halved(nn.Linear):
    """An ordinary weight, but not an ordinary forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Wrapped(Tensor):
    """As libraries do that keep another storage behind a tensor of a floating-point type."""


def odd_bases() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    own = nn.Linear(D_IN, D_OUT)
    inner = own.forward
    own.forward = lambda x: inner(x) / 2  # type: ignore[method-assign]
    wrapped = nn.Linear(D_IN, D_OUT)
    wrapped.weight = nn.Parameter(wrapped.weight.detach().as_subclass(Wrapped), requires_grad=False)
    return {
        "int8": Int8Linear(nn.Linear(D_IN, D_OUT)),
        "packed": PackedLinear(nn.Linear(D_IN, D_OUT, bias=False)),
        "subclass": Halved(D_IN, D_OUT),
        "instance": own,
        "wrapped": wrapped,
        "torch's": torch.ao.nn.quantized.dynamic.Linear(D_IN, D_OUT),
    }


@pytest.mark.parametrize("settings", [LowRank(RANK, ALPHA, 0.0), Svd(RANK, ALPHA, 0.0), Gated(RANK, ALPHA, 0.0)])
@pytest.mark.parametrize("name", odd_bases())
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_odd_base_computes_itself(name: str, settings: LowRank) -> None:
    """The past is added beside it in rank space, nothing is asked of its weight, and gradients arrive."""
    base = odd_bases()[name]
    site = with_past(base, 3, settings=settings)
    assert (site.d_in, site.d_out) == (D_IN, D_OUT)
    assert site.past_weight is None
    assert site.plain_base(torch.float32) is None
    x = drawn(5, D_IN, seed=9).float().requires_grad_()
    y = site(x)
    with torch.no_grad():
        expected = base(x)
    if not isinstance(site, GatedSite):
        assert site.working.folding is not None
        assert site.working.folding.ratio is None
        assert "the linear map" in str(site.working.folding.obstacle)
        expected = expected + F.linear(x.double(), update_of(site))
        assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (y - base(x)).abs().max() > 1e-2, "the past does something"
    if name != "torch's":  # which has no backward pass of its own
        perturb(nn.ModuleList([site]))
        site(x).square().sum().backward()
        assert all(tensor.grad is not None and tensor.grad.any() for tensor in site.parameters_by_group().values())
    if isinstance(site, GatedSite):
        assert site.effective_weight() is None
        return
    with pytest.raises(ModelError, match="Updates cannot be added to a weight here: the linear map"):
        site.effective_weight()


def test_a_plain_base_is_one_that_is_frozen_unheard_and_of_the_type_asked_for() -> None:
    for conv in (False, True):
        base = linear(torch.float32, conv)
        site = LowRankSite(base, LowRank())
        assert site.why_not_plain() is None
        assert site.plain_base(torch.float32) is None, "still trained"
        base.requires_grad_(False)
        found = site.plain_base(torch.float32)
        assert found is not None
        assert found[0].shape == (D_OUT, D_IN)
        assert found[1] is base.bias
        assert site.plain_base(torch.bfloat16) is None
        hook = base.register_forward_hook(lambda *_: None)
        assert site.plain_base(torch.float32) is None
        hook.remove()
        assert site.plain_base(torch.float32) is not None


def quantized_host(kind: type[Int8Linear] = Int8Linear) -> Host:
    host = tiny_host("llama")
    for name, module in list(host.model.named_modules()):
        if name.endswith(("q_proj", "v_proj")):
            host.model.set_submodule(name, kind(module).eval())
    return host


@pytest.mark.parametrize("kind", [Int8Linear, PackedLinear])
@pytest.mark.parametrize("method", ["inc_lora", "am_lora", "lb_cl"])
def test_a_quantized_host_learns_forgets_nothing_of_itself_and_is_not_merged(
    method: str, kind: type[Int8Linear], tmp_path: Path
) -> None:
    host = quantized_host(kind)
    pristine = {name: tensor.clone() for name, tensor in host.model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in host.model.named_parameters()}
    told: list[PastFolded] = []
    learner = Learner(host, build_method(method, {"rank": 2}), optim=OPTIM)
    learner.on_event = lambda event: told.append(event) if isinstance(event, PastFolded) else None
    for task in TASKS[:3]:
        learner.learn(task)
    if method == "am_lora":
        assert told == []
    else:
        assert [event.folded for event in told] == [0, 0]
        (obstacle,) = told[-1].obstacles
        assert kind.__name__ in obstacle
        assert "quantized" in obstacle
        assert told[-1].ratios is None
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", quantized_host(kind))
    assert loaded.answer(TASKS[:2]) == learner.answer(TASKS[:2])
    with pytest.raises(ModelError, match=r"q_proj cannot be merged and trained further: .*without quantization"):
        merged_copy(host.body)
    learner.remove()
    assert list(host.model.state_dict()) == list(pristine)
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in host.model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in host.model.named_parameters()} == flags


def test_a_person_is_told_what_is_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    show = Display()
    show(PastFolded(sites=8, folded=8, obstacles=[], ratios=[0.1, 0.2]))
    assert capsys.readouterr().out == ""
    show(PastFolded(sites=8, folded=5, obstacles=["it is odd"], ratios=None))
    assert capsys.readouterr().out == "Earlier tasks are not folded at 3 of 8 linear maps: it is odd.\n"


@pytest.mark.parametrize("method", ["inc_lora", "seq_lora", "lb_cl"])
def test_between_tasks_one_matrix_holds_all_of_them_and_the_next_task_takes_it_over(method: str) -> None:
    literal = {"sigma": "average"} if method == "lb_cl" else {}  # what counts from its start is summed in another order
    learner = Learner(tiny_host("t5"), build_method(method, {"rank": 2, **literal}), optim=OPTIM)
    for task in TASKS[:2]:
        learner.learn(task)
    assert isinstance(learner.adapter, PlacedLowRank)
    site = learner.adapter.sites["encoder.block.1.layer.0.SelfAttention.q"]
    whole, x = site.working.folded_all, torch.randn(3, site.d_in)
    assert torch.equal(site(x), site.base_with(x, whole))
    site.working.folded_all = None  # the same without it
    torch.testing.assert_close(site(x), site.base_with(x, whole), rtol=1e-5, atol=1e-6)
    site.working.folded_all = whole
    shared = site.settings.slots == "shared"
    learner.adapter.grow()
    assert site.working.folded_all is None
    assert site.working.folded is (None if shared else whole)
    if not shared:
        site.fold_past()  # from nothing
        assert torch.equal(site.working.folded, whole)


def test_a_tensor_that_changes_between_tasks_is_read_as_it_is() -> None:
    learner = Learner(tiny_host("t5"), build_method("inc_lora", {"rank": 2}), optim=OPTIM)
    learner.learn(TASKS[0])
    assert isinstance(learner.adapter, PlacedLowRank)
    site = learner.adapter.sites["encoder.block.1.layer.0.SelfAttention.q"]
    x = torch.randn(3, site.d_in)
    with torch.no_grad():
        before = site(x)
        site.slots.down.weight.mul_(2)
    torch.testing.assert_close(site(x) - site.base(x), 2 * (before - site.base(x)), rtol=1e-4, atol=1e-6)
    learner.adapter.grow()
    torch.testing.assert_close(site.past(x) - site.base(x), 2 * (before - site.base(x)), rtol=1e-4, atol=1e-6)
