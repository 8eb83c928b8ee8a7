"""What each linear map of a host is for: attention query, key, value, output; feed-forward in, gate, out.

One row per architecture, by ``config.model_type``. A fused map (GPT-2's ``c_attn``, NeoX's ``query_key_value``) has
several roles; asking for any of them selects the whole map, as PEFT does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn
from transformers.pytorch_utils import Conv1D

from nacre.errors import ModelError, RecipeError, nearest

Role = Literal["query", "key", "value", "output", "ffn_in", "ffn_gate", "ffn_out"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class RoleOf:
    """Modules whose dotted name ends like this have these roles. ``ending`` is a regular expression. cross: whether
    they belong to a decoder's attention to the encoder."""

    ending: str
    roles: tuple[Role, ...]
    cross: bool = False

    def holds(self, module_name: str) -> bool:
        return re.search(rf"(^|\.){self.ending}$", module_name) is not None


def _separate(query: str, key: str, value: str, output: str, *, cross: bool = False) -> tuple[RoleOf, ...]:
    endings: dict[Role, str] = {"query": query, "key": key, "value": value, "output": output}
    return tuple(RoleOf(ending, (role,), cross) for role, ending in endings.items())


_T5 = (
    *_separate(*(rf"SelfAttention\.{letter}" for letter in "qkvo")),
    *_separate(*(rf"EncDecAttention\.{letter}" for letter in "qkvo"), cross=True),
    RoleOf(r"DenseReluDense\.(wi|wi_1)", ("ffn_in",)),
    RoleOf(r"DenseReluDense\.wi_0", ("ffn_gate",)),
    RoleOf(r"DenseReluDense\.wo", ("ffn_out",)),
)
_BART = (
    *_separate(*(rf"self_attn\.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))),
    *_separate(*(rf"encoder_attn\.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")), cross=True),
    RoleOf("fc1", ("ffn_in",)),
    RoleOf("fc2", ("ffn_out",)),
)
_BERT = (
    *_separate(r"self\.query", r"self\.key", r"self\.value", r"attention\.output\.dense"),
    RoleOf(r"intermediate\.dense", ("ffn_in",)),
    RoleOf(r"layer\.\d+\.output\.dense", ("ffn_out",)),
)
_LLAMA = (
    *_separate(*(rf"self_attn\.{letter}_proj" for letter in "qkvo")),
    RoleOf(r"mlp\.up_proj", ("ffn_in",)),
    RoleOf(r"mlp\.gate_proj", ("ffn_gate",)),
    RoleOf(r"mlp\.down_proj", ("ffn_out",)),
)
_GPT2 = (
    RoleOf(r"attn\.c_attn", ("query", "key", "value")),
    RoleOf(r"attn\.c_proj", ("output",)),
    RoleOf(r"mlp\.c_fc", ("ffn_in",)),
    RoleOf(r"mlp\.c_proj", ("ffn_out",)),
)
_GPT_NEO = (
    *_separate(*(rf"attention\.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))),
    RoleOf(r"mlp\.c_fc", ("ffn_in",)),
    RoleOf(r"mlp\.c_proj", ("ffn_out",)),
)
_GPT_NEOX = (
    RoleOf(r"attention\.query_key_value", ("query", "key", "value")),
    RoleOf(r"attention\.dense", ("output",)),
    RoleOf(r"mlp\.dense_h_to_4h", ("ffn_in",)),
    RoleOf(r"mlp\.dense_4h_to_h", ("ffn_out",)),
)

ARCHITECTURES: dict[str, tuple[RoleOf, ...]] = {
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "bart": _BART,
    "mbart": _BART,
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _GPT_NEOX,
}


def find_linears(
    model: nn.Module, roles: Sequence[str], modules: Sequence[str] = (), *, cross_attention: bool = True
) -> dict[str, nn.Module]:
    """The host's linear maps with one of the roles, or, if ``modules`` is given, whose names end in one of those.

    model: a host with ``config.model_type``. modules: dotted endings such as ``q_proj`` or ``SelfAttention.q``; they
    override the roles. cross_attention: whether the roles mean a decoder's attention to the encoder, too. Returns
    name -> module in the host's own order.

    Raises ``RecipeError`` for an unknown role or an ending that matches nothing, ``ModelError`` for an architecture
    that has no row here.
    """
    if modules and not cross_attention:
        raise RecipeError(
            "cross_attention: false goes with roles; modules name the linear maps themselves, for example "
            "--set 'modules=[SelfAttention.q, SelfAttention.v]'."
        )
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if modules:
        for ending in modules:
            if not any(_ends_in(name, ending) for name in linears):
                raise RecipeError(
                    f"modules: no linear map of the model has a name that ends in '{ending}'. "
                    f"{nearest(ending, {name.rsplit('.', 1)[-1] for name in linears})}"
                )
        return {name: module for name, module in linears.items() if any(_ends_in(name, end) for end in modules)}
    for role in roles:
        if role not in ROLES:
            raise RecipeError(f"roles: '{role}' is no role of a linear map. {nearest(role, ROLES)}")
    model_type = str(model.config.model_type)  # type: ignore[union-attr]
    if model_type not in ARCHITECTURES:
        raise ModelError(
            f"The roles of architecture '{model_type}' are not known ({', '.join(sorted(ARCHITECTURES))} are). "
            "Name the linear maps instead: --set 'modules=[q_proj, v_proj]'."
        )
    table = [row for row in ARCHITECTURES[model_type] if cross_attention or not row.cross]
    found = {
        name: module
        for name, module in linears.items()
        if any(row.holds(name) and set(row.roles) & set(roles) for row in table)
    }
    if not found:
        raise RecipeError(f"roles: the model ({model_type}) has no linear map for {', '.join(roles) or 'no role'}.")
    return found


def roles_of(model: nn.Module, module_name: str) -> tuple[Role, ...]:
    """The roles of one linear map, several for a fused one; none if the table does not know it or the architecture.

    model: a host with ``config.model_type``.
    """
    table = ARCHITECTURES.get(str(model.config.model_type), ())  # type: ignore[union-attr]
    return next((row.roles for row in table if row.holds(module_name)), ())


def layer_of(module_name: str) -> tuple[str, int] | None:
    """The transformer layer that a module lies in: its stack and its number there, from 0 at the input.

    ``decoder.block.3.layer.0.SelfAttention.q`` is in (``decoder.block``, 3): the first number counts. None outside.
    """
    parts = module_name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return None if place is None else (".".join(parts[:place]), int(parts[place]))


def in_top_layers(model: nn.Module, module_names: Iterable[str], count: int) -> list[str]:
    """Those of the modules that lie in the ``count`` layers nearest to the output: of the decoder where the model has
    one, otherwise of its only stack. ``count`` may be larger than the stack.

    Raises ``RecipeError`` if none of them does.
    """
    layers = {layer for name, _ in model.named_modules() if (layer := layer_of(name)) is not None}
    decoder = {layer for layer in layers if "decoder" in layer[0].split(".")}
    highest: dict[str, int] = {}
    for stack, number in decoder or layers:
        highest[stack] = max(number, highest.get(stack, 0))
    found = []
    for name in module_names:
        stack, number = layer_of(name) or ("", 0)
        if stack in highest and number > highest[stack] - count:
            found.append(name)
    if not found:
        raise RecipeError(
            f"None of the adapter's linear maps lies in the {count} layer(s) nearest to the output of "
            f"{', '.join(sorted(highest)) or 'this model, whose layers have no numbers'}: take more layers, or all."
        )
    return found


def _ends_in(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
