"""Every method and option that the contract holds, and what of a learner must come back to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.proofs import PROOFS
from nacre.learning.learner import Learner
from nacre.method import Method
from nacre.models.host import Host
from nacre.registry import METHODS, build_method

# Orthogonal training needs room: in the tiny hosts' maps of eight rows, five tasks would find none.
ROOM: dict[str, object] = {"rank": 2, "roles": ["query", "output"]}

# In the tiny hosts a sixteenth of the width would be one unit.
HALF: dict[str, object] = {"reduction": 2}

# Gates of three tasks leave something free only where there are many units.
WHOLE: dict[str, object] = {"reduction": 1}

# Every method as it is, and every option that changes what is trained or kept.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in METHODS.names()},
    "lb_cl": ("lb_cl", ROOM),
    "adapter": ("adapter", HALF),
    "adapter-near": ("adapter", {**HALF, "start": "near_identity", "nonlinearity": "silu"}),
    "adapter+migu": ("adapter+migu", HALF),
    "demix": ("demix", HALF),
    "hat": ("hat", {"units": ["ffn"]}),  # of two heads nothing is free when two tasks are learned
    "hat_adapter": ("hat_adapter", WHOLE),
    "hat_adapter-sgd": ("hat_adapter", {**WHOLE, "gates_by": "sgd", "anneal": "task", "mask": "gradient"}),
    "hat_adapter-binary": ("hat_adapter", {**WHOLE, "binary": True, "anneal": "task"}),
    "seq_lora+hat": ("seq_lora+hat", {"rank": 32}),
    "seq_lora+hat-binary": (
        "seq_lora+hat",
        {"rank": 32, "hat": {"binary": True, "gates_by": "sgd", "anneal": "task", "mask": "gradient"}},
    ),
    "seq_lora+hat+migu": ("seq_lora+hat+migu", {"rank": 32}),
    "seq_lora+hat+replay": ("seq_lora+hat+replay", {"rank": 32, "replay": {"per_task": 3}}),
    "am_lora-new": ("am_lora", {"selectors": "new"}),
    "am_lora-no-zero": ("am_lora", {"zero_lora": False}),
    "am_lora-learned-zero": ("am_lora", {"zero_lora": "learned", "activation": "tanh", "selector_rate": 2.0}),
    "am_lora-learned-zero-new": (
        "am_lora",
        {"zero_lora": "learned", "selectors": "new", "selector_input": "unscaled"},
    ),
    "am_lora-offset": ("am_lora", {"start_offset": 1.0, "offset_steps": 2, "selector_start": "mean_of_old"}),
    "am_lora-keep-gates": ("am_lora", {"keep_gates": 1}),
    "am_lora-proximal": (
        "am_lora",
        {"sparsity": 0.01, "sparsity_by": "proximal", "sparsity_reduce": "mean", "dropout_on": "new"},
    ),
    "am_lora-relu-zeros": (
        "am_lora",
        {
            "activation": "relu",
            "selector_start": "zeros",
            "cross_attention": False,
            "roles": ["query", "key", "value"],
        },
    ),
    "am_lora+orthogonality": ("am_lora+orthogonality", {"orthogonality": {"side": "output"}}),
    "n_lora-released": ("n_lora", {"form": "released", "roles": ["query", "output"], "strength": 0.01}),
    "seq_lora+update_l1": ("seq_lora+update_l1", {"update_l1": {"strength": [1e-3, 2e-3, 3e-3]}}),
    "ella": ("ella", {"strength": 0.01}),
    "osf-schedule": ("osf", {"share": [0.3, 0.5, 0.7], "project": "gradients"}),
    "o_lora-all": ("o_lora", {"norm": "squared", "side": "both", "reduce": "mean", "shrinkage": 0.1}),
    "der_pp-small": ("der_pp", {"capacity": 5, "rows": 3, "top_k": 2, "alpha": 0.01, "distance": "sum"}),
    "inc_lora+der": ("inc_lora+der", {"der": {"capacity": 7}}),
    "seq_ft+distill": ("seq_ft+distill", {}),
    "am_lora+distill": ("am_lora+distill", {"distill": {"temperature": 1.0}}),
    "das-update": ("das", {"mask": "update", "importance_rows": 5}),
    "seq_ft+evidence": ("seq_ft+evidence", {"evidence": {"host_weight": 0.5, "views": "bare"}}),
    "inc_lora+gaussian_routing": ("inc_lora+gaussian_routing", {"gaussian_routing": {"top": 2, "along": "identity"}}),
    "inc_lora+gaussian_routing+evidence": ("inc_lora+gaussian_routing+evidence", {"evidence": {"offset": 0.25}}),
    "am_lora+gaussian_routing": ("am_lora+gaussian_routing", {}),
    "inc_lora+gaussian_routing+evidence+abstention": ("inc_lora+gaussian_routing+evidence+abstention", {}),
    "inc_lora+warm_start": ("inc_lora+warm_start", {"warm_start": {"begin_with": "mean"}}),
    "am_lora+warm_start": ("am_lora+warm_start", {}),
    "seq_ft+soft_mask+migu": ("seq_ft+soft_mask+migu", {}),
    "ewc-separate": ("ewc", {"mode": "separate", "labels": "sampled", "normalize": True}),
    "seq_lora+ewc+replay": ("seq_lora+ewc+replay", {"replay": {"per_task": 3}}),
    "inc_lora+replay": ("inc_lora+replay", {"replay": {"fraction": 0.5}}),
    "am_lora+sensitivity_init": ("am_lora+sensitivity_init", {}),
    "inc_lora+sensitivity_init": ("inc_lora+sensitivity_init", {}),
    "am_lora+migu": ("am_lora+migu", {}),
    "lb_cl-update": (
        "lb_cl",
        {**ROOM, "on": "update", "sigma": "zero", "match": "sigma_sorted", "align": "align"},
    ),
    "lb_cl-literal": ("lb_cl", {**ROOM, "sigma": "average", "space": "sum", "estimate": "sample", "top_layers": 1}),
    "l_cl": ("lb_cl", {"variant": "l_cl", **ROOM, "sigma": "ones", "orthonormalize": "qr"}),
    "b_cl": ("lb_cl", {"variant": "b_cl", **ROOM, "space": "vectors"}),
    "nlnb_cl": ("lb_cl", {"variant": "nlnb_cl", "orthonormality_form": "paper"}),
    "inc_lora+orthogonal_gradient": (
        "inc_lora+orthogonal_gradient",
        {**ROOM, "orthogonal_gradient": {"on": "both"}},
    ),
    "inc_lora+copy_init": ("inc_lora+copy_init", {"copy_init": {"layers": 1}}),
    "seq_ft+migu": ("seq_ft+migu", {}),
    "seq_ft+migu-update": ("seq_ft+migu", {"migu": {"mask": "update", "first_task": True}}),
    "seq_ft+migu-clusters": ("seq_ft+migu", {"migu": {"clusters": 4}}),
    "seq_lora+migu": ("seq_lora+migu", {}),
    "inc_lora+migu-update": ("inc_lora+migu", {"migu": {"mask": "update", "first_task": True}}),
    "inc_lora+migu-clusters": ("inc_lora+migu", {"migu": {"clusters": 4, "cluster_by": "magnitude"}}),
    "inc_lora+migu-random": ("inc_lora+migu", {"migu": {"by": "random", "first_task": True}}),
    "any_ssr": ("any_ssr", {"blocks": 1, "dimension": 32}),  # a tiny host has two
    "any_ssr-linear": ("any_ssr", {"blocks": 1, "dimension": 32, "relu": False, "text": "bare", "scale": "relative"}),
    # A tiny host's weights are small, and with them what stands between their singular vectors.
    "latent_lora": ("latent_lora", {"rank": 6, "alpha": 96.0, "epsilon": 0.1, "scale": "relative"}),
    # Inputs of sixteen dimensions leave five tasks something only where little is protected.
    "inf_lora": ("inf_lora", {"energy": 0.6}),
    "gain_lora": ("gain_lora", {"energy": 0.6, "gate_width": 12}),
    "gain_lora-released": (
        "gain_lora",
        {"energy": 0.6, "gate_width": 8, "restore_norms": True, "choose": "random", "text": "bare"},
    ),
    "code_lora-none": ("code_lora", {"fusion": "none", "rank": 3, "dropout": 0.1}),
    "code_lora-full": ("code_lora", {"fusion": "full", "calibration_rows": 3}),
    "inf_lora-random": ("inf_lora", {"choose": "random", "energy": 0.3, "steps": 100, "energy_of": "inputs"}),
    "latent_lora-task": (
        "latent_lora",
        {"rank": 6, "alpha": 96.0, "components": 1, "around": "task", "text": "bare", "orthogonality": 0.5},
    ),
    "mocl-direct": ("mocl", {"sharpness": None, "composes": "all", "key_start": "normal", "key_rate": 2.0}),
    "mocl-prompt": ("mocl", {"slot": "prompt", "prompt_length": 3, "composes": "predicted"}),
    "epi-prompt": ("epi", {"slot": "prompt", "prompt_length": 3}),
    "joint-lora": ("joint", {"train": "lora"}),
    "independent-lora": ("independent", {"train": "lora"}),
    "lfpt5": ("lfpt5", {"prompt_length": 3, "max_length": 12, "draws": 2}),
    "sapt_lora": ("sapt_lora", {"fraction": 0.3, "generator_steps": 6, "max_length": 16}),
    "sapt_lora-real": ("sapt_lora", {"inputs": "real", "fraction": 0.3}),
    "prog_prompt": ("prog_prompt", {"prompt_length": 3}),  # five of them stand in front of an input
    "prog_prompt-bottleneck": ("prog_prompt", {"prompt_length": 3, "bottleneck": 32}),
    "l2p": ("l2p", {"pool": 4, "prompt_length": 2, "select": 2}),  # forty tokens leave no room for a tiny host's text
    "l2p-diversified": ("l2p", {"pool": 4, "prompt_length": 2, "select": 2, "diversify": "frequency"}),
    "nearest_mean-cosine": ("nearest_mean", {"rule": "cosine", "text": "prompt", "layer": "words"}),
    "lda-tasks": ("lda", {"covariance": "tasks", "prior": "tasks", "answer": "sum"}),
    "lda-unit": ("lda", {"covariance": "classes", "unit": "task"}),
    "klda": ("klda", {"dimension": 40}),
    "klda-sum": ("klda", {"dimension": 24, "gamma": 0.5, "answer": "sum", "shrinkage": 0.1}),
    "ridge": ("ridge", {"dimension": 64}),
    "ridge-plain": ("ridge", {"dimension": None, "scale": "absolute"}),
    "knn-all": ("knn", {"per_pair": None, "k": 1, "distance": "euclidean", "precision": "float32"}),
    "knn-few": ("knn", {"per_pair": 5, "k": 1, "answer": "sum"}),
    "inc_lora-all-roles": (
        "inc_lora",
        {"roles": ["query", "key", "value", "output", "ffn_in", "ffn_gate", "ffn_out"], "rank": 2},
    ),
}


def refused(method: Method, architecture: str) -> bool:
    """Whether the method needs a host that writes, and this one does not (tests/methods/test_lfpt5.py)."""
    return architecture == "roberta" and any(part.writes for part in method.parts)


def held_method(variant: str) -> Method:
    """A method of the contract: a variant of a registered one, or one that is written on the interfaces alone."""
    return PROOFS[variant]() if variant in PROOFS else build_method(*VARIANTS[variant])


HELD = (*VARIANTS, *PROOFS)
HELD_ON = ("t5", "llama", "roberta")
"""An architecture of each family."""


def pairs(variants: Sequence[str]) -> list[Any]:
    """Every method on every family; of its options, each on one of them, and on the others in the long tests."""
    found = []
    for place, variant in enumerate(variants):
        own = HELD_ON[place % len(HELD_ON)]
        if refused(held_method(variant), own):
            own = "llama"
        for architecture in HELD_ON:
            is_quick = architecture == own or variant in METHODS.names() or variant in PROOFS
            found.append(_held(variant, architecture, is_quick=is_quick))
    return found


def methods_first(variants: Sequence[str]) -> list[Any]:
    """Every method, and every modifier beside one; other settings, which have names of their own, in the long tests."""
    return [_held(name, is_quick=name in PROOFS or name == VARIANTS[name][0]) for name in variants]


def _held(*values: str, is_quick: bool) -> Any:
    return pytest.param(*values, marks=() if is_quick else (pytest.mark.long,), id="-".join(values))


def load(folder: Path, host: Host, method: Method) -> Learner:
    """A saved learner; its method is built anew by its name, where it has one."""
    return Learner.load(folder, host, None if method.name else method)


def state_of(learner: Learner) -> dict[str, Tensor]:
    head = learner.host.family.head
    learned = {} if head is None else {f"head.{name}": tensor.clone() for name, tensor in head.tensors().items()}
    routing = learner.owners["routing"].tensors() if "routing" in learner.owners else {}
    learned |= {f"routing.{name}": tensor.clone() for name, tensor in routing.items()}
    return learned | {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def same_tensors(one: Learner, other: Learner) -> bool:
    """Whether two learners have learned the same, to the bit."""
    found, there = state_of(one), state_of(other)
    return found.keys() == there.keys() and all(torch.equal(tensor, there[name]) for name, tensor in found.items())


def draws(method: Method) -> bool:
    """Whether anything that is learned depends on the seed; sums of the host's own states do not."""
    return method.trains or method.parameters.get("dimension") is not None or "per_pair" in method.parameters


def evidence_of(learner: Learner) -> dict[str, Tensor]:
    """Tensors that a readout remembers, by their place."""
    return dict(tensors_in(dict(learner.snapshot().parts), "parts"))


def tensors_in(tree: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree, with their places."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, list | dict):
        for key, each in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from tensors_in(each, f"{name}.{key}")


def same_state(one: Learner, other: Learner) -> bool:
    """Whether two learners remember the same, tensors of the parts to the bit."""
    different = one.snapshot().differences(other.snapshot())
    return not [name for name in different if name.startswith(("seed", "tasks", "parts"))]
