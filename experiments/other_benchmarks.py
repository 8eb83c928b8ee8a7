"""One run each of the streams beside order1 to order6, on small real models: docs/results.md's last section.

    python experiments/other_benchmarks.py run --data $NACRE_DATA --models MODELS --work FOLDER
    python experiments/other_benchmarks.py table

``run`` carries out what is not done yet; stopped at any moment, the same command goes on. Each finished run adds one
line to docs/results/other_benchmarks.jsonl, with its command. ``table`` writes their matrices into the page.
They show that the streams run and what their numbers look like; methods are not compared.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from recorded_runs import add_line, carry_out, failure, read_lines
from results_page import write_between

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "results" / "other_benchmarks.jsonl"

RUNS: dict[str, list[str]] = {
    "das": [
        *("--method", "seq_ft", "--data", "{data}/das", "--model", "{models}/minilm-l6"),
        *("--limit-train", "200", "--limit-test", "40"),
        *("--set", "optim.batch_size=16", "--set", "optim.max_source_length=164", "--set", "matrix=seen"),
        *("--set", "end_tasks.limit_train=64", "--set", "end_tasks.limit_test=100"),
        *("--set", "end_tasks.seeds=[2021, 111]"),
    ],
    "trace": [
        *("--method", "seq_lora", "--data", "{data}/trace", "--model", "{models}/stories260k"),
        *("--limit-train", "200", "--limit-test", "25"),
        *("--set", "optim.max_source_length=384", "--set", "optim.max_target_length=64", "--set", "matrix=seen"),
    ],
    "superni1": [
        *("--method", "seq_lora", "--data", "{data}/superni", "--model", "{models}/minilm-b2b"),
        *("--limit-train", "48", "--limit-test", "10"),
        *("--set", "optim.batch_size=8", "--set", "optim.max_source_length=384", "--set", "optim.max_target_length=32"),
        *("--set", "matrix=seen", "--set", "model_dropout=0.0"),
    ],
    "instruction": [
        *("--method", "seq_lora", "--data", "{data}/instruction", "--model", "{models}/stories260k"),
        *("--limit-train", "1000", "--limit-test", "50"),
        *("--set", "base_ability.data={data}/base_ability", "--set", "base_ability.limit=100"),
    ],
}
"""What is behind ``nacre run --stream NAME``."""


def run_all(streams: list[str], data: str, models: str, work: Path) -> None:
    for name in streams:
        if name in read_lines(LINES, "stream"):
            continue
        words = RUNS[name]
        filled = [word.format(data=data, models=models) for word in words]
        finished = carry_out(["nacre", "run", "--stream", name, *filled], work / name)
        if finished.returncode:
            print(failure(finished, name), flush=True)
            continue
        shown = shlex.join(["nacre", "run", "--stream", name, *(w.format(data="DATA", models="MODELS") for w in words)])
        add_line(LINES, {"stream": name, "command": shown, **_kept(json.loads(finished.stdout))})
        print(f"done {name}", flush=True)


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    ends, able = record["end_tasks"], record["base_ability"]
    return {
        **{key: record[key] for key in ("tasks", "matrix", "perplexity", "seconds", "training")},
        "metrics": [task["metric"] for task in record["protocol"]["tasks"]],
        "average": record["average_accuracy"],
        "base_ability": able and [one for one in able["results"] if one["changes"] is not None],
        "end_tasks": ends and {"averages": ends["averages"], "seconds": sum(one["seconds"] for one in ends["results"])},
    }


def section(line: dict[str, Any]) -> str:
    seconds = line["seconds"]
    times = [sum(second or 0 for second in seconds[what]) for what in ("train", "evaluate")]
    parts = [
        f"### {line['stream']}",
        f"```\n{line['command']}\n```",
        f"{times[0]:.0f} s of training, {times[1]:.0f} s of evaluation; "
        f"{100 * line['training']['padding_share']:.1f} % padding.",
        "Scores in %: " + ", ".join(f"{n} {t} ({m})" for n, (t, m) in enumerate(_columns(line), start=1)) + ".",
        _matrix(line["matrix"], lambda value: f"{100 * value:.1f}"),
    ]
    if line["perplexity"]:
        parts += ["Perplexity:", _matrix(line["perplexity"], lambda value: f"{value:.4g}")]
    if line["end_tasks"]:
        (average,) = line["end_tasks"]["averages"]
        parts.append(
            f"End tasks after {average['after']}, mean over tasks, then ± over seeds: F1 {100 * average['f1']:.1f} ± "
            f"{100 * average['f1_deviation']:.1f}, accuracy {100 * average['accuracy']:.1f} ± "
            f"{100 * average['accuracy_deviation']:.1f}; {line['end_tasks']['seconds']:.0f} s."
        )
    if line["base_ability"]:
        changes = [
            f"{one['task']} {metric} {100 * score['value']:.1f} ({100 * one['changes'][metric]['value']:+.1f} ± "
            f"{100 * one['changes'][metric]['standard_error']:.1f})"
            for one in line["base_ability"]
            for metric, score in one["scores"].items()
        ]
        parts.append(
            f"Base ability after it, change and its standard error, {line['base_ability'][0]['rows']} rows each: "
            + ", ".join(changes)
            + "."
        )
    return "\n\n".join(parts)


def _columns(line: dict[str, Any]) -> list[tuple[str, str]]:
    return list(zip(line["tasks"], line["metrics"], strict=True))


def _matrix(matrix: list[list[float | None]], text: Any) -> str:
    rows = [f"| after | {' | '.join(str(number + 1) for number in range(len(matrix[0])))} |"]
    rows.append("|---" * (len(matrix[0]) + 1) + "|")
    for number, row in enumerate(matrix):
        if any(value is not None for value in row):
            cells = ["" if value is None else text(value) for value in row]
            rows.append(f"| {number or '-'} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--data", required=True)
    run.add_argument("--models", required=True)
    run.add_argument("--work", required=True, type=Path, help="where the run folders go")
    run.add_argument("--streams", nargs="+", choices=RUNS, default=list(RUNS), help="these only")
    commands.add_parser("table")
    chosen = parser.parse_args()
    if chosen.command == "run":
        run_all(chosen.streams, chosen.data, chosen.models, chosen.work)
    else:
        sections = "\n\n".join(section(line) for line in read_lines(LINES, "stream").values())
        write_between("<!-- other benchmarks -->", "<!-- end of other benchmarks -->", sections)


if __name__ == "__main__":
    main()
