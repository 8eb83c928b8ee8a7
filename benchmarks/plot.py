"""The training steps of a measurement as a plot: ratios over the number of past tasks."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

LINES = {
    "inc_lora": "inc_lora",
    "o_lora": "o_lora",
    "lb_cl": "lb_cl",
    "am_lora": "am_lora",
    "am_lora keep_gates=5": "am_lora, keep_gates=5",
    "AM-LoRA, naive": "AM-LoRA as its equations read",
    "PEFT with all adapters active": "PEFT, all adapters active",
}
"""What the plot shows, and its names there."""


def draw(found: dict[str, Any], file: Path) -> None:
    """The medians of the steps over N, with their ranges."""
    points: dict[str, dict[int, list[float]]] = {}
    for one in found["parts"]["steps"]:
        if match := re.fullmatch(r"(.*), N=(\d+)", one["name"]):
            points.setdefault(match[1], {})[int(match[2])] = one["ratios"]
    mpl.rcParams["svg.hashsalt"] = "nacre"  # the same file from the same numbers
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for name, label in LINES.items():
        past = sorted(points.get(name, {}))
        middle = [statistics.median(points[name][n]) for n in past]
        low = [m - min(points[name][n]) for m, n in zip(middle, past, strict=True)]
        high = [max(points[name][n]) - m for m, n in zip(middle, past, strict=True)]
        axes.errorbar(past, middle, [low, high], label=label, marker="o", markersize=4, capsize=2)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="past tasks N", ylabel="training step / PEFT LoRA r=8")
    axes.set_xticks([1, 5, 15, 50], ["1", "5", "15", "50"])
    axes.set_yticks([0.9, 1, 1.2, 1.5, 2, 3, 5, 8], ["0.9", "1", "1.2", "1.5", "2", "3", "5", "8"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
