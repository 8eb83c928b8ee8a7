"""A host's layers, cut over the processes by torch's fully sharded data parallelism (FSDP2).

Each process keeps its part of a layer's weights, and has the whole ones while the layer computes. Whatever is not in a
layer, and every embedding, stays whole on every process, and so does an adapter, which is placed afterwards.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from torch import Tensor, nn

from nacre import processes
from nacre.errors import ModelError, TrainingError
from nacre.models.architectures import config_of


def shard_layers(model: nn.Module) -> None:
    """Cut each layer's weights over all processes, row by row.

    All processes must run the model from then on, and equally often: a layer waits for all of them.

    Args:
        model: Every process's own. It takes the first one's values, layer by layer; other processes need none of their
            own, so that they never hold more of the model than one layer and their parts.

    Raises:
        ModelError: It has no layers that transformers knows, or skips some of them at random.
    """
    # Here, because they take seconds, and adapters are built without them.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = config_of(model).model_type
    layers = layers_of(model)
    if not layers:
        raise ModelError(f"This host cannot be sharded: transformers does not say what the layers of '{kind}' are.")
    if skipped := [name for name, value in vars(config_of(model)).items() if "layerdrop" in name and value]:
        raise ModelError(
            f"This host cannot be sharded: its configuration skips layers at random ({skipped[0]}), each process other "
            "ones, and all must compute the same layers."
        )
    mesh = init_device_mesh(processes.device().type, (processes.count(),))
    for layer in layers:
        _fill_from_first(layer)
        kept = set(layer.parameters()) - set(cut_weights(layer))
        cut = fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
        # Whole weights are allocated with the first pass: of one in inference mode no later pass could be gone back.
        cut.unshard()
        cut.reshard()
        layer.register_forward_pre_hook(_refuse_alone, prepend=True)
    _fill_from_first(model)


def _fill_from_first(module: nn.Module) -> None:
    """Give a module's tensors the first process's values, and memory where they have none yet.

    Args:
        module: Tensors of it that are cut already have their values.
    """
    made: dict[Tensor, Tensor] = {}  # what is tied stays tied
    for part in module.modules():
        for held in cast("tuple[dict[str, Tensor | None], ...]", (part._parameters, part._buffers)):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_meta:
                    if tensor not in made:
                        made[tensor] = _with_memory(tensor)
                    held[name] = made[tensor]
    processes.take_from_first(tensor for tensor in (*module.parameters(), *module.buffers()) if not is_part(tensor))


def _with_memory(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="cpu")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers that are cut, in the model's order; none where transformers does not say what they are."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def cut_weights(layer: nn.Module) -> list[nn.Parameter]:
    """A layer's weights of which each process holds a part: all but embeddings.

    T5's positions are a small embedding of its first layer, which is read on its own as well.
    """
    embeddings = [module for module in layer.modules() if isinstance(module, nn.Embedding)]
    whole = {id(own) for module in embeddings for own in module.parameters()}
    return [own for own in layer.parameters() if id(own) not in whole]


def is_part(tensor: Tensor) -> bool:
    """Whether this is a sharded tensor, of which each process holds a part."""
    loaded = sys.modules.get("torch.distributed.tensor")  # as long as nobody has loaded it, no tensor is sharded
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """This process's rows of a sharded tensor, which share its memory; of another tensor all of it."""
    part: Tensor = cast(Any, tensor).to_local() if is_part(tensor) else tensor
    return part


def rows_of(whole: Tensor, sharded: Tensor) -> Tensor:
    """The rows of a whole tensor that this process has of a sharded one: a view; all where it is not sharded.

    Args:
        whole: [n, ...].
        sharded: [n, ...].
    """
    if not is_part(sharded):
        return whole
    size = -(-len(sharded) // processes.count())
    return whole[processes.rank() * size :][:size]


def as_part(rows: Tensor, sharded: Tensor) -> Tensor:
    """This process's rows as a sharded tensor, cut as another one; where that is not sharded, themselves."""
    if not is_part(sharded):
        return rows
    like: Any = sharded
    made: Tensor = sys.modules["torch.distributed.tensor"].DTensor.from_local(
        rows, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return made


def whole_of(tensor: Tensor) -> Tensor:
    """A sharded tensor with the rows of all processes, which must all ask for it; another tensor itself."""
    whole: Tensor = cast(Any, tensor).full_tensor() if is_part(tensor) else tensor
    return whole


def _refuse_alone(*_: object) -> None:
    """Without the others, the first process would wait for them for ever."""
    if processes.is_alone():
        raise TrainingError("One process alone cannot compute with a sharded host, of which it holds a part.")
