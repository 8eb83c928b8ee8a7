"""Degenerate cases equal what they degenerate to, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import learned_by_head, tiny_host, tiny_task
from nacre.adapters.gated import Gated, GatedSite
from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.adapters.unit_gates import UnitGates
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2)


def learnt(
    architecture: str, method: str, tasks: int = 1, optim: Optim = OPTIM, **parameters: object
) -> dict[str, Tensor]:
    learner = Learner(tiny_host(architecture), build_method(method, parameters), seed=7, optim=optim)
    for number in range(tasks):
        learner.learn(tiny_task(f"task {number}"))
    head = {f"head.{name}": tensor.clone() for name, tensor in learned_by_head(learner.host).items()}
    return head | {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
@pytest.mark.parametrize("other", ["inc_lora", "independent", "joint"])
def test_one_task_is_sequential_lora(architecture: str, other: str) -> None:
    parameters = {} if other == "inc_lora" else {"train": "lora"}
    expected, found = learnt(architecture, "seq_lora"), learnt(architecture, other, **parameters)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("architecture", ["t5", "roberta"])
@pytest.mark.parametrize("other", ["independent", "joint"])
def test_one_task_is_sequential_fine_tuning(architecture: str, other: str) -> None:
    expected, found = learnt(architecture, "seq_ft"), learnt(architecture, other)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(("preset", "composed"), [("hat", "seq_ft+hat"), ("hat_adapter", "adapter+hat")])
def test_a_preset_is_its_base_with_the_modifier(preset: str, composed: str) -> None:
    """As values, also with other settings, and in what two tasks leave."""

    def bare(method: Method) -> Method:
        return replace(method, title="", sources=(), name="", parameters={})

    other: dict[str, object] = {"slope": 100.0, "sparsity": 0.5, "mask": "gradient", "anneal": "task", "binary": True}
    other |= {"gates_by": "sgd", "gate_rate": 2.0, "clamp": 3.0}
    assert bare(build_method(preset)) == bare(build_method(composed))
    assert bare(build_method(preset, other)) == bare(build_method(composed, {"hat": other}))
    assert bare(build_method(preset, other)) != bare(build_method(composed))
    expected, found = learnt("t5", preset, tasks=2), learnt("t5", composed, tasks=2)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_one_task_with_open_gates_is_sequential_lora(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the second, as the LoRA then goes on from where it is."""
    monkeypatch.setattr(UnitGates, "present", lambda gates: torch.ones_like(gates.embedding))
    # Another sum of squares would round differently: no clipping. The second task must find every rank free.
    monkeypatch.setattr(UnitGates, "used", lambda gates: torch.zeros_like(gates.embedding))
    optim = OPTIM.model_copy(update={"max_grad_norm": None})
    for tasks in (1, 2):
        expected = learnt(architecture, "seq_lora", tasks, optim)
        found = learnt(architecture, "seq_lora+hat", tasks, optim, hat={"sparsity": 0.0})
        gates = {name for name in found if name.endswith("gate")}
        assert found.keys() - gates == expected.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_one_task_without_the_zero_lora_is_lora() -> None:
    """A softmax over one LoRA is 1: the site computes what a plain LoRA site does, to the bit."""
    base = nn.Linear(6, 5)
    gated, plain = GatedSite(base, Gated(rank=2, dropout=0.0, zero_lora=False)), LowRankSite(base, LowRank(rank=2))
    for site in (gated, plain):
        site.eval()
        site.grow()
        site.fresh(4)
    with torch.no_grad():
        up = torch.randn(5, 2)
        gated.slots.up.weight.copy_(up)
        plain.slots.up.weight.copy_(up)
    x = torch.randn(3, 6)
    assert torch.allclose(gated(x), plain(x), rtol=1e-6, atol=1e-7)
    assert torch.equal(gated.gates(x), torch.ones(3, 1))


def test_no_sparsity_is_no_penalty() -> None:
    """lambda = 0 trains exactly what the loss alone trains."""

    def without_penalty() -> dict[str, Tensor]:
        method = replace(build_method("am_lora", {"sparsity": 0.0}), penalties=())
        learner = Learner(tiny_host("t5"), method, seed=7, optim=OPTIM)
        for number in range(2):
            learner.learn(tiny_task(f"task {number}"))
        return dict(learner.adapter.tensors())

    expected, found = without_penalty(), learnt("t5", "am_lora", tasks=2, sparsity=0.0)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_sparsity_shrinks_the_selectors() -> None:
    """And lambda > 0 does something: the L1 term pulls the selectors in."""

    def size(tensors: dict[str, Tensor]) -> float:
        return sum(tensor.abs().sum().item() for name, tensor in tensors.items() if name.endswith("selector"))

    assert size(learnt("t5", "am_lora", sparsity=10.0)) < 0.9 * size(learnt("t5", "am_lora", sparsity=0.0))


def test_the_past_is_a_sum_whether_folded_or_not() -> None:
    """The folded weight, its rank-space twin and a loop over tasks agree; the base's own weight is not touched."""
    base = nn.Linear(7, 5, dtype=torch.float64)
    pristine = base.weight.detach().clone()
    site = LowRankSite(base, LowRank(rank=2, alpha=3.0)).eval()
    for task in range(4):
        site.grow()
        site.fresh(task)
        with torch.no_grad():
            site.slots.up.weight.normal_(generator=torch.Generator().manual_seed(task))
    x = torch.randn(6, 7, dtype=torch.float64)
    pairs = [
        *zip(site.slots.past_down, site.slots.past_up, strict=True),
        (site.slots.down.weight, site.slots.up.weight.T),
    ]
    naive = base(x) + sum(1.5 * (x @ down.T) @ up for down, up in pairs)
    with site.working.set_aside():
        in_rank_space = site(x)
    assert site.working.folded is not None
    assert torch.allclose(site(x), naive, rtol=1e-12, atol=1e-12)
    assert torch.allclose(in_rank_space, naive, rtol=1e-12, atol=1e-12)
    assert torch.equal(base.weight, pristine)


def test_sites_agree_with_peft_on_the_sum_of_adapters() -> None:
    """Two tasks' LoRAs summed: the same logits as PEFT with both adapters active."""
    peft = pytest.importorskip("peft")
    learner = Learner(
        tiny_host("llama", torch.float64), build_method("inc_lora", {"rank": 2, "alpha": 6.0}), optim=OPTIM
    )
    for number in range(2):
        learner.learn(tiny_task(f"task {number}"))
    tensors = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    ids = torch.tensor([[3, 5, 8, 13, 21]])
    with torch.no_grad():
        ours = learner.host.model(input_ids=ids).logits
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(tiny_host("llama", torch.float64).model, config, adapter_name="one")
    model.add_adapter("two", config)
    model.base_model.set_adapter(["one", "two"])
    with torch.no_grad():
        for name, module in model.named_modules():
            site = name.removeprefix("base_model.model.")
            if f"{site}.down.weight" in tensors:
                module.lora_A["one"].weight.copy_(tensors[f"{site}.past_down"][0])
                module.lora_B["one"].weight.copy_(tensors[f"{site}.past_up"][0].T)
                module.lora_A["two"].weight.copy_(tensors[f"{site}.down.weight"])
                module.lora_B["two"].weight.copy_(tensors[f"{site}.up.weight"])
        theirs = model.eval()(input_ids=ids).logits
    bare = tiny_host("llama", torch.float64).model(input_ids=ids).logits
    assert (ours - bare).abs().max() > 1e-3, "the adapters do something"
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
