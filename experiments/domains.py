"""Continual pre-training on the six domains of order 7, then their end tasks: MIGU's Tables 3 and 9 at small scale.

    python experiments/domains.py run --data $NACRE_DATA/das --model PATH/minilm-l6 --work FOLDER
    python experiments/domains.py table

Three things are tried in turn. First the rate that copies are fine-tuned with, on the host as it came, so that it
favors no method: the best mean F1 of the six end tasks. Then each method's rate on the domains: the lowest perplexity,
mean of the logarithms over the domains after the last one, on validation texts. Then each method once at its rate,
with its end tasks. ``run`` carries out what is not done yet, one run after the other, with one thread; stopped at any
moment, the same command goes on. With other methods named after ``--only``, a second one runs beside it. Each finished
run adds one line to docs/results/domains.jsonl, with its command.
``table`` writes docs/results.md's tables from those lines.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recorded_runs import add_line, carry_out, commands_of, failure, first_left, read_lines
from results_page import write_between

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "results" / "domains.jsonl"

METHODS = ("seq_ft", "seq_ft+migu", "adapter", "hat_adapter", "demix", "der_pp", "das")
RATES = (1e-4, 1e-3)  # 1e-4 is published for all of them; small adapters hardly move at it in so few steps
FINE_TUNING_RATES = (3e-5, 1e-4, 3e-4)  # 3e-5 is published, for a larger model and ten times the steps
SETTINGS = ("optim.batch_size=8", "optim.max_source_length=164")
END_TASKS = ("end_tasks.limit_train=200", "end_tasks.limit_test=300")
SEEDS = "end_tasks.seeds=[2021, 111]"


@dataclass(frozen=True)
class Item:
    """One run. kind: `fine-tuning`, `choice` of the rate on the domains, or `test`."""

    kind: str
    method: str
    rate: float
    fine_tuning_rate: float | None = None

    @property
    def folder(self) -> str:
        end = "" if self.kind != "fine-tuning" else f"-end{self.fine_tuning_rate:g}"
        return f"{self.kind}/{self.method}-rate{self.rate:g}{end}"

    def command(self, data: str, model: str) -> list[str]:
        texts = {"fine-tuning": (20, 1), "choice": (100, 40), "test": (400, 40)}[self.kind]
        settings = [*SETTINGS, f"optim.learning_rate={self.rate:g}", "matrix=last"]
        if self.kind == "choice":
            settings += ["measure_on=validation", "end_tasks.after=never"]
        else:
            seeds = SEEDS if self.kind == "test" else "end_tasks.seeds=[2021]"
            settings += [*END_TASKS, seeds, f"end_tasks.learning_rate={self.fine_tuning_rate:g}"]
        return [
            *("nacre", "run", "--method", self.method, "--stream", "das", "--data", data, "--model", model),
            *("--limit-train", str(texts[0]), "--limit-test", str(texts[1])),
            *(word for setting in settings for word in ("--set", setting)),
        ]


def items(done: dict[str, dict[str, Any]]) -> Iterator[Item]:
    """Everything to run whose rates are known, in order of importance."""
    for rate in FINE_TUNING_RATES:
        yield Item("fine-tuning", "seq_ft", 1e-12, rate)  # at this rate the host stays as it came
    for method in METHODS:
        for rate in RATES:
            yield Item("choice", method, rate)
        end, chosen = fine_tuning_rate(done), chosen_rate(done, method)
        if end is not None and chosen is not None:
            yield Item("test", method, chosen, end)


def fine_tuning_rate(done: dict[str, dict[str, Any]]) -> float | None:
    """The best one on the host as it came; None while one has not been tried."""
    tried = {line["fine_tuning_rate"]: line["f1"] for line in done.values() if line["kind"] == "fine-tuning"}
    return max(sorted(tried), key=lambda rate: tried[rate]) if len(tried) == len(FINE_TUNING_RATES) else None


def chosen_rate(done: dict[str, dict[str, Any]], method: str) -> float | None:
    """The rate with the lowest perplexity on validation texts; None while one has not been tried."""
    tried = {
        line["rate"]: line["log_perplexity"]
        for line in done.values()
        if (line["kind"], line["method"]) == ("choice", method)
    }
    return min(sorted(tried), key=lambda rate: tried[rate]) if len(tried) == len(RATES) else None


def run_all(data: str, model: str, work: Path, only: Sequence[str]) -> None:
    failed: set[str] = set()
    while True:
        done = read_lines(LINES)
        item = first_left(items(done), done.keys() | failed, only, "method")
        if item is None:
            return
        ended = carry_out(item.command(data, model), work / item.folder)
        if ended.returncode:
            print(failure(ended, item.folder), flush=True)
            failed.add(item.folder)
            continue
        add_line(LINES, _line(item, json.loads(ended.stdout)))
        print(f"done {item.folder}", flush=True)


def _line(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    perplexity = record["perplexity"][-1]
    average = record["end_tasks"]["averages"][-1] if record["end_tasks"] else {}
    tasks: dict[str, dict[str, list[float]]] = {}
    for one in record["end_tasks"]["results"] if record["end_tasks"] else ():
        scores = tasks.setdefault(one["task"], {"f1": [], "accuracy": []})
        scores["f1"].append(one["f1"])
        scores["accuracy"].append(one["accuracy"])
    return {
        "folder": item.folder,
        "kind": item.kind,
        "method": item.method,
        "rate": item.rate,
        "fine_tuning_rate": item.fine_tuning_rate,
        "perplexity": perplexity,
        "log_perplexity": statistics.mean(math.log(value) for value in perplexity),
        **{key: average.get(key) for key in ("f1", "f1_deviation", "macro_f1", "accuracy", "accuracy_deviation")},
        "end_tasks": tasks,
        "domains": record["tasks"],
        "train_seconds": record["seconds"]["train"],
        "tokens": record["training"]["tokens"],
        "command": shlex.join(item.command("DATA/das", "minilm-l6")),
    }


def tables() -> str:
    done = list(read_lines(LINES).values())
    parts = [_scores([line for line in done if line["kind"] == "test"]), _seconds(done), _rates(done)]
    return "\n\n".join(part for part in parts if part)


def _scores(lines: list[dict[str, Any]]) -> str:
    if not lines:
        return ""
    tasks = list(lines[0]["end_tasks"])
    head = ["", "rate", "perplexity", "MF1", "accuracy", *tasks]
    rows = ["### Order 7: end tasks after the last domain", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in METHODS:
        for line in (line for line in lines if line["method"] == method):
            cells = [method, f"{line['rate']:g}", f"{math.exp(line['log_perplexity']):.1f}"]
            cells += [f"{100 * line[key]:.1f} ± {100 * line[f'{key}_deviation']:.1f}" for key in ("f1", "accuracy")]
            cells += [f"{100 * statistics.mean(line['end_tasks'][task]['f1']):.1f}" for task in tasks]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _seconds(done: list[dict[str, Any]]) -> str:
    lines = [line for line in done if line["kind"] == "test"]
    if not lines:
        return ""
    domains = [domain.removeprefix("corpus_") for domain in lines[0]["domains"]]
    head = ["", *domains, "median"]
    shared = "Wall time on a shared machine, where runs also stood still for a while; the median leaves that out."
    title = "### Order 7: seconds of training per domain"
    rows = [title, "", shared, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in METHODS:
        for line in (line for line in lines if line["method"] == method):
            seconds = [*line["train_seconds"], statistics.median(line["train_seconds"])]
            rows.append(f"| {method} | {' | '.join(f'{one:.0f}' for one in seconds)} |")
    return "\n".join(rows)


def _rates(done: list[dict[str, Any]]) -> str:
    tuned = {line["fine_tuning_rate"]: line["f1"] for line in done if line["kind"] == "fine-tuning"}
    choices = [line for line in done if line["kind"] == "choice"]
    if not choices:
        return ""
    shown = ", ".join(f"{rate:g}: {100 * tuned[rate]:.1f}" for rate in sorted(tuned))
    rows = ["### Order 7: how the rates were chosen", "", f"Fine-tuning the host as it came, MF1: {shown}.", ""]
    rows += ["Perplexity on validation texts after the last domain:", ""]
    rows += [f"| | {' | '.join(f'{rate:g}' for rate in RATES)} |", "|---" * (len(RATES) + 1) + "|"]
    for method in METHODS:
        tried = {line["rate"]: line["log_perplexity"] for line in choices if line["method"] == method}
        if tried:
            cells = [f"{math.exp(tried[rate]):.1f}" if rate in tried else "" for rate in RATES]
            rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser, _, run = commands_of(__doc__)
    run.add_argument("--only", nargs="*", default=[], help="these methods only")
    chosen = parser.parse_args()
    if chosen.command == "run":
        run_all(chosen.data, chosen.model, chosen.work, chosen.only)
    else:
        write_between("<!-- order 7 -->", "<!-- end of order 7 -->", tables())


if __name__ == "__main__":
    main()
