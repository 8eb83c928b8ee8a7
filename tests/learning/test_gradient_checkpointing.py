"""Layers that are computed again in the backward pass change no result, or are refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from helpers import together
from helpers.contract import VARIANTS, held_method, refused, tensors_in
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import ModelError, RecipeError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method

torch.set_num_threads(1)

AGAIN = {"gradient_checkpointing": True}


def refuses(variant: str) -> bool:
    return any(part.changes_passes for part in held_method(variant).parts)


def largest_difference(monkeypatch: pytest.MonkeyPatch, variant: str, architecture: str) -> float:
    """Between the tensors of a learner that kept everything and those of one that computed it again."""
    kept = together.learned(variant, architecture, torch.float64)
    monkeypatch.setattr(together, "OPTIM", together.OPTIM.model_copy(update=AGAIN))
    again = together.learned(variant, architecture, torch.float64)
    monkeypatch.undo()
    assert again["answers"] == kept["answers"]
    there = dict(tensors_in(again["tensors"], ""))
    return max(
        float((tensor.double() - there[name].double()).abs().max())
        for name, tensor in tensors_in(kept["tensors"], "")
        if tensor.numel()
    )


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
@pytest.mark.parametrize("variant", ["seq_ft+migu", "am_lora", "der_pp"])
def test_nothing_changes(monkeypatch: pytest.MonkeyPatch, variant: str, architecture: str) -> None:
    assert largest_difference(monkeypatch, variant, architecture) < 1e-9


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if not refuses(name)])
def test_nothing_changes_in_any_method(monkeypatch: pytest.MonkeyPatch, variant: str, architecture: str) -> None:
    if refused(held_method(variant), architecture):
        pytest.skip("the method writes, and this host does not")
    if architecture == "t5" and variant in together.UNSTEADY:
        pytest.skip("T5's layers share a bias, whose gradient is summed in another order: rounding alone moves it far")
    assert largest_difference(monkeypatch, variant, architecture) < 1e-4


def note(seen: list[int], *_: object) -> None:
    seen.append(1)


def test_layers_are_computed_again() -> None:
    """Otherwise nothing would have been tested."""
    calls = {}
    for wanted in (False, True):
        learner = Learner(
            tiny_host("llama"),
            build_method("seq_ft"),
            optim=Optim(batch_size=12, learning_rate=1e-3, gradient_checkpointing=wanted),
        )
        seen: list[int] = []
        layer = learner.host.model.get_submodule("model.layers.0.mlp")
        hook = layer.register_forward_pre_hook(partial(note, seen))
        learner.learn(tiny_task())
        hook.remove()
        calls[wanted] = len(seen)
    assert calls[True] == 2 * calls[False] > 0


@pytest.mark.parametrize("method", ["epi", "mocl", "l2p", "das", "seq_lora+hat"])
def test_what_would_change_is_refused(method: str) -> None:
    with pytest.raises(RecipeError, match=r"gradient_checkpointing: .* changes how layers compute"):
        Learner(tiny_host("t5"), build_method(method), optim=Optim(gradient_checkpointing=True))


def test_an_architecture_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(tiny_host("t5"), build_method("seq_lora"), optim=Optim(gradient_checkpointing=True))
    monkeypatch.setattr(type(learner.host.body), "supports_gradient_checkpointing", False)
    with pytest.raises(ModelError, match=r"raise optim\.accumulation instead"):
        learner.learn(tiny_task())
