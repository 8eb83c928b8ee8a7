"""The methods of the three papers on real data at small scale: every number of docs/results.md comes from here.

    python experiments/three_papers.py run --data $NACRE_DATA/long_sequence --model PATH/minilm-b2b --work FOLDER
    python experiments/three_papers.py table

``run`` carries out what is not done yet, in order, two runs at a time with one thread each; stopped at any moment, the
same command goes on. Each finished run adds one line to docs/results/three_papers.jsonl, with its command.
``table`` writes docs/results.md's tables from those lines. ``labels FOLDER`` prints the average of a finished run when
its last learner chooses the most likely label instead of writing.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from recorded_runs import ONE_THREAD, add_line, carry_out, commands_of, failure, read_lines
from results_page import percent, write_between

from nacre.evaluation.scoring import score
from nacre.evaluation.settings import Decoding
from nacre.learning.learner import Learner
from nacre.models.loading import load_host
from nacre.registry import METHODS
from nacre.runs.recipe import read_recipe

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "results" / "three_papers.jsonl"

RATES = (1e-4, 1e-3, 5e-3)  # around what is published for full fine-tuning (1e-4) and for LoRA (1e-4, 1e-3)
SETTINGS = (
    "optim.batch_size=8",  # 63 steps a task of 500 rows: as many as the published batch of 64 takes on agnews
    "optim.max_source_length=128",
    "model_dropout=0.0",
    "matrix=seen",
)
THREE_SEEDS = ("seq_lora", "inc_lora", "o_lora", "am_lora", "lb_cl", "seq_lora+migu", "inc_lora+migu")
PROMPT_RATES = (5e-3, 5e-2, 0.3)  # prompt tuning's published rate is 0.3; at RATES a prompt hardly moves
PROMPTS = ("prog_prompt", "l2p", "lfpt5")
BASELINES = (
    *(*PROMPTS, "epi", "mocl", "sapt_lora", "moe_lora"),
    *("adapter", "hat", "hat_adapter", "demix", "der_pp", "das"),
)
"""The systems that the three papers compare with, beside those above; one seed each."""
ONE_SEED = ("seq_ft", "seq_ft+migu", "o_lora+migu", "replay", "lora_replay", "ewc", "joint")
PUBLISHED = {"o_lora+migu": ("migu.threshold=0.05",)}  # MIGU's own choice for O-LoRA; 0.7, the default, elsewhere
LONG = ("seq_lora", "o_lora", "am_lora", "lb_cl")
ABLATIONS = {
    "AM-LoRA": {
        "AR, L1": ("am_lora", ()),
        "AR": ("am_lora", ("sparsity=0",)),
        "NR, L1": ("am_lora", ("selectors=new",)),
        "NR": ("am_lora", ("selectors=new", "sparsity=0")),
    },
    "LB-CL": {
        "LB-CL": ("lb_cl", ()),
        "L-CL": ("lb_cl", ("variant=l_cl",)),
        "B-CL": ("lb_cl", ("variant=b_cl",)),
        "NLNB-CL": ("lb_cl", ("variant=nlnb_cl",)),
        "LB-CL, start without Σ": ("lb_cl", ("sigma=zero",)),
    },
    "MIGU on seq_lora, threshold": {
        "0": ("seq_lora+migu", ("migu.threshold=0",)),
        "0.4": ("seq_lora+migu", ("migu.threshold=0.4",)),
        "0.7": ("seq_lora+migu", ()),
        "0.95": ("seq_lora+migu", ("migu.threshold=0.95",)),
    },
}
"""A variant without settings of its own is the method itself, whose first seed stands in the main table already."""


@dataclass(frozen=True)
class Item:
    """One run. part: which table it belongs to; label: its row there."""

    part: str
    label: str
    method: str
    own: tuple[str, ...]
    seed: int
    rate: float

    @property
    def folder(self) -> str:
        settings = "".join(f"-{setting}" for setting in self.own)
        return f"{self.part}/{self.method}{settings}-rate{self.rate:g}-seed{self.seed}".replace(" ", "_")

    def command(self, data: str, model: str) -> list[str]:
        size = {
            "selection": ["--stream", "dbpedia,amazon", "--limit-train", "500", "--limit-test", "200"],
            "order4": ["--stream", "order4", "--limit-train", "200", "--limit-test", "100"],
        }.get(self.part, ["--stream", "order1", "--limit-train", "500", "--limit-test", "500"])
        settings = [*SETTINGS, f"optim.learning_rate={self.rate:g}", *self.own]
        if self.method == "lb_cl" and not any(setting.startswith("sigma=") for setting in self.own):
            settings.append("sigma=average")  # the start to the letter, which was the default when these runs were made
        if self.method == "sapt_lora":
            settings.append("inputs=real")  # the default when these runs were made; generators take 5,000 steps a task
        if self.part == "selection":
            settings = [*settings, "measure_on=validation"]
        return [
            "nacre", "run", "--method", self.method, *size, "--data", data, "--model", model, "--seed", str(self.seed),
            *(word for setting in settings for word in ("--set", setting)),
        ]  # fmt: skip


def items(done: dict[str, dict[str, Any]]) -> Iterator[Item]:
    """Everything to run whose learning rate is known, in order of importance."""
    methods = [*THREE_SEEDS, *ONE_SEED, *(name for name in BASELINES if name in METHODS.names())]
    for method in methods:
        for rate in rates_of(method):
            yield Item("selection", method, method, PUBLISHED.get(method, ()), 1, rate)
    rates = {method: rate for method in methods if (rate := chosen_rate(done, method)) is not None}

    def known(part: str, label: str, method: str, own: tuple[str, ...], seed: int) -> Iterator[Item]:
        if method in rates:
            yield Item(part, label, method, own, seed, rates[method])

    for method in methods:
        yield from known("order1", method, method, PUBLISHED.get(method, ()), 1)
    for method in LONG:
        yield from known("order4", method, method, (), 1)
    for part, variants in ABLATIONS.items():
        for label, (method, own) in variants.items():
            if own:
                yield from known(f"ablation of {part}", label, method, own, 1)
    for seed in (2, 3):
        for method in THREE_SEEDS:
            yield from known("order1", method, method, (), seed)


def rates_of(method: str) -> tuple[float, ...]:
    """The grid that a method's rate is chosen from."""
    return PROMPT_RATES if method in PROMPTS else RATES


def chosen_rate(done: dict[str, dict[str, Any]], method: str) -> float | None:
    """The rate with the best stream average on the validation rows of the first two tasks; the smaller one if equal.

    Not the average after the second task: that prefers a rate at which the second is hardly learnt. Joint training
    has but one stage.
    """
    scores = {
        line["rate"]: line["average"] if line["stream_average"] is None else line["stream_average"]
        for line in done.values()
        if _is(line, "selection", method)
    }
    return max(sorted(scores), key=lambda rate: scores[rate]) if len(scores) == len(rates_of(method)) else None


def run_all(data: str, model: str, work: Path, jobs: int, only: list[str]) -> None:
    lock = Lock()

    def finish(item: Item) -> None:
        command = item.command(data, model)
        output = work / item.folder
        finished = carry_out(command, output)
        if finished.returncode:
            print(failure(finished, item.folder), flush=True)
            return
        line = _line(item, command, json.loads(finished.stdout))
        if item.part == "order1":
            labels = [sys.executable, __file__, "labels", str(output)]
            scored = subprocess.run(labels, env={**os.environ, **ONE_THREAD}, capture_output=True, check=True)
            line["label_average"] = float(scored.stdout)
        with lock:
            add_line(LINES, line)
        print(f"done {item.folder}", flush=True)

    started: set[str] = set()
    with ThreadPoolExecutor(jobs) as pool:
        waiting: list[Any] = []
        while True:
            done = read_lines(LINES)
            todo = [
                item
                for item in items(done)
                if item.folder not in done and item.folder not in started and (not only or item.method in only)
            ]
            waiting = [future for future in waiting if not future.done()]
            if not todo and not waiting:
                return
            while todo and len(waiting) < jobs:
                started.add(todo[0].folder)
                waiting.append(pool.submit(finish, todo.pop(0)))
            _wait_for_one(waiting)


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


def _wait_for_one(futures: list[Any]) -> None:
    from concurrent.futures import FIRST_COMPLETED, wait

    wait(futures, return_when=FIRST_COMPLETED)


def _line(item: Item, command: list[str], record: dict[str, Any]) -> dict[str, Any]:
    words = [word for word in command if word not in ("--data", command[command.index("--data") + 1])]
    words = [word if word != command[command.index("--model") + 1] else "minilm-b2b" for word in words]
    return {
        "folder": item.folder,
        "part": item.part,
        "label": item.label,
        "method": item.method,
        "seed": item.seed,
        "rate": item.rate,
        "average": record["average_accuracy"],
        "stream_average": stream_average(record["matrix"]),
        "learning": record["learning_accuracy"],
        "forgetting": record["forgetting"],
        "matrix": record["matrix"],
        "train_seconds": sum(seconds or 0 for seconds in record["seconds"]["train"]),
        "evaluate_seconds": sum(seconds or 0 for seconds in record["seconds"]["evaluate"]),
        "trainable_parameters": record["trainable_parameters"],
        "peak_rss_bytes": record["peak_rss_bytes"],
        "command": shlex.join(words),
    }


def stream_average(matrix: list[list[float | None]]) -> float | None:
    """Mean over the stages of the average over the tasks learnt so far."""
    learnt = [row[:number] for number, row in enumerate(matrix) if number]
    if any(score is None for row in learnt for score in row):
        return None
    return statistics.mean(statistics.mean(score or 0.0 for score in row) for row in learnt)


def _is(line: dict[str, Any], part: str, label: str) -> bool:
    return bool(line["part"] == part and line["label"] == label)


def tables() -> str:
    done = list(read_lines(LINES).values())
    rows = "4 tasks, 500 training and 500 test rows each"
    parts = [_table(done, "order1", [*THREE_SEEDS, *ONE_SEED], f"order1: {rows}")]
    parts.append(_table(done, "order1", list(BASELINES), f"order1, the systems they compare with: {rows}"))
    parts.append(_table(done, "order4", list(LONG), "order4: 15 tasks, 200 training and 100 test rows each"))
    parts += [
        _table(done, f"ablation of {part}", list(labels), f"{part}, order1") for part, labels in ABLATIONS.items()
    ]
    parts.append(_selection(done))
    return "\n\n".join(part for part in parts if part)


def _table(done: list[dict[str, Any]], part: str, labels: list[str], title: str) -> str:
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


def _first_seed(done: list[dict[str, Any]], part: str, label: str) -> list[dict[str, Any]]:
    method, own = ABLATIONS.get(part.removeprefix("ablation of "), {}).get(label, ("", ("no variant",)))
    return [line for line in done if not own and _is(line, "order1", method) and line["seed"] == 1]


def _selection(done: list[dict[str, Any]]) -> str:
    rows = ["### The learning rates: validation rows of dbpedia and amazon, stream average (average after both)", ""]
    grid = sorted({*RATES, *PROMPT_RATES})
    rows += [f"| | {' | '.join(f'{rate:g}' for rate in grid)} |", "|---" * (len(grid) + 1) + "|"]
    for method in (*THREE_SEEDS, *ONE_SEED, *BASELINES):
        found = {line["rate"]: line for line in done if _is(line, "selection", method)}
        cells = [
            f"{percent([found[rate]['stream_average']])} ({percent([found[rate]['average']])})" if rate in found else ""
            for rate in grid
        ]
        if found:
            rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser, commands, run = commands_of(__doc__)
    run.add_argument("--jobs", type=int, default=2)
    run.add_argument("--only", nargs="*", default=[], help="these methods only")
    commands.add_parser("labels").add_argument("folder", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "run":
        run_all(chosen.data, chosen.model, chosen.work, chosen.jobs, chosen.only)
    elif chosen.command == "labels":
        print(label_average(chosen.folder))
    else:
        write_between("<!-- tables -->", "<!-- end of tables -->", tables())


if __name__ == "__main__":
    main()
