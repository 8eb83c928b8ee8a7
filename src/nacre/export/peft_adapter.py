"""One stock PEFT LoRA that holds the sum of all tasks' updates: the tasks' factors side by side, of rank t r."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.adapters.low_rank import LowRankSite, PlacedLowRank
from nacre.errors import ModelError
from nacre.export.exported import Exported, check_writes, export
from nacre.learning.learner import Learner
from nacre.models.families import Encoded
from nacre.models.generative import EncoderDecoder
from nacre.models.loading import load_host
from nacre.optional import need

BOUND = 1e-5
"""Of the logits: the same sums in another order."""

WEIGHTS = "adapter_model.safetensors"


def export_peft(learner: Learner, folder: Path, rows: Sequence[Encoded]) -> Exported:
    """Write a LoRA that `peft.PeftModel.from_pretrained` puts on the pretrained model.

    Args:
        learner: What is exported.
        folder: A new folder.
        rows: To compare on (`exported.rows_of`).

    Raises:
        ModelError: If what was learned is no sum of low-rank updates, or if the adapter, loaded again, answers
            otherwise.
        NacreError: If PEFT is not installed.
    """
    check_writes(learner, "peft")
    placed = _summed(learner)
    peft = need("peft", "Writing a PEFT adapter", "peft")
    factors = {name: _factors(site) for name, site in placed.sites.items()}
    rank = len(next(iter(factors.values()))[0])
    host = learner.host

    def write(place: Path) -> None:
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

    def load(place: Path) -> nn.Module:
        model: nn.Module = peft.PeftModel.from_pretrained(load_host(host.name).model, str(place))
        return model

    return export("peft", learner, folder, rows, write, load, BOUND)


def _summed(learner: Learner) -> PlacedLowRank:
    """The learner's adapter, if all that was learned is a sum of low-rank updates.

    Raises:
        ModelError: It says what else there is.
    """
    method, placed = learner.method, learner.adapter
    name = method.display_name
    if not learner.state.tasks:
        raise ModelError("peft: nothing has been learned yet.")
    if method.routing is not None or method.readout is not None:
        raise ModelError(
            f"peft: {name} answers in a way that depends on the input, and one LoRA adds the same to every row."
        )
    if not isinstance(placed, PlacedLowRank) or placed.is_gated:
        raise ModelError(f"peft: {name} has learned something else than a sum of LoRAs; take the format merged.")
    learner.check_usable()
    return placed


@torch.no_grad()
def _factors(site: LowRankSite) -> tuple[Tensor, Tensor]:
    """A [t r, d_in] and B, transposed and with the updates' scale, [t r, d_out], so that the update is `B.T A`."""
    down, up = site.slots.all_summands()
    return down.flatten(0, 1).float(), site.scale * up.flatten(0, 1).float()


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
