"""A host knows who learns in it, and which weights it has."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import pkgutil
import weakref
from typing import Protocol

import pytest

import nacre.models
from helpers.tiny import tiny_host
from nacre.errors import ModelError
from nacre.models.host import Host


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_model_carries_one_learner(architecture: str) -> None:
    host = tiny_host(architecture)
    host.claim("inc_lora")
    says = r"This model already carries a learner \(inc_lora\): call its remove\(\) first\."
    with pytest.raises(ModelError, match=says):
        host.claim("seq_ft")
    for model in (host.model, host.body):
        with pytest.raises(ModelError, match=says):
            Host(model, host.tokenizer).claim("seq_ft")
    Host(copy.deepcopy(host.body), host.tokenizer).claim("seq_ft")
    tiny_host(architecture).claim("seq_ft")
    host.release()
    host.release()
    host.claim("seq_ft")


def test_a_claim_keeps_no_model_alive() -> None:
    host = tiny_host("t5")
    host.claim("inc_lora")
    model = weakref.ref(host.body)
    del host
    gc.collect()
    assert model() is None


def test_a_fingerprint_can_be_taken_of_tensors_alone() -> None:
    host = tiny_host("roberta")
    tensors = {name: tensor.clone() for name, tensor in reversed(host.body.state_dict().items())}
    assert Host.fingerprint_of(tensors) == host.fingerprint
    next(iter(tensors.values())).add_(1)
    assert Host.fingerprint_of(tensors) != host.fingerprint


def test_classes_of_the_room_are_abstract_or_final_and_have_one_name() -> None:
    """No concrete class has a concrete base, and no two public classes of the room share a name."""
    classes: dict[str, type] = {}
    for module in pkgutil.iter_modules(nacre.models.__path__, "nacre.models."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and value.__module__ == module.name and not name.startswith("_"):
                assert name not in classes, f"{name} is defined twice"
                classes[name] = value
    for name, value in classes.items():
        bases = [base for base in value.__mro__[1:] if base.__module__.startswith("nacre.")]
        assert all(inspect.isabstract(base) or issubclass(base, Protocol) for base in bases), f"{name} of {bases}"
