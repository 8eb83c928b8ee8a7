"""LB-CL's starts and its ablation on order1 and order4, at rates that were chosen where accumulation can be seen.

    nacre sweep experiments/grids/lb_cl_starts_order1.yaml --jobs 2       # and lb_cl_starts_order4.yaml
    python experiments/lb_cl_starts.py collect sweeps
    python experiments/lb_cl_starts.py table

The grids say what is run, and how rates are chosen. ``collect`` adds a line of each finished run to
docs/results/lb_cl_starts.jsonl, and ``table`` writes docs/results.md's tables from those lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finished_runs import commands_of_sweeps, finished_runs
from recorded_runs import add_line, read_lines
from results_page import percent, write_between
from three_papers import ROOT, grid_of

LINES = ROOT / "docs" / "results" / "lb_cl_starts.jsonl"
STREAMS = ("order1", "order4")
KEYS = ("stream", "kind", "label", "seed", "rate")
"""What tells a line apart. kind: `choice`, of a rate on validation rows, or `test`."""


def collect(sweeps: Path) -> None:
    """Add a line of each finished run that has none."""
    there = {tuple(line[key] for key in KEYS) for line in read_lines(LINES).values()}
    for stream in STREAMS:
        for run in finished_runs(sweeps / f"lb_cl_starts_{stream}"):
            kind = "choice" if run.chooses else "test"
            line = {"folder": f"{stream}/{run.name}", "stream": stream, "kind": kind, "label": run.names["variant"]}
            line |= run.kept
            if tuple(line[key] for key in KEYS) not in there:
                add_line(LINES, line)
                print(f"added {line['folder']}", flush=True)


def _is(line: Mapping[str, Any], stream: str, kind: str, label: str) -> bool:
    return (line["stream"], line["kind"], line["label"]) == (stream, kind, label)


def tables() -> str:
    done = list(read_lines(LINES).values())
    parts = []
    for stream in STREAMS:
        grid = grid_of(f"lb_cl_starts_{stream}")
        train, test = (grid.recipe[key] for key in ("limit_train", "limit_test"))
        variants = grid.axes["variant"]
        if any(line["stream"] == stream and line["kind"] == "test" for line in done):
            rows = [f"### LB-CL's starts, {stream}: {train} training and {test} test rows a task", ""]
            rows += ["|  | seeds | rate | average | learning | forgetting |", "|---|---|---|---|---|---|"]
            for label in variants:
                lines = [line for line in done if _is(line, stream, "test", label)]
                if lines:
                    scores = [percent([line[key] for line in lines]) for key in ("average", "learning", "forgetting")]
                    rows.append(f"| {label} | {len(lines)} | {lines[0]['rate']:g} | {' | '.join(scores)} |")
            parts.append("\n".join(rows))
        assert grid.choose is not None  # these grids choose rates
        rates, validation = grid.choose.vary["optim.learning_rate"], grid.choose.with_["limit_test"]
        rows = [f"### Their rates, {stream}: average after the last task, {validation} validation rows a task", ""]
        rows += [f"| | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---" * (len(rates) + 1) + "|"]
        for label in variants:
            tried = {line["rate"]: line["average"] for line in done if _is(line, stream, "choice", label)}
            cells = [percent([tried[rate]]) if rate in tried else "" for rate in rates]
            rows.append(f"| {label} | {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def main() -> None:
    parser, _ = commands_of_sweeps(__doc__)
    chosen = parser.parse_args()
    if chosen.command == "collect":
        collect(chosen.sweeps)
    else:
        write_between("<!-- LB-CL's starts -->", "<!-- end of LB-CL's starts -->", tables())


if __name__ == "__main__":
    main()
