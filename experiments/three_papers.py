"""The methods of the three papers on real data at small scale: most tables of docs/results.md come from here.

    for grid in experiments/grids/*.yaml; do nacre sweep $grid --jobs 2; done
    python experiments/three_papers.py collect sweeps
    python experiments/three_papers.py table

The grids say what is run, and ``nacre sweep`` carries it out. ``collect`` adds a line of each finished run to
docs/results/three_papers.jsonl, and ``table`` writes the page's tables from those lines. ``labels FOLDER`` prints the
average of a finished run when its last learner chooses the most likely label instead of writing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from finished_runs import FinishedRun, commands_of_sweeps, finished_runs
from recorded_runs import ONE_THREAD, add_line, read_lines
from results_page import percent, write_between

from nacre.evaluation.scoring import score
from nacre.evaluation.settings import Decoding
from nacre.learning.learner import Learner
from nacre.models.loading import load_host
from nacre.runs.recipe import read_recipe
from nacre.sweeps.grid import SweepSettings, read_grid

ROOT = Path(__file__).resolve().parent.parent
GRIDS = ROOT / "experiments" / "grids"
LINES = ROOT / "docs" / "results" / "three_papers.jsonl"

Line = Mapping[str, Any]

PAPERS = ("order1", "order1_one_seed", "order1_joint")
COMPARED_WITH = ("order1_prompts", "order1_baselines")
"""The grids of order1: those of the papers' methods, and those of the other systems that they compare with."""
WITHOUT_CHANGE = {"AM-LoRA": ("AR, L1", "am_lora"), "LB-CL": ("LB-CL", "lb_cl")}
WITHOUT_CHANGE |= {"MIGU on seq_lora, threshold": ("0.7", "seq_lora+migu")}
"""The row of each ablation that is the method itself, whose first seed stands in the main table."""


@cache
def grid_of(name: str) -> SweepSettings:
    """One of the grids."""
    return read_grid(GRIDS / f"{name}.yaml")


def methods_of(*grids: str) -> list[str]:
    """The methods that grids vary, in their order."""
    return [method for name in grids for method in grid_of(name).axes["method"]]


def rates_of(method: str) -> Sequence[float]:
    """What the method's rate is chosen from; nothing if no grid has it."""
    for name in (*PAPERS, *COMPARED_WITH):
        choose = grid_of(name).choose
        if method in methods_of(name) and choose is not None:
            return choose.vary["optim.learning_rate"]
    return ()


def tried(done: Mapping[str, Line], method: str) -> dict[float, float]:
    """What each rate that was tried for a method reaches on validation rows.

    Joint training has one stage, and no accuracy along the way.
    """
    return {
        line["rate"]: line["average"] if line["incremental_accuracy"] is None else line["incremental_accuracy"]
        for line in done.values()
        if _is(line, "selection", method)
    }


def collect(sweeps: Path) -> None:
    """Add a line of each finished run that has none."""
    there = {(line["part"], line["label"], line["seed"], line["rate"]) for line in read_lines(LINES).values()}
    for name in (*PAPERS, *COMPARED_WITH, "order4", "ablations"):
        for run in finished_runs(sweeps / name):
            line = line_of(name, run)
            if (line["part"], line["label"], line["seed"], line["rate"]) in there:
                continue
            if line["part"] == "order1":
                words = [sys.executable, __file__, "labels", str(run.folder)]
                scored = subprocess.run(words, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, check=True)
                line["label_average"] = float(scored.stdout)
            add_line(LINES, line)
            print(f"added {line['folder']}", flush=True)


def line_of(grid: str, run: FinishedRun) -> dict[str, Any]:
    """What is kept of a run. part: which table it belongs to; label: its row there."""
    part, label = grid.partition("_")[0], run.record.method
    if run.chooses:
        part = "selection"
    elif grid == "ablations":
        paper, _, label = run.names["variant"].partition(": ")
        part = f"ablation of {paper}"
    return {"folder": f"{grid}/{run.name}", "part": part, "label": label, **run.kept}


def label_average(folder: Path) -> float:
    """The average over tasks of a finished run's last learner, which chooses the most likely label of each task."""
    recipe = read_recipe(folder / "recipe.yaml", {}, [])
    host = load_host(recipe.model, dropout=recipe.model_dropout)
    last = sorted((folder / "tasks").iterdir())[-1]
    learner = Learner.load(last, host)
    learner.decoding = Decoding(decode="labels")
    tasks = recipe.tasks()
    scores = [score(task, answers).value for task, answers in zip(tasks, learner.answer(tasks), strict=True)]
    return statistics.mean(scores)


def _is(line: Line, part: str, label: str) -> bool:
    return bool(line["part"] == part and line["label"] == label)


def tables() -> str:
    done = list(read_lines(LINES).values())
    rows = "4 tasks, 500 training and 500 test rows each"
    parts = [_table(done, "order1", methods_of(*PAPERS), f"order1: {rows}")]
    parts.append(_table(done, "order1", methods_of(*COMPARED_WITH), f"order1, the systems they compare with: {rows}"))
    order4 = "order4: 15 tasks, 200 training and 100 test rows each"
    parts.append(_table(done, "order4", methods_of("order4"), order4))
    for paper, (unchanged, _) in WITHOUT_CHANGE.items():
        named = [name.partition(": ") for name in grid_of("ablations").axes["variant"]]
        labels = [label for start, _, label in named if start == paper]
        parts.append(_table(done, f"ablation of {paper}", [unchanged, *labels], f"{paper}, order1"))
    parts.append(_selection(done))
    return "\n\n".join(part for part in parts if part)


def _table(done: Sequence[Line], part: str, labels: Sequence[str], title: str) -> str:
    found = {
        label: [line for line in done if _is(line, part, label)] or _first_seed(done, part, label) for label in labels
    }
    by_labels = any("label_average" in line for lines in found.values() for line in lines)
    scores = {"average": "average", **({"label_average": "by labels"} if by_labels else {})}
    scores |= {"learning": "learning", "forgetting": "forgetting"}
    head = ["", "seeds", "rate", *scores.values(), "train s", "evaluate s"]
    rows = [f"### {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for label, lines in found.items():
        if not lines:
            continue
        cells = [label, str(len(lines)), f"{lines[0]['rate']:g}"]
        cells += [percent([line.get(key) for line in lines]) for key in scores]
        cells += [
            f"{statistics.mean(line[key] for line in lines):.0f}" for key in ("train_seconds", "evaluate_seconds")
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if len(rows) > 4 else ""  # nothing of it has been run yet


def _first_seed(done: Sequence[Line], part: str, label: str) -> list[Line]:
    unchanged, method = WITHOUT_CHANGE.get(part.removeprefix("ablation of "), ("", ""))
    return [line for line in done if label == unchanged and _is(line, "order1", method) and line["seed"] == 1]


def _selection(done: Sequence[Line]) -> str:
    head = "### The learning rates: validation rows of dbpedia and amazon, incremental accuracy (average after both)"
    methods = methods_of(*PAPERS, *COMPARED_WITH)
    grid = sorted({rate for method in methods for rate in rates_of(method)})
    rows = [head, "", f"| | {' | '.join(f'{rate:g}' for rate in grid)} |", "|---" * (len(grid) + 1) + "|"]
    for method in methods:
        found = {line["rate"]: line for line in done if _is(line, "selection", method)}
        cells = [
            f"{percent([found[rate]['incremental_accuracy']])} ({percent([found[rate]['average']])})"
            if rate in found
            else ""
            for rate in grid
        ]
        if found:
            rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser, commands = commands_of_sweeps(__doc__)
    commands.add_parser("labels").add_argument("folder", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "collect":
        collect(chosen.sweeps)
    elif chosen.command == "labels":
        print(label_average(chosen.folder))
    else:
        write_between("<!-- tables -->", "<!-- end of tables -->", tables())


if __name__ == "__main__":
    main()
