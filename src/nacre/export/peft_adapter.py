"""Stock PEFT LoRAs: one that holds the sum of all tasks' updates, or one for each task where one answers alone.

A sum has the tasks' factors side by side, of rank t r. With a routing there is a folder `NN-task` for each task, and
`routing.json` says which is whose; which task a row is of is for whoever uses them to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.adapters.low_rank import LowRankSite, PlacedLowRank
from nacre.adapters.route import Route
from nacre.errors import ModelError
from nacre.export.exported import Exported, LoadedModel, check_writes, export
from nacre.files import numbered_name, to_json
from nacre.learning.learner import Learner
from nacre.models.families import Encoded
from nacre.models.generative import EncoderDecoder
from nacre.models.loading import load_host_as
from nacre.optional import need
from nacre.parts.slots_of_tasks import tasks_of_slots

BOUND = 1e-5
"""Of the logits: the same sums in another order."""

WEIGHTS = "adapter_model.safetensors"
ROUTING = "routing.json"

SiteFactors = Mapping[str, tuple[Tensor, Tensor]]
"""A [R, d_in] and B, transposed and with the updates' scale, [R, d_out], by linear map: the update is `B.T A`."""


def export_peft(learner: Learner, folder: Path, rows: Sequence[Encoded]) -> Exported:
    """Write LoRAs that `peft.PeftModel.from_pretrained` puts on the pretrained model.

    Args:
        learner: What is exported.
        folder: A new folder.
        rows: To compare on (`exported.rows_of`).

    Raises:
        ModelError: If what was learned is neither a sum of low-rank updates nor one for each task, or if an adapter,
            loaded again, answers otherwise.
        NacreError: If PEFT is not installed.
    """
    check_writes(learner, "peft")
    placed = _low_rank(learner)
    peft = need("peft", "Writing a PEFT adapter", "peft")
    if learner.method.routing is None:
        summed = {name: _sum(site) for name, site in placed.sites.items()}
        write = partial(_write, learner, placed, peft, summed)
        return export("peft", learner, folder, rows, write, [LoadedModel(partial(_load, learner, peft))], BOUND)
    names = [numbered_name(number, " ".join(own)) for number, own in enumerate(tasks_of_slots(learner), start=1)]

    def write_all(place: Path) -> None:
        for slot, name in enumerate(names):
            (place / name).mkdir()
            own = {key: _slot(site, slot) for key, site in placed.sites.items()}
            _write(learner, placed, peft, own, place / name)
        (place / ROUTING).write_text(to_json(_table(learner, names)) + "\n", encoding="utf-8")

    def load(name: str, place: Path) -> nn.Module:
        return _load(learner, peft, place / name)

    pairs = [LoadedModel(partial(load, name), partial(_only, slot)) for slot, name in enumerate(names)]
    return export("peft", learner, folder, rows, write_all, pairs, BOUND)


def _low_rank(learner: Learner) -> PlacedLowRank:
    """The learner's adapter, if all that was learned is in LoRAs.

    Raises:
        ModelError: It says what else there is.
    """
    method, placed = learner.method, learner.adapter
    name = method.display_name
    learner.check_usable()
    if not learner.state.tasks:
        raise ModelError("peft: nothing has been learned yet.")
    mixes = method.routing is not None and not method.routing.chooses_task(method.adapter)
    if method.readout is not None or mixes:
        raise ModelError(
            f"peft: {name} answers each row with a mixture or evidence of its own, which no LoRA holds; keep it in the "
            "store, or save it with learner.save(folder)."
        )
    if not isinstance(placed, PlacedLowRank) or placed.is_gated:
        raise ModelError(f"peft: {name} has learned something else than LoRAs; take the format merged.")
    return placed


@torch.no_grad()
def _sum(site: LowRankSite) -> tuple[Tensor, Tensor]:
    """The factors of all tasks, side by side."""
    down, up = site.slots.all_summands()
    return down.flatten(0, 1).float(), site.scale * up.flatten(0, 1).float()


@torch.no_grad()
def _slot(site: LowRankSite, slot: int) -> tuple[Tensor, Tensor]:
    """The factors of one task, with what stands beside them in its update."""
    down, up = (stack[slot] for stack in site.slots.all_pairs())
    if site.slots.has_companions:
        beside = site.slots.companion_of(slot)
        down, up = torch.cat([down, beside[0]]), torch.cat([up, beside[1]])
    return down.float(), site.scale * up.float()


def _write(learner: Learner, placed: PlacedLowRank, peft: Any, factors: SiteFactors, place: Path) -> None:
    host = learner.host
    rank = len(next(iter(factors.values()))[0])
    config = peft.LoraConfig(
        base_model_name_or_path=str(host.folder or host.name),
        task_type="SEQ_2_SEQ_LM" if isinstance(host.family, EncoderDecoder) else "CAUSAL_LM",
        r=rank,
        lora_alpha=rank,  # the updates' own scale is part of B
        target_modules=_targets(host.body, placed.sites),
        fan_in_fan_out=any(isinstance(site.base, Conv1D) for site in placed.sites.values()),
        inference_mode=True,
    )
    config.save_pretrained(place)
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.T.cpu().contiguous()
    save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})


def _load(learner: Learner, peft: Any, place: Path) -> nn.Module:
    plain = load_host_as(learner.host.name, learner.host.loaded_as).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is about to go
        model: nn.Module = peft.PeftModel.from_pretrained(plain, str(place))
    return model


def _only(slot: int, rows: int) -> Route:
    """This slot answers all rows."""
    return Route(slots=torch.full((rows,), slot))


def _table(learner: Learner, names: Sequence[str]) -> dict[str, Any]:
    """Which adapter is whose, and what its task's answers are."""
    forms = learner.state.forms
    tasks = [
        {"task": task, "adapter": name, "labels": list(forms[task].labels or ()) if task in forms else None}
        for name, own in zip(names, tasks_of_slots(learner), strict=True)
        for task in own
    ]
    return {"schema": "nacre.routing/1", "method": learner.method.name, "tasks": tasks}


def _targets(model: nn.Module, sites: Mapping[str, object]) -> list[str]:
    """The names by which PEFT finds the linear maps: the last parts alone where these name no others.

    Servers read such short names only.
    """
    last = {name.rpartition(".")[2] for name in sites}
    linear = {
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in last and isinstance(module, nn.Linear | Conv1D | LowRankSite)
    }
    return sorted(last) if linear == set(sites) else sorted(sites)
