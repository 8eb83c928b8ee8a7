"""The demo: four methods on the embedded stream and model, and one page that shows them side by side."""

from __future__ import annotations

from pathlib import Path

import torch

from nacre.events import OnEvent
from nacre.learning.settings import Optim
from nacre.records.run import RunRecord
from nacre.records.view import RunView
from nacre.report import write_report
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

DEMO_METHODS = ("seq_lora", "am_lora", "nacre", "joint")
OPTIM = Optim(learning_rate=2e-3, epochs=2)


def run_demo(output: Path, on_event: OnEvent) -> tuple[list[RunRecord], Path]:
    """Run the four methods, or read those that are finished.

    Args:
        output: The folder for the runs and the page.
        on_event: Is called with what happens.

    Returns:
        The methods' records, and the page's path.
    """
    # So small a model gains nothing from a second thread, and its numbers are then the same on any number of cores.
    torch.set_num_threads(1)
    records = []
    for method in DEMO_METHODS:
        # The bound is trained at the same capacity as the others: a LoRA, not the whole model.
        parameters = {"train": "lora"} if method == "joint" else {}
        recipe = Recipe(method=method, optim=OPTIM, output=str(output / method), set=parameters)
        records.append(run(recipe, on_event))
    page = output / "report.html"
    write_report(page, [RunView(record) for record in records])
    return records, page
