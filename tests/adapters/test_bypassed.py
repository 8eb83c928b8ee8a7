"""Without being removed, an adapter can be gone for a while: what the bare host computes, and what its tensors are."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import outputs, perturb, tiny_host, tiny_task
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.host import Host
from nacre.registry import build_method

METHODS = {"low_rank": "inc_lora", "shared": "seq_lora", "svd": "lb_cl", "gated": "am_lora", "full": "seq_ft"}
METHODS |= {"bottleneck": "adapter", "gated_host": "hat", "gated_ranks": "seq_lora+hat"}
OPTIM = Optim(batch_size=4, learning_rate=3e-2)
TASKS = [tiny_task(name) for name in ("animals", "birds")]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=METHODS)
def learner(request: pytest.FixtureRequest, architecture: str) -> Learner:
    name = METHODS[request.param]
    learner = Learner(
        tiny_host(architecture),
        build_method(name, {"seq_ft": {}, "hat": {}, "adapter": {"reduction": 4}}.get(name, {"rank": 2})),
        optim=OPTIM,
    )
    for task in TASKS:
        learner.learn(task)
    perturb(learner.host.model)
    return learner


def computed(learner: Learner) -> Tensor:
    family = learner.host.family
    rows = [family.encode(example, learner.lengths) for example in TASKS[0].examples("test")]
    return outputs(learner.host, family.batch(rows) if family.is_generative else family.prompts(rows))


def bare(learner: Learner, architecture: str) -> Tensor:
    """What the pretrained host computes with what the learner's has beside its body, a head."""
    host = tiny_host(architecture)
    if not host.family.is_generative:
        host.model.head = learner.host.model.head
    family = learner.host.family
    rows = [family.encode(example, learner.lengths) for example in TASKS[0].examples("test")]
    return outputs(host, family.batch(rows) if family.is_generative else family.prompts(rows))


def flags(model: nn.Module) -> dict[int, bool]:
    return {id(parameter): parameter.requires_grad for parameter in model.parameters()}


def test_a_bypassed_adapter_leaves_the_bare_host(learner: Learner, architecture: str) -> None:
    """Bit for bit, nested too, and everything is back afterwards, even after an error."""
    expected, adapted, before = bare(learner, architecture), computed(learner), flags(learner.host.model)
    tensors = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    assert not torch.equal(expected, adapted), "the adapter does something"
    with learner.adapter.bypassed():
        assert torch.equal(computed(learner), expected)
        with learner.adapter.bypassed():
            assert torch.equal(computed(learner), expected)
        assert torch.equal(computed(learner), expected)
        assert flags(learner.host.model) == before
    assert torch.equal(computed(learner), adapted)
    with pytest.raises(RuntimeError, match="stop"), learner.adapter.bypassed():
        raise RuntimeError("stop")
    assert torch.equal(computed(learner), adapted)
    assert flags(learner.host.model) == before
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in learner.adapter.tensors().items())


def test_a_teacher_between_forward_and_backward_changes_no_gradient(learner: Learner, architecture: str) -> None:
    learner.adapter.grow()
    perturb(learner.host.model)
    learner.host.model.eval()
    rows = learner.encode(TASKS[0].examples("train"))
    parameters = [parameter for group in learner.adapter.parameter_groups() for parameter in group.parameters]
    expected = torch.autograd.grad(learner.loss_sum(rows), parameters, allow_unused=True)
    loss = learner.loss_sum(rows)
    with learner.adapter.bypassed():
        teacher = computed(learner)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert torch.equal(teacher, bare(learner, architecture))
    assert any(gradient is not None and gradient.any() for gradient in expected)
    for one, other in zip(expected, found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["inc_lora", "seq_ft"])
@pytest.mark.parametrize("teacher_first", [True, False])
@pytest.mark.parametrize("with_gradients", [True, False])
def test_autocast_does_not_mistake_bare_weights_for_trained_ones(
    method: str, teacher_first: bool, with_gradients: bool
) -> None:
    """It keeps casts of trained parameters until its context closes, and a teacher answers inside a step's."""
    host = tiny_host("llama")
    ids = torch.tensor([[3, 7, 9, 11, 5]])

    def logits() -> Tensor:
        return host.model(input_ids=ids).logits.detach()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        bare = logits()
    adapter = build_method(method, {}).adapter.place(host.body)
    adapter.grow()
    with torch.no_grad():
        for group in adapter.parameter_groups():
            for parameter in group.parameters:
                parameter.add_(0.1)
    host.model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adapted = logits()
    assert not torch.equal(adapted, bare)
    with torch.set_grad_enabled(with_gradients), torch.autocast("cpu", dtype=torch.bfloat16):
        if not teacher_first:
            assert torch.equal(logits(), adapted)
        with adapter.bypassed():
            assert torch.equal(logits(), bare)
        assert torch.equal(logits(), adapted)


def test_no_gradient_reaches_a_trained_parameter_through_the_bare_host() -> None:
    """The trained value is back when the backward pass runs, and would be the wrong one."""
    host = tiny_host("llama")
    adapter = build_method("seq_ft", {}).adapter.place(host.body)
    adapter.grow()
    before = flags(host.model)
    assert all(before.values())
    with adapter.bypassed():
        assert not host.model(input_ids=torch.tensor([[3, 7, 9]])).logits.requires_grad
    assert flags(host.model) == before


def digest(tensors: dict[str, Tensor]) -> str:
    """As `Host.fingerprint` does it."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_the_untouched_tensors_are_there_after_training(learner: Learner, architecture: str) -> None:
    """By the host's own names and in their order, so that its hash can be computed at any time."""
    untouched: Host = tiny_host(architecture)
    expected, found = untouched.body.state_dict(), learner.adapter.pristine()
    assert list(found) == list(expected)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert digest(found) == untouched.fingerprint == learner.pretrained
    own = {tensor.data_ptr() for tensor in learner.host.body.state_dict().values()}
    if "host" not in learner.method.adapter.groups:
        assert all(tensor.data_ptr() in own for tensor in found.values()), "no copies"
