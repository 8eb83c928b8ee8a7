"""Reading a batch whose rows have different adapters: by every body, by what suits the batch, by weights of 0 and 1 for
all adapters, and by PEFT's mixed batch (``adapter_names``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import torch
from baselines import peft_lora
from hosts import READ, Hosts
from learners import learner_with
from measuring import Variant
from torch import Tensor

from nacre.adapters.route import Route
from nacre.functional import grouped
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.models.host import Host

ROWS = 16
PEFT = "PEFT's adapter_names"
BODIES = ("loop", "grouped", "gathered")


def mixed(hosts: Hosts, adapters: Sequence[int]) -> dict[str, Variant]:
    """One pass over 16 rows of 128 tokens, and of one token as in a step of generation, by one of T adapters each.

    Rows have the adapters 0 to T - 1 in turn, the last ones where there are more adapters than rows.
    """
    return {name: variant for number in adapters for name, variant in _of(hosts, number).items()}


def _of(hosts: Hosts, number: int) -> dict[str, Variant]:
    peft_host, learner = hosts.frozen(), learner_with(hosts.frozen(), "inc_lora", number - 1, Optim())
    model = peft_lora(peft_host, number).eval()
    host = learner.host
    host.model.eval()
    chosen = torch.tensor([number - 1 - row % min(number, ROWS) for row in range(ROWS)])
    route, weights = Route(slots=chosen), Route(torch.nn.functional.one_hot(chosen, number).to(host.device).float())
    names = [f"task{slot}" for slot in chosen.tolist()]
    made: dict[str, Variant] = {}
    for tokens in (READ, 1):
        rows = [Encoded(row.source[:tokens], row.target, truncated=False) for row in hosts.rows(ROWS)]
        what = f"T={number}, {tokens} token{'s' * (tokens > 1)}"
        theirs = f"{PEFT}, {what}"
        inputs = _inputs(peft_host, rows)

        @torch.inference_mode()
        def by_names(inputs: dict[str, Tensor] = inputs) -> None:
            model(**inputs, adapter_names=names)

        made |= {theirs: Variant(by_names, theirs), f"again, {what}": Variant(by_names, theirs)}
        made[f"bare host, {what}"] = Variant(_reading(host, rows, learner.adapter.bypassed), theirs)
        made[f"nacre, {what}"] = Variant(_reading(host, rows, lambda: learner.adapter.use(route)), theirs)
        for body in BODIES:
            if body != "grouped" or hasattr(torch.nn.functional, "grouped_mm"):
                by = _reading(host, rows, lambda: learner.adapter.use(route), body)
                made[f"{body}, {what}"] = Variant(by, theirs)
        by = _reading(host, rows, lambda: learner.adapter.use(weights))
        made[f"weights of all, {what}"] = Variant(by, theirs)
    return made


def _inputs(host: Host, rows: list[Encoded]) -> dict[str, Tensor]:
    """What a forward pass reads: the prompts, and an encoder-decoder's first token."""
    inputs = dict(host.on_device(host.family.prompts(rows)))
    if host.family.name == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.zeros(len(rows), 1, dtype=torch.long, device=host.device)
    return inputs


def _reading(
    host: Host, rows: list[Encoded], route: Callable[[], AbstractContextManager[None]], body: str | None = None
) -> Callable[[], object]:
    inputs = _inputs(host, rows)

    @torch.inference_mode()
    def run() -> None:
        forced = nullcontext() if body is None else mock.patch.object(grouped, "body_for", return_value=body)
        with forced, route():
            host.model(**inputs)

    return run
