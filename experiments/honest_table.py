"""Closed-form learners, record holders, the papers' methods, joint training and nacre under one decoder.

    python experiments/honest_table.py run --data $NACRE_DATA/long_sequence --model PATH/minilm-b2b --work FOLDER
    python experiments/honest_table.py left
    python experiments/honest_table.py table

Every learner is trained once and then answers three times: it chooses among the labels of all tasks (no row's task is
known), among those of the row's task, and writes freely. Learning rates are chosen by the rule of docs/results.md, from
the same grid: the lines of experiments/three_papers.py count, where a method stands there.

``run`` carries out what is not done yet, in order, one run after the other, with one thread; stopped at any moment, the
same command goes on. Each finished run adds one line to docs/results/honest_table.jsonl: which rows were right under
each decoder, the seconds, and the command. ``left`` counts what is not done; ``table`` writes docs/honest_table.md's
tables from the lines. With ``--host SmolLM2-135M`` the runs on that model are carried out. ``answers FOLDER`` prints
which rows a finished run's last learner answers right.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import three_papers
from recorded_runs import ONE_THREAD, add_line, carry_out, commands_of, failure, first_left, read_lines
from results_page import percent, write_between

from nacre.evaluation.scoring import score
from nacre.evaluation.settings import Decoding
from nacre.evaluation.uncertainty import over_rows, over_seeds
from nacre.learning.learner import Learner
from nacre.models.loading import load_host
from nacre.records.predictions import final_scores
from nacre.records.reading import read_record
from nacre.registry import METHODS
from nacre.runs.recipe import read_recipe

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "results" / "honest_table.jsonl"
PAGE = ROOT / "docs" / "honest_table.md"

DECODERS: dict[str, dict[str, str]] = {
    "all labels": {"decode": "labels", "candidates": "union"},
    "own labels": {"decode": "labels"},
    "free": {},
}
RATES = three_papers.rates_of("seq_lora")
"""The grid of most methods of docs/results.md."""
LADDER = (1e-5, 3e-5, *RATES, 2e-2, 5e-2, 1e-1)
"""The grid, and what follows outward."""
SETTINGS = ("optim.batch_size=8", "optim.max_source_length=128", "model_dropout=0.0", "matrix=last")
SMALL = ("cb", "copa")
"""Tasks with so few rows that one answer is a point or two."""

TABLE = ("nacre", "lda", "de_lora", "epi", "independent", "joint", "replay", "am_lora", "o_lora", "lb_cl", "seq_lora")
FIRST = ("nacre", "lda", "joint")
"""Whether nacre is above the other two is the first question of every order."""
OTHERS = (
    *("nearest_mean", "klda", "ridge", "knn", "code_lora", "any_ssr", "latent_lora", "inf_lora", "gain_lora"),
    *("slao", "ella", "n_lora", "osf", "inc_lora+gaussian_routing", "am_lora+gaussian_routing"),
)
CLOSED = ("lda", "nearest_mean", "klda", "ridge", "knn")
"""Nothing is trained, so that there is no rate."""
ORDERS = tuple(f"order{number}" for number in range(1, 7))
SEEDS = {"order1": (1, 2, 3), "order4": (1, 2, 3)}
STREAMS = ("text_only", "conflict", "conflict_text_only", "split_classes", "drift", "reworded")
ON_STREAMS = ("nacre", "lda", "de_lora", "am_lora", "am_lora+gaussian_routing", "inc_lora+gaussian_routing", "joint")
ABLATION: dict[str, tuple[str, tuple[str, ...]]] = {
    "evidence alone": ("nacre", ("host_weight=0",)),
    "prompts alone": ("nacre", ("views=prompt",)),
    "bare texts alone": ("nacre", ("views=bare",)),
    "host's weight fixed at 1": ("nacre", ("host_weight=1",)),
    "evidence in training, too": ("nacre", ("offset=1",)),
    "fresh starts": ("nacre", ("begin_with=fresh",)),
    "nearest starts": ("nacre", ("begin_with=nearest",)),
    "no abstention": ("nacre", ("abstain=false",)),
    "no evidence: routing alone": ("inc_lora+gaussian_routing", ()),
}
HOST_EPOCHS = (1, 3, 10)
HOSTS = ("minilm-b2b", "SmolLM2-135M")
"""The model of all tables, and a real decoder-only one: a second answer to whether it is the host."""
ON_DECODER_ONLY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CLOSED, ()),
    "nacre": (),
    "joint": ("train=lora",),
    "independent": ("train=lora",),
}


@dataclass(frozen=True)
class Item:
    """One run. part: what it is for; label: its row there; rows: of training, None for all."""

    part: str
    label: str
    method: str
    own: tuple[str, ...]
    stream: str
    seed: int
    rate: float | None
    rows: int | None
    tested: int
    host: str = HOSTS[0]

    @property
    def folder(self) -> str:
        words = [self.method, *self.own, *([] if self.rate is None else [f"rate{self.rate:g}"]), f"seed{self.seed}"]
        rows = "all" if self.rows is None else self.rows
        part = self.part if self.host == HOSTS[0] else f"{self.host}-{self.part}"
        return f"{part}/{self.stream}-{rows}/{'-'.join(words)}".replace(" ", "_")

    def command(self, data: str, model: str) -> list[str]:
        settings = [*SETTINGS, *self.own]
        if self.rate is not None:
            settings.append(f"optim.learning_rate={self.rate:g}")
        stream = self.stream
        if self.part == "selection":
            stream = "dbpedia,amazon"
            settings = [setting for setting in settings if setting != "matrix=last"]
            settings += ["matrix=seen", "measure_on=validation"]
        elif self.method == "independent":
            settings.append("evaluation.decode=labels")
        limits = [] if self.rows is None else ["--limit-train", str(self.rows)]
        return [
            "nacre", "run", "--method", self.method, "--stream", stream, *limits, "--limit-test", str(self.tested),
            "--data", data, "--model", model, "--seed", str(self.seed),
            *(word for setting in settings for word in ("--set", setting)),
        ]  # fmt: skip


def sizes(stream: str) -> tuple[int, int]:
    """Training and test rows of a task."""
    many = stream in ("order4", "order5", "order6", "split_classes")
    return (200, 100) if many else (500, 500)


def items(done: Mapping[str, Mapping[str, Any]], hosts: Collection[str] = HOSTS) -> Iterator[Item]:
    """Everything to run on these hosts, as far as the rates to use are known, in order of importance."""
    if HOSTS[0] in hosts:
        yield from _on_first_host(done)
    if HOSTS[1] in hosts:
        yield from _on_decoder_only(done)


def _on_decoder_only(done: Mapping[str, Mapping[str, Any]]) -> Iterator[Item]:
    """With the rows that a processor allows."""
    for method, own in ON_DECODER_ONLY.items():
        worth = tried(done, method, HOSTS[1])
        left = rates_left(method, worth)
        for rate in left:
            yield Item("selection", method, method, own, "dbpedia,amazon", 1, rate, 64, 64, HOSTS[1])
        if not left:
            yield Item("host", method, method, own, "order1", 1, best(worth), 64, 100, HOSTS[1])


def _on_first_host(done: Mapping[str, Mapping[str, Any]]) -> Iterator[Item]:
    names = dict.fromkeys((*TABLE, *(method for method, _ in ABLATION.values()), *OTHERS, *ON_STREAMS))
    rates: dict[str, float | None] = {}
    for method in (name for name in names if name.partition("+")[0] in METHODS.names()):
        worth = tried(done, method)
        left = rates_left(method, worth)
        for rate in left:
            yield Item("selection", method, method, (), "dbpedia,amazon", 1, rate, 500, 200)
        if not left:
            rates[method] = best(worth)

    def each(part: str, label: str, method: str, own: tuple[str, ...], stream: str, seed: int) -> Iterator[Item]:
        if method in rates:
            rows, tested = sizes(stream)
            yield Item(part, label, method, own, stream, seed, rates[method], rows, tested)

    for stream in ("order1", "order4"):
        for method in TABLE:
            yield from each("table", method, method, (), stream, 1)
    for label, (method, own) in ABLATION.items():
        yield from each("ablation", label, method, own, "order1", 1)
    for rows, epochs in sorted(((rows, epochs) for rows in (500, None) for epochs in HOST_EPOCHS), key=_cost):
        for method in (*((*CLOSED, "nacre") if epochs == 1 else ()), "joint", "independent"):
            if method in rates and (rows, epochs) != (500, 1):
                own = () if epochs == 1 else (f"optim.epochs={epochs}",)
                yield Item("host", method, method, own, "order1", 1, rates[method], rows, 500)
    for method in OTHERS:
        yield from each("table", method, method, (), "order1", 1)
    for stream in STREAMS:
        for method in ON_STREAMS:
            yield from each("streams", method, method, (), stream, 1)
    for methods in (FIRST, [method for method in TABLE if method not in FIRST]):
        for stream in ORDERS:
            for seed in SEEDS.get(stream, (1,)):
                for method in methods:
                    if (stream, seed) not in (("order1", 1), ("order4", 1)):
                        yield from each("table", method, method, (), stream, seed)


def _cost(run: tuple[int | None, int]) -> int:
    """Rows that are read in training; a task of order1 has about 3000."""
    rows, epochs = run
    return (rows or 3000) * epochs


def tried(done: Mapping[str, Mapping[str, Any]], method: str, host: str = HOSTS[0]) -> dict[float, float]:
    """What each rate that was tried reaches on validation rows."""
    # LB-CL's lines of docs/results.md are of another start.
    there = host == HOSTS[0] and method != "lb_cl"
    worth = three_papers.tried(read_lines(three_papers.LINES), method) if there else {}
    own = ("selection", method, host)
    lines = {key: line for key, line in done.items() if (line["part"], line["method"], line["host"]) == own}
    return worth | three_papers.tried(lines, method)


def rates_left(method: str, worth: Mapping[float, float]) -> list[float]:
    """The rates to try: those of the grid, then those next to the best. Nothing where nothing is trained."""
    if method in CLOSED:
        return []
    grid = [rate for rate in RATES if rate not in worth]
    if grid:
        return grid
    place = LADDER.index(best(worth))
    return [rate for rate in LADDER[max(place - 1, 0) : place + 2] if rate not in worth]


def best(worth: Mapping[float, float]) -> float | None:
    """The best rate; the smaller one of two that are alike. None where nothing is trained."""
    return max(sorted(worth), key=lambda rate: worth[rate], default=None)


def run_all(data: str, model: str, host: str, work: Path, only: Sequence[str]) -> None:
    failed: set[str] = set()
    while True:
        done = read_lines(LINES)
        item = first_left(items(done, [host]), done.keys() | failed, only, "part", "method", "stream")
        if item is None:
            return
        output = work / item.folder
        ended = carry_out(item.command(data, model), output)
        if ended.returncode:
            print(failure(ended, item.folder), flush=True)
            failed.add(item.folder)
            continue
        line = _line(item, json.loads(ended.stdout))
        if item.part != "selection":
            command = [sys.executable, __file__, "answers", str(output)]
            answered = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
            if answered.returncode:
                print(failure(answered, item.folder), flush=True)
                failed.add(item.folder)
                continue
            line["right"] = json.loads(answered.stdout)
        if item.folder not in read_lines(LINES):  # another process may have found the same run finished
            add_line(LINES, line)
        print(f"done {item.folder}", flush=True)


def answers(folder: Path) -> dict[str, dict[str, str]]:
    """Which rows of each task are right under each decoder, a digit a row.

    The run itself answered its rows freely, which is not done again. A run of independent models has no learner that
    answers all tasks: it chose among each task's own labels, and that is all there is.
    """
    recipe, record = read_recipe(folder / "recipe.yaml", {}, []), read_record(folder / "results.json")
    by_run = zip(record.tasks, final_scores(folder, record), strict=True)
    answered = {task: _digits(scores) for task, scores in by_run}
    if recipe.method == "independent":
        return {"own labels": answered}
    host = load_host(recipe.model, dropout=recipe.model_dropout)
    learner = Learner.load(sorted((folder / "tasks").iterdir())[-1], host)
    tasks, found = recipe.tasks(), {"free": answered}
    if learner.method.readout is not None:
        found["all labels"] = answered  # what a readout does with free answers, too
    for name, settings in DECODERS.items():
        if name in found:
            continue
        learner.decoding = Decoding.model_validate(settings)
        given = zip(tasks, learner.answer(tasks), strict=True)
        found[name] = {task.name: _digits(score(task, own).right) for task, own in given}
    return found


def _digits(right: Any) -> str:
    return "".join("1" if one else "0" for one in right)


def _line(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "folder": item.folder,
        "part": item.part,
        "label": item.label,
        "host": item.host,
        "method": item.method,
        "stream": item.stream,
        "seed": item.seed,
        "rate": item.rate,
        "rows": item.rows,
        "own": list(item.own),
        "average": record["average_accuracy"] if item.part == "selection" else None,
        "incremental_accuracy": record["incremental_accuracy"] if item.part == "selection" else None,
        "train_seconds": sum(seconds or 0 for seconds in record["seconds"]["train"]),
        "evaluate_seconds": sum(seconds or 0 for seconds in record["seconds"]["evaluate"]),
        "command": shlex.join(item.command("DATA", "MODEL")),
    }


def average(line: Mapping[str, Any], decoder: str, *, without: Sequence[str] = ()) -> float | None:
    """The mean over tasks of the share of right rows."""
    tasks = line["right"].get(decoder)
    if tasks is None:
        return None
    return statistics.mean(own.count("1") / len(own) for task, own in tasks.items() if task not in without)


def by_row(line: Mapping[str, Any], decoder: str) -> list[np.ndarray]:
    """Of each task: whether a row is right [n]."""
    return [np.array([float(digit) for digit in right]) for right in line["right"][decoder].values()]


def tables() -> str:
    lines = read_lines(LINES)
    trained = {(line["method"], line["host"]) for line in lines.values()}
    rates = {(method, host): best(tried(lines, method, host)) for method, host in trained}
    # A run at a rate that a wider grid has replaced is kept, and not shown.
    every = [
        line
        for line in lines.values()
        if line["part"] != "selection" and line["rate"] == rates[line["method"], line["host"]]
    ]
    done = [line for line in every if line["host"] == HOSTS[0]]
    parts = []
    for stream in ORDERS:
        found = [line for line in done if (line["part"], line["stream"]) == ("table", stream)]
        if found:
            parts.append(_table(found, stream, [*TABLE, *OTHERS]))
    ablation = [line for line in done if line["part"] == "ablation"]
    if ablation:
        whole = [
            {**line, "label": "nacre"}
            for line in done
            if (line["part"], line["method"], line["stream"], line["seed"]) == ("table", "nacre", "order1", 1)
        ]
        parts.append(_table([*whole, *ablation], "order1", ["nacre", *ABLATION], "what each part of nacre brings"))
    parts += _host(done)
    parts += _decoder_only([line for line in every if line["host"] == HOSTS[1]])
    for stream in STREAMS:
        found = [line for line in done if (line["part"], line["stream"]) == ("streams", stream)]
        if found:
            parts.append(_table(found, stream, ON_STREAMS))
    waiting = sum(item.folder not in lines for item in items(lines))
    return "\n\n".join([f"{len(every)} runs are done, and at least {waiting} are left.", *parts] if waiting else parts)


def _table(found: Sequence[Mapping[str, Any]], stream: str, labels: Sequence[str], what: str = "") -> str:
    rows, tested = sizes(stream)
    title = f"### {stream}{f', {what}' if what else ''}: {rows} training and up to {tested} test rows a task"
    small = any(task in SMALL for line in found for own in line["right"].values() for task in own)
    head = ["", "seeds", "rate", *DECODERS, *(["all labels, without cb and copa"] if small else [])]
    head += ["nacre is above by", "train s"]
    out = [title, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    ours = [line for line in found if line["label"] == "nacre"]
    for label in labels:
        lines = [line for line in found if line["label"] == label]
        if not lines:
            continue
        rate = lines[0]["rate"]
        cells = [label, str(len(lines)), "-" if rate is None else f"{rate:g}"]
        cells += [percent([average(line, decoder) for line in lines]) for decoder in DECODERS]
        if small:
            cells.append(percent([average(line, "all labels", without=SMALL) for line in lines]))
        cells += [_above(ours, lines), f"{statistics.mean(line['train_seconds'] for line in lines):.0f}"]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def _above(ours: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> str:
    """The paired difference, with its interval of 95 % over test rows, and over seeds where there are several.

    By the row's own labels where no other are.
    """
    mine, theirs = ({line["seed"]: line for line in own} for own in (ours, lines))
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds or lines[0]["label"] == "nacre":
        return ""
    decoder = "all labels" if "all labels" in theirs[seeds[0]]["right"] else "own labels"
    of_seeds = [
        [own - other for own, other in zip(by_row(mine[seed], decoder), by_row(theirs[seed], decoder), strict=True)]
        for seed in seeds
    ]
    rows = over_rows([np.mean(of_task, axis=0) for of_task in zip(*of_seeds, strict=True)], seed=0, samples=2000)
    over = over_seeds([statistics.mean(float(of_task.mean()) for of_task in own) for own in of_seeds])
    shown = f"{100 * over.mean:.1f} [{100 * rows.low:.1f}, {100 * rows.high:.1f}]"
    if over.interval is None:
        return shown
    return f"{shown}; seeds [{100 * over.interval.low:.1f}, {100 * over.interval.high:.1f}]"


def _host(done: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [line for line in done if line["part"] == "host"]
    if not found:
        return []
    one = [line for line in done if (line["part"], line["stream"], line["seed"]) == ("table", "order1", 1)]
    lines = [*found, *(line for line in one if line["method"] in (*CLOSED, "joint", "independent", "nacre"))]
    decoders = ("all labels", "own labels")
    head = [
        "",
        "epochs",
        *(f"{rows}: {what}" for rows in ("500 rows", "all rows") for what in (*decoders, "nacre above")),
    ]
    out = ["### Is it the host? order1, 500 and all training rows a task", ""]
    out += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in (*CLOSED, "nacre", "joint", "independent"):
        for epochs in HOST_EPOCHS:
            own = [line for line in lines if line["method"] == method and _epochs(line) == epochs]
            if not own:
                continue
            cells = [method, "-" if method in CLOSED else str(epochs)]
            for rows in (500, None):
                of_rows = [line for line in own if line["rows"] == rows]
                ours = [line for line in lines if (line["method"], line["rows"]) == ("nacre", rows)]
                cells += [percent([average(line, decoder) for line in of_rows]) for decoder in decoders]
                cells.append(_above(ours, of_rows) if of_rows else "")
            out.append(f"| {' | '.join(cells)} |")
    return ["\n".join(out)]


def _decoder_only(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lines:
        return []
    head = ["", "rate", *DECODERS, "train s"]
    out = [f"### Is it the host? {HOSTS[1]}, order1: 64 training and 100 test rows a task", ""]
    out += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for line in lines:
        rate = "-" if line["rate"] is None else f"{line['rate']:g}"
        shares = [percent([average(line, decoder)]) for decoder in DECODERS]
        out.append(f"| {' | '.join([line['method'], rate, *shares, format(line['train_seconds'], '.0f')])} |")
    return ["\n".join(out)]


def _epochs(line: Mapping[str, Any]) -> int:
    return next((int(setting.partition("=")[2]) for setting in line["own"] if "epochs" in setting), 1)


def left() -> str:
    """How many runs of each part are not done, as far as rates are known."""
    done = read_lines(LINES)
    counts: dict[str, int] = {}
    for item in items(done):
        if item.folder not in done:
            counts[item.part] = counts.get(item.part, 0) + 1
    return "\n".join(f"{part}: {count}" for part, count in counts.items()) or "nothing"


def main() -> None:
    parser, commands, run = commands_of(__doc__)
    run.add_argument("--host", choices=HOSTS, default=HOSTS[0], help="which one MODEL is: its runs are carried out")
    run.add_argument("--only", nargs="*", default=[], help="these parts, methods or streams only")
    commands.add_parser("left")
    commands.add_parser("answers").add_argument("folder", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "run":
        run_all(chosen.data, chosen.model, chosen.host, chosen.work, chosen.only)
    elif chosen.command == "left":
        print(left())
    elif chosen.command == "answers":
        print(json.dumps(answers(chosen.folder)))
    else:
        write_between("<!-- tables -->", "<!-- end of tables -->", tables(), PAGE)


if __name__ == "__main__":
    main()
