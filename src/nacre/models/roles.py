"""Finding a host's linear maps by what they are for: attention query, key, value, output; feed-forward in, gate, out.

A fused map (GPT-2's `c_attn`, NeoX's `query_key_value`) has several roles; asking for any of them selects the whole
map, as PEFT does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from nacre.errors import ModelError, RecipeError, nearest
from nacre.models.architectures import ARCHITECTURES, ROLES, Role, architecture_of, config_of
from nacre.models.reader import reader_of

__all__ = ["ARCHITECTURES", "ROLES", "Role", "above_blocks", "find_linears", "in_top_layers", "layer_of", "roles_of"]


def find_linears(
    model: nn.Module, roles: Sequence[str], modules: Sequence[str] = (), *, cross_attention: bool = True
) -> dict[str, nn.Module]:
    """The host's linear maps with one of the roles, or, if `modules` is given, whose names end in one of those.

    Args:
        model: A host with `config.model_type`.
        roles: Which roles.
        modules: Dotted endings such as `q_proj` or `SelfAttention.q`; they override the roles.
        cross_attention: Whether the roles mean a decoder's attention to the encoder, too.

    Returns:
        Name -> module, in the host's own order.

    Raises:
        RecipeError: For an unknown role or an ending that matches nothing.
        ModelError: For an architecture that has no row in `models/architectures`.
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
    config = config_of(model)
    architecture = architecture_of(config)
    if architecture is None:
        raise ModelError(
            f"The roles of architecture '{config.model_type}' are not known ({', '.join(sorted(ARCHITECTURES))} are). "
            "Name the linear maps instead: --set 'modules=[q_proj, v_proj]'."
        )
    table = [row for row in architecture.roles if cross_attention or not row.cross]
    chosen = {
        name: module
        for name, module in linears.items()
        if any(row.holds(name) and set(row.roles) & set(roles) for row in table)
    }
    if not chosen:
        raise RecipeError(
            f"roles: the model ({config.model_type}) has no linear map for {', '.join(roles) or 'no role'}."
        )
    return chosen


def roles_of(model: nn.Module, module_name: str) -> tuple[Role, ...]:
    """The roles of one linear map of a host, several for a fused one.

    There are none if its architecture's row does not know the map, or if there is no row.
    """
    architecture = architecture_of(config_of(model))
    table = () if architecture is None else architecture.roles
    return next((row.roles for row in table if row.holds(module_name)), ())


def layer_of(module_name: str) -> tuple[str, int] | None:
    """The transformer layer that a module lies in: its stack and its number there, from 0 at the input.

    `decoder.block.3.layer.0.SelfAttention.q` is in (`decoder.block`, 3): the first number counts. None outside.
    """
    parts = module_name.split(".")
    index = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return None if index is None else (".".join(parts[:index]), int(parts[index]))


def in_top_layers(model: nn.Module, module_names: Iterable[str], count: int) -> list[str]:
    """Those of the modules that lie in the `count` layers nearest to the output.

    The layers are the decoder's where the model has one, otherwise its only stack's. `count` may be larger than the
    stack.

    Raises:
        RecipeError: If none of them does.
    """
    layers = {layer for name, _ in model.named_modules() if (layer := layer_of(name)) is not None}
    architecture = architecture_of(config_of(model))
    stack_name = "decoder" if architecture is None else architecture.decoder
    decoder = {layer for layer in layers if stack_name in layer[0].split(".")}
    highest: dict[str, int] = {}
    for stack, number in decoder or layers:
        highest[stack] = max(number, highest.get(stack, 0))
    chosen = []
    for name in module_names:
        stack, number = layer_of(name) or ("", 0)
        if stack in highest and number > highest[stack] - count:
            chosen.append(name)
    if not chosen:
        raise RecipeError(
            f"None of the adapter's linear maps lies in the {count} layer(s) nearest to the output of "
            f"{', '.join(sorted(highest)) or 'this model, whose layers have no numbers'}: take more layers, or all."
        )
    return chosen


def above_blocks(model: nn.Module, modules: Mapping[str, nn.Module], count: int) -> dict[str, nn.Module]:
    """Those of the modules that the states behind the first `count` blocks do not depend on.

    The blocks are those of the stack that reads the input: all modules of a decoder beside it remain.

    Raises:
        RecipeError: If none of them does.
    """
    inside = {id(module) for module in reader_of(model).modules()}
    chosen = {}
    for name, module in modules.items():
        layer = layer_of(name)
        if id(module) not in inside or (layer is not None and layer[1] >= count):
            chosen[name] = module
    if not chosen:
        raise RecipeError(f"None of the adapter's linear maps lies above the first {count} blocks: take fewer blocks.")
    return chosen


def _ends_in(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
