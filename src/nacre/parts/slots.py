"""For parts that look at earlier tasks' low-rank factors: does an adapter keep them, where are they, and how does
one fill a slot from them."""

from __future__ import annotations

import torch

from nacre.adapters.adapter import Adapter, PlacedAdapter
from nacre.adapters.low_rank import LowRank, LowRankSite, PlacedLowRank
from nacre.functional.sensitivity import Triplets


def without_slots(adapter: Adapter) -> str | None:
    """The objection of such a part: None if the adapter has a low-rank slot for each task."""
    if not isinstance(adapter, LowRank):
        return "it works on earlier tasks' low-rank factors, and here are none; inc_lora, am_lora and lb_cl have them"
    if adapter.slots == "shared":
        return (
            "it works on earlier tasks' frozen factors, and here all tasks share one slot; inc_lora, am_lora and lb_cl "
            "have one for each task"
        )
    return None


def slots_of(adapter: PlacedAdapter) -> PlacedLowRank:
    """The placed adapter as what ``without_slots`` made sure of."""
    assert isinstance(adapter, PlacedLowRank)
    return adapter


@torch.no_grad()
def write_triplets(site: LowRankSite, new: Triplets) -> None:
    """Put triplets [r, ...] into a site's newest slot."""
    parameters = site.parameters_by_group()
    parameters["down"].copy_(new.down)
    parameters["up"].copy_(new.up.T)
    if new.sigma is not None:
        parameters["sigma"].copy_(new.sigma)
