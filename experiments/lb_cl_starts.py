"""LB-CL's starts and its ablation on order1 and order4, at rates that were chosen where accumulation can be seen.

    python experiments/lb_cl_starts.py estimate
    python experiments/lb_cl_starts.py run --data $NACRE_DATA/long_sequence --model PATH/minilm-b2b --work FOLDER
    python experiments/lb_cl_starts.py table

The protocol is that of experiments/three_papers.py, but for the learning rates. There a rate was chosen on two tasks by
what a stream scores on the way. A start that adds earlier updates once more does harm that grows with the number of
tasks, which that rule cannot see. Here each variant and stream takes the rate of RATES with the best average over all
tasks after the stream's LAST task, on validation rows, seed 1; the smaller rate if two are equal.

``run`` carries out what is not done yet, one run after the other, with one thread; stopped at any moment, the same
command goes on. With other variants named after ``--only``, a second one runs beside it. A run that ends with exit code
124, as under a ``timeout`` in the environment variable NACRE, is taken up again where it was, as long as it gets on.
Each finished run adds one line to docs/results/lb_cl_starts.jsonl, with its command. ``table`` writes docs/results.md's
tables from those lines; ``estimate`` says what is left, and its cost.
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recorded_runs import add_line, carry_out, commands_of, failure, first_left, read_lines
from results_page import percent, write_between
from three_papers import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "results" / "lb_cl_starts.jsonl"

RATES = (2e-3, 5e-3, 1e-2)  # around 5e-3, the edge of the grid of docs/results.md and its best rate for LB-CL
VARIANTS: dict[str, tuple[str, ...]] = {
    "LB-CL": (),
    "LB-CL, start to the letter": ("sigma=average",),
    "L-CL": ("variant=l_cl",),
    "B-CL": ("variant=b_cl",),
    "NLNB-CL": ("variant=nlnb_cl",),
}
SIZES = {"order1": (500, 500, 200), "order4": (200, 100, 50)}
"""Training, test and validation rows of a task."""
SEEDS = {"order1": (1, 2, 3), "order4": (1,)}
SECONDS = {("order1", "choice"): 205, ("order1", "test"): 360, ("order4", "choice"): 300, ("order4", "test"): 600}
"""What a run takes on one core, from the times in docs/results.md; measured ones replace them as they come."""


@dataclass(frozen=True)
class Item:
    """One run. kind: `choice`, of a rate on validation rows, or `test`."""

    stream: str
    kind: str
    label: str
    seed: int
    rate: float

    @property
    def folder(self) -> str:
        variant = "".join(f"-{setting}" for setting in VARIANTS[self.label])
        return f"{self.stream}-{self.kind}/lb_cl{variant}-rate{self.rate:g}-seed{self.seed}"

    def command(self, data: str, model: str) -> list[str]:
        train, test, validation = SIZES[self.stream]
        rows = ["--limit-train", str(train), "--limit-test", str(test if self.kind == "test" else validation)]
        settings = [setting for setting in SETTINGS if not setting.startswith("matrix=")]
        settings += [f"optim.learning_rate={self.rate:g}", *VARIANTS[self.label]]
        settings += ["matrix=seen"] if self.kind == "test" else ["matrix=last", "measure_on=validation"]
        return [
            "nacre", "run", "--method", "lb_cl", "--stream", self.stream, *rows, "--data", data, "--model", model,
            "--seed", str(self.seed), *(word for setting in settings for word in ("--set", setting)),
        ]  # fmt: skip


def items(done: dict[str, dict[str, Any]], *, rates_known: bool = True) -> Iterator[Item]:
    """Everything to run, in order of importance.

    Args:
        done: The lines of finished runs, by folder.
        rates_known: Whether test runs wait for their rate; otherwise they are listed with the first one, to be counted.
    """
    for stream in SIZES:
        for label in VARIANTS:
            for rate in RATES:
                yield Item(stream, "choice", label, 1, rate)
        for seed in SEEDS[stream]:
            for label in VARIANTS:
                rate_or_none = chosen_rate(done, stream, label) if rates_known else RATES[0]
                if rate_or_none is not None:
                    yield Item(stream, "test", label, seed, rate_or_none)


def chosen_rate(done: dict[str, dict[str, Any]], stream: str, label: str) -> float | None:
    """The rule above; None while a rate has not been tried."""
    tried = {line["rate"]: line["average"] for line in done.values() if _is(line, stream, "choice", label)}
    return max(sorted(tried), key=lambda rate: tried[rate]) if len(tried) == len(RATES) else None


def run_all(data: str, model: str, work: Path, only: Sequence[str]) -> None:
    failed: set[str] = set()
    while (item := _next(failed, only)) is not None:
        record = carried_out(item, data, model, work)
        if record is None:
            failed.add(item.folder)
            continue
        add_line(LINES, _line(item, record))
        print(f"done {item.folder}: {percent([record['average_accuracy']])}", flush=True)


def _next(failed: set[str], only: Sequence[str]) -> Item | None:
    done = read_lines(LINES)
    return first_left(items(done), done.keys() | failed, only, "label")


def carried_out(item: Item, data: str, model: str, work: Path) -> dict[str, Any] | None:
    """The run's record; None if it failed, or was stopped without having got on."""
    output = work / item.folder
    files_before = -1
    while True:
        ended = carry_out(item.command(data, model), output)
        if ended.returncode == 0:
            found: dict[str, Any] = json.loads(ended.stdout)
            return found
        files = len(list(output.glob("tasks/*/*.json")))
        if ended.returncode != 124 or files <= files_before:
            print(failure(ended, item.folder), flush=True)
            return None
        files_before = files


def _line(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "folder": item.folder,
        "stream": item.stream,
        "kind": item.kind,
        "label": item.label,
        "seed": item.seed,
        "rate": item.rate,
        "average": record["average_accuracy"],
        "learning": record["learning_accuracy"],
        "forgetting": record["forgetting"],
        "matrix": record["matrix"],
        "train_seconds": sum(seconds or 0 for seconds in record["seconds"]["train"]),
        "evaluate_seconds": sum(seconds or 0 for seconds in record["seconds"]["evaluate"]),
        "command": shlex.join(item.command("DATA", "minilm-b2b")),
    }


def _is(line: dict[str, Any], stream: str, kind: str, label: str) -> bool:
    return (line["stream"], line["kind"], line["label"]) == (stream, kind, label)


def estimate() -> str:
    done = read_lines(LINES)
    left = dict.fromkeys(SECONDS, 0)
    for item in items(done, rates_known=False):
        left[item.stream, item.kind] += 1
    for line in done.values():
        left[line["stream"], line["kind"]] -= 1
    lines, whole = [], 0.0
    for (stream, kind), number in left.items():
        measured = [
            line["train_seconds"] + line["evaluate_seconds"]
            for line in done.values()
            if (line["stream"], line["kind"]) == (stream, kind)
        ]
        seconds = statistics.mean(measured) if measured else SECONDS[stream, kind]
        whole += number * seconds
        lines.append(f"{stream}, {kind}: {number} runs left of {seconds:.0f} s")
    return "\n".join([*lines, f"together {whole / 3600:.1f} hours on one core"])


def tables() -> str:
    done = list(read_lines(LINES).values())
    parts = []
    for stream, (train, test, validation) in SIZES.items():
        if any(line["stream"] == stream and line["kind"] == "test" for line in done):
            rows = [f"### LB-CL's starts, {stream}: {train} training and {test} test rows a task", ""]
            rows += ["|  | seeds | rate | average | learning | forgetting |", "|---|---|---|---|---|---|"]
            for label in VARIANTS:
                lines = [line for line in done if _is(line, stream, "test", label)]
                if lines:
                    scores = [percent([line[key] for line in lines]) for key in ("average", "learning", "forgetting")]
                    rows.append(f"| {label} | {len(lines)} | {lines[0]['rate']:g} | {' | '.join(scores)} |")
            parts.append("\n".join(rows))
        choices = [line for line in done if line["stream"] == stream and line["kind"] == "choice"]
        if choices:
            rows = [f"### Their rates, {stream}: average after the last task, {validation} validation rows a task", ""]
            rows += [f"| | {' | '.join(f'{rate:g}' for rate in RATES)} |", "|---" * (len(RATES) + 1) + "|"]
            for label in VARIANTS:
                tried = {line["rate"]: line["average"] for line in choices if line["label"] == label}
                cells = [percent([tried[rate]]) if rate in tried else "" for rate in RATES]
                rows.append(f"| {label} | {' | '.join(cells)} |")
            parts.append("\n".join(rows))
    number = len(list(items({}, rates_known=False)))
    if len(done) < number:
        parts.insert(0, f"So far {len(done)} of {number} runs are done.")
    return "\n\n".join(parts)


def main() -> None:
    parser, commands, run = commands_of(__doc__)
    run.add_argument("--only", nargs="*", choices=VARIANTS, default=[], help="these variants only")
    commands.add_parser("estimate")
    chosen = parser.parse_args()
    if chosen.command == "run":
        run_all(chosen.data, chosen.model, chosen.work, chosen.only)
    elif chosen.command == "estimate":
        print(estimate())
    else:
        write_between("<!-- LB-CL's starts -->", "<!-- end of LB-CL's starts -->", tables())


if __name__ == "__main__":
    main()
