"""Defaults that occur in several places agree: in methods, in modifiers, and in the parts and adapters they use.

A method's signature is its sheet, so a default may have to be written more than once; it must not differ.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import pytest

from nacre.method import Method
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.registry import METHODS, MODIFIERS, build_method, parameters_of

HOSTS = {"l1": "am_lora", "copy_init": "inc_lora", "orthogonality": "inc_lora", "sensitivity_init": "inc_lora"}
HOSTS |= {"orthogonal_gradient": "inc_lora", "gaussian_routing": "inc_lora", "warm_start": "inc_lora"}
HOSTS |= {"update_l1": "inc_lora", "abstention": "inc_lora+evidence"}
"""A method that a modifier goes with; any other goes with seq_ft."""

TWINS = {
    "lb_cl": {"+sensitivity_init": {}, "+orthogonal_gradient": {"sigma": "sigma_gradient"}},
    "o_lora": {"+orthogonality": {"strength": "orthogonality"}},
    "n_lora": {"+update_l1": {}},
    "ewc": {"+ewc": {}},
    "replay": {"+replay": {}},
    "der_pp": {"+der": {}},
    "das": {"+soft_mask": {}},
    "hat": {"+hat": {"mask": "mask", "sparsity": "sparsity"}},
    "lora_replay": {"+replay": {}, "seq_lora": {}},
}
"""Methods that hold what others add. A parameter has the other's name, or the one given here."""

OWN = {
    ("any_ssr", "lam"): "as published, where all tasks share one scale",
    ("any_ssr", "scale"): "as published",
    ("any_ssr", "text"): "as published",
    ("klda", "dimension"): "as published; a covariance of them is shrunk, not added to",
    ("klda", "kernel"): "what klda is beside lda",
    ("knn", "distance"): "between vectors, not of logits",
    ("klda", "shrinkage"): "of a covariance, not the weight of a penalty",
    ("code_lora", "dropout"): "as released, where its experts' rows alone have 0.1",
    ("code_lora", "shrinkage"): "of a covariance, as released",
    ("de_lora", "shrinkage"): "of a covariance, as released",
    ("lda", "shrinkage"): "of a covariance, not the weight of a penalty",
    **{(name, "roles"): "adapters stand behind whole blocks" for name in ("adapter", "hat_adapter", "demix")},
    ("hat", "mask"): "what earlier tasks use is to stay; MIGU's release masks gradients",
    ("hat", "sparsity"): "the weight of another term",
    ("hat_adapter", "mask"): "what earlier tasks use is to stay; MIGU's release masks gradients",
    ("hat_adapter", "sparsity"): "the weight of another term",
    **{(name, "energy"): "of inputs, as released, not of earlier factors" for name in ("gain_lora", "inf_lora")},
    ("gain_lora", "text"): "as published",
    ("latent_lora", "rank"): "of matrices between singular vectors",
    **{("latent_lora", name): "as published" for name in ("alpha", "scale", "text")},
    ("latent_lora", "components"): "Gaussians, not roles",
    ("latent_lora", "orthogonality"): "a weight of another penalty",
    ("lfpt5", "prompt_length"): "one prompt answers for all tasks",
    **{(name, "prompt_length"): "as published, where a prompt is chosen at all" for name in ("epi", "mocl")},
    ("lfpt5", "top_k"): "of the words that are drawn, not of stored logits",
    ("lb_cl", "alpha"): "its scale is 1, not alpha / rank",
    ("der_pp", "alpha"): "the weight of stored logits",
    ("der", "alpha"): "the weight of stored logits",
    ("osf", "roles"): "full fine-tuning of the maps of attention and feed-forward",
    ("slao", "alpha"): "another paper's scale",
    ("sapt_lora", "dropout"): "another paper's setting",
    ("sapt_lora", "draws"): "for each row, not for each label",
    ("sapt_lora", "top_k"): "another paper's setting",
    ("sapt_lora", "max_length"): "another paper's setting",
    ("sapt_lora", "cue"): "each task has a generator of its own",
    ("mocl", "prompt_tokens"): "another paper's length",
    ("ewc", "strength"): "a weight of another penalty",
    ("das", "temperature"): "that of cosines",
    ("distill", "strength"): "a weight of another penalty",
    ("l1", "strength"): "a weight of another penalty",
    ("ella", "strength"): "a weight of another penalty",
    ("n_lora", "strength"): "a weight of another penalty",
    ("update_l1", "strength"): "a weight of another penalty",
    ("orthogonality", "strength"): "a weight of another penalty",
    ("orthogonal_gradient", "sigma"): "says whether sigma is projected",
    ("sensitivity_init", "sigma"): "lb_cl's where updates are summed, as there; another where gates weight them",
}
"""Parameters whose name others have too, with another meaning."""


def defaults(name: str) -> dict[str, Any]:
    """Of a method, or of a modifier, ``+name``."""
    functions = MODIFIERS if name.startswith("+") else METHODS
    parameters = parameters_of(functions.function(name.removeprefix("+")))
    return {key: parameter.default for key, parameter in parameters.items()}


def test_one_name_has_one_default() -> None:
    values: dict[str, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in [*METHODS.names(), *(f"+{name}" for name in MODIFIERS.names())]:
        for key, value in defaults(name).items():
            if (name.removeprefix("+"), key) not in OWN:
                values[key][repr(value)].append(name)
    differing = {key: dict(by_value) for key, by_value in values.items() if len(by_value) > 1}
    assert not differing


@pytest.mark.parametrize("name", TWINS)
def test_what_a_method_shares_with_others_has_their_defaults(name: str) -> None:
    own = defaults(name)
    for other, renamed in TWINS[name].items():
        theirs = {
            renamed.get(key, key): value
            for key, value in defaults(other).items()
            if key in renamed or (other.removeprefix("+"), key) not in OWN
        }
        assert theirs == {key: own[key] for key in theirs}, other


THE_METHOD_ITSELF = {
    ("LowRank", "slots"),
    ("LowRank", "above"),
    ("LowRank", "trains"),
    ("LowRank", "branch"),
    ("Bottleneck", "slots"),
    ("Bottleneck", "gates"),
    ("Prompt", "slots"),
    ("Prompt", "concatenate"),
    ("Prompt", "placeholders"),
    ("LabelEvidence", "abstention"),
    ("GaussianRouting", "abstention"),
}
"""Fields that say which method it is, such as one LoRA for all tasks or one for each."""


def held(method: Method) -> list[Any]:
    """Its adapter and its parts."""
    return [method.adapter, *method.parts]


@pytest.mark.parametrize(
    "name", [*METHODS.names(), *(f"{HOSTS.get(name, 'seq_ft')}+{name}" for name in MODIFIERS.names())]
)
def test_adapters_and_parts_have_the_defaults_of_the_methods_made_of_them(name: str) -> None:
    method = build_method(name, {"l1": {"group": "up"}} if name == "am_lora+l1" else None)
    differing = {
        (type(part).__name__, field.name): (getattr(part, field.name), field.default)
        for part in held(method)
        for field in dataclasses.fields(part)
        if field.default is not dataclasses.MISSING and getattr(part, field.name) != field.default
        if (name, field.name) not in OWN
    }
    if method.start == SensitivityStart():  # a start that fills a slot is the reason for counting from it
        assert differing.pop((type(method.adapter).__name__, "from_start"), (True, False)) == (True, False)
    assert not {field: values for field, values in differing.items() if field not in THE_METHOD_ITSELF}
