"""Figures of what happens inside a learner, layer by layer: gates, magnitudes, sensitivities."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nacre.report.drawing import COLORS, empty_plots

InsideDocument = Mapping[str, Any]
"""What was measured, as the JSON file beside the figure holds it."""
Curve = Mapping[int, float]
"""By layer."""

MARKED = ("o", "s", "^", "D", "v", "P", "X")
"""Marks of lines, each once for every color."""


def gates_figure(document: InsideDocument, task: str) -> Any:
    """The mean gate of each task's LoRA, from layer to layer, a plot for each kind of map (AM-LoRA's Figure 4).

    Args:
        document: A stage's `gates.json`.
        task: Whose rows; one of the document's tasks.

    Returns:
        matplotlib's figure.
    """
    by_kind: dict[str, dict[str, dict[int, float]]] = {}
    for site in document["tasks"][task]:
        if site["layer"] is None:
            continue
        shares = [*site["gates"], *([] if site["zero"] is None else [("zero LoRA", site["zero"])])]
        for name, share in shares:
            by_kind.setdefault(_kind_in_stack(site), {}).setdefault(name, {})[site["layer"]] = share
    across = min(3, len(by_kind))
    down = -(-len(by_kind) // across)
    figure, plots = empty_plots(down, across, width=3.6 * across + 2)
    for plot, (kind, curves) in zip(plots, by_kind.items(), strict=False):
        _draw(plot, curves, kind)
    for plot in plots[len(by_kind) :]:
        plot.set_axis_off()
    plots[0].set_ylabel("mean gate")
    return _entitled(figure, plots[0], f"Gates on {document['rows']} test rows of {task}")


def magnitudes_figure(document: InsideDocument) -> Any:
    """Where tasks have the same large features, and how large these are at one map (MIGU's Figures 1 and 5).

    Args:
        document: `measuring/task_magnitudes.TaskMagnitudes` as a dictionary.

    Returns:
        matplotlib's figure.
    """
    tasks, threshold = document["tasks"], document["threshold"]
    shown = next(site for site in document["sites"] if site["site"] == document["shown"])
    figure, (sizes, matrix, layers) = empty_plots(1, 3, width=15, share_heights=False)
    order = sorted(range(len(document["magnitudes"][0])), key=lambda j: -document["magnitudes"][0][j])
    for task, own, color in zip(tasks, document["magnitudes"], itertools.cycle(COLORS), strict=False):
        sizes.plot([own[j] for j in order], color=color, alpha=0.7, linewidth=0.8, label=task)
    sizes.set_yscale("log")
    sizes.set_xlabel(f"features, the largest on {tasks[0]} first")
    sizes.set_ylabel("mean magnitude")
    sizes.set_title(document["shown"], fontsize="small")
    sizes.legend(fontsize="small", frameon=False)
    matrix.imshow(shown["overlaps"], vmin=0, vmax=1, cmap="Blues")
    matrix.grid(visible=False)
    matrix.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
    matrix.set_yticks(range(len(tasks)), tasks)
    for row, column in itertools.product(range(len(tasks)), repeat=2):
        share = shown["overlaps"][row][column]
        matrix.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.6 else "black")
    matrix.set_title(f"both among the largest {1 - threshold:.0%} (by chance {shown['chance']:.2f})", fontsize="small")
    _draw(layers, _by_kind(document["sites"], _between_tasks), "")
    layers.axhline(shown["chance"], color="black", linestyle=":", linewidth=0.8)
    layers.set_ylabel("mean overlap of two tasks")
    return _entitled(figure, layers, f"Output magnitudes on {document['rows']} test rows of each task")


def sensitivity_figure(document: InsideDocument) -> Any:
    """Sensitivity and Fisher information from layer to layer, as means over tasks and slots (LB-CL's layers).

    Args:
        document: `rows`, and `sites`: every `measuring/slot_sensitivities.SiteSensitivity` as a dictionary.

    Returns:
        matplotlib's figure.
    """
    figure, plots = empty_plots(1, 2, width=12, share_heights=False)
    titles = {"sensitivity": "sensitivity of a triplet", "fisher": "Fisher information of an entry"}
    for plot, (key, title) in zip(plots, titles.items(), strict=True):
        _draw(plot, _by_kind(document["sites"], lambda site, key=key: statistics.mean(site[key])), title)
        plot.set_yscale("log")
    return _entitled(figure, plots[0], f"On {document['rows']} training rows of each task, mean over tasks and slots")


def _by_kind(sites: Iterable[InsideDocument], value: Any) -> dict[str, Curve]:
    """The mean of a value over the sites of each kind of map in each layer."""
    values: dict[str, dict[int, list[float]]] = {}
    for site in sites:
        if site["layer"] is not None:
            values.setdefault(_kind_in_stack(site), {}).setdefault(site["layer"], []).append(value(site))
    return {
        kind: {layer: statistics.mean(own) for layer, own in sorted(layers.items())} for kind, layers in values.items()
    }


def _between_tasks(site: InsideDocument) -> float:
    overlaps: Sequence[Sequence[float]] = site["overlaps"]
    return statistics.mean(overlaps[one][other] for one, other in itertools.combinations(range(len(overlaps)), 2))


def _kind_in_stack(site: InsideDocument) -> str:
    """A site's name without its layer's number: `encoder SelfAttention.q`."""
    name, stack = site["site"], site["stack"]
    _, _, behind = name.removeprefix(f"{stack}.").partition(".")
    words = [word for word in behind.split(".") if not word.isdigit() and word != "layer"]
    first = next((word for word in stack.split(".") if word in ("encoder", "decoder")), "")
    return f"{first} {'.'.join(words)}".strip()


def _draw(plot: Any, curves: Mapping[str, Curve], title: str) -> None:
    """A line for each curve over the layers."""
    looks = itertools.product(MARKED, COLORS)
    for (name, curve), (mark, color) in zip(curves.items(), looks, strict=False):
        plot.plot(curve.keys(), curve.values(), f"{mark}-", color=color, markersize=4, linewidth=1, label=name)
    plot.xaxis.get_major_locator().set_params(integer=True)
    plot.set_xlabel("layer")
    plot.set_title(title, fontsize="small")


def _entitled(figure: Any, plot: Any, title: str) -> Any:
    """The figure with one legend, that of a plot, and a title."""
    lines, labels = plot.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside right upper", fontsize="small", frameon=False)
    figure.suptitle(title, fontsize="medium")
    return figure
