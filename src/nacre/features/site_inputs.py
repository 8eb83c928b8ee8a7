"""What linear maps of a host read while it reads a task's rows: the tokens' inputs, for statistics over them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nacre.adapters.site import Site
from nacre.errors import TrainingError
from nacre.features.token_streams import TokenStream, arguments_of, stream_of, token_masks
from nacre.models.evaluating import evaluating
from nacre.models.families import Encoded
from nacre.models.host import Host

Visit = Callable[[str, Tensor], None]
"""Is given a map's name and its inputs [n, d_in], those of padding left out: the same tensor for maps that run one
after another on the same inputs, such as query and value."""


@torch.no_grad()
def read_site_inputs(host: Host, rows: Sequence[Encoded], places: Sequence[str], visit: Visit, batch_size: int) -> None:
    """Read rows as training does, without dropout, and show what the maps read.

    The host computes as it does at present: `learner.bypassed()` around the call makes it the bare one. Sums over
    tokens are the same for any batch size, up to rounding.

    Args:
        host: Its model is left in the mode in which it was.
        rows: Of a task. Targets are read, too, as far as hosts of the family read them.
        places: Names of linear maps in `host.body`.
        visit: Called for every map and batch, in the order in which the maps run.
        batch_size: Rows read at once.

    Raises:
        ModelError: If it is not known which tokens a map of this architecture reads.
        TrainingError: If a map's inputs do not tell the tokens apart.
    """
    with evaluating(host.model), _shown(host, places, visit):
        for start in range(0, len(rows), batch_size):
            _read(host, rows[start : start + batch_size])


def _read(host: Host, rows: Sequence[Encoded]) -> None:
    family = host.family
    if family.is_generative:
        family.predictions(host.model, host.on_device(family.batch(rows)))
        return
    prompts = host.on_device(family.prompts(rows))  # whether or not the rows' answers are classes already
    with family.routed(prompts):
        host.body(input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"])


@contextmanager
def _shown(host: Host, places: Sequence[str], visit: Visit) -> Iterator[None]:
    """While open, every call of the model shows what the maps read.

    Before a batch is read, a routing may ask the bare host about it. What the maps read then is not shown.
    """
    modules = {place: host.body.get_submodule(place) for place in places}
    answering = {place for place, module in modules.items() if not _is_bypassed(module)}
    streams = {place: stream_of(host.body, place) for place in places}
    masks: dict[TokenStream, Tensor | None] = {}
    newest: list[tuple[Tensor, Tensor]] = []  # what the last map was given, and its tokens

    def begin(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        masks.update(token_masks(model, arguments_of(model, args, kwargs)))

    def show(place: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if place in answering and _is_bypassed(module):
            return
        inputs, mask = args[0], masks[streams[place]]
        if mask is None:
            mask = torch.ones(inputs.shape[:-1], dtype=torch.bool, device=inputs.device)
        if inputs.shape[:-1] != mask.shape:
            raise TrainingError(
                f"{place} reads inputs of shape {[*inputs.shape]} for {[*mask.shape]} tokens, so that it is unknown "
                "which of them are padding."
            )
        if not newest or newest[0][0] is not inputs:
            newest[:] = [(inputs, inputs[mask])]
        visit(place, newest[0][1])

    handles = [host.body.register_forward_pre_hook(begin, with_kwargs=True)]
    handles += [module.register_forward_pre_hook(functools.partial(show, place)) for place, module in modules.items()]
    try:
        yield
    finally:
        newest.clear()
        for handle in handles:
            handle.remove()


def _is_bypassed(module: nn.Module) -> bool:
    return isinstance(module, Site) and module.is_bypassed
