"""docs/performance.md's tables, from what benchmarks/bench.py has written into docs/performance/.

python benchmarks/bench.py --output docs/performance/t5-small
python benchmarks/bench.py --parts rows --output docs/performance/t5-small-rows
python benchmarks/every_method.py --output docs/performance/every_method.json
python benchmarks/fifty.py --data DATA/long_sequence --model PATH/minilm-b2b --output docs/performance/fifty.json
python benchmarks/serving.py --model PATH/minilm-b2b --requests 1000 --output docs/performance/serving.json
python experiments/performance_page.py
"""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from results_page import write_between

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
FOLDER = PAGE.with_suffix("")
EVERY_METHOD, FIFTY, SERVING = (FOLDER / f"{name}.json" for name in ("every_method", "fifty", "serving"))

TITLES = {
    "steps": "A training step beside one of plain PEFT LoRA",
    "full": "Full fine-tuning with MIGU beside full fine-tuning",
    "starts": "The start of a task beside one training step of PEFT LoRA",
    "sensitivity": "LB-CL's sensitivity pass beside one training step of PEFT LoRA",
    "evaluation": "Choosing labels beside the unadapted host",
    "decision": "The decision among 14 labels beside reading alone",
    "sorting": "Rows sorted by length beside rows as they come",
    "rows": "A batch whose rows have different adapters, beside PEFT's mixed batch",
    "saving": "Saving and loading beside one training step of PEFT LoRA",
    "memory": "Peak memory of a process beside PEFT LoRA's",
}

GOALS: dict[str, dict[str, float]] = {
    "steps": {
        **{f"inc_lora, N={n}": 1.02 for n in (1, 5, 15, 50)},
        "o_lora, N=15": 1.04,
        "o_lora, N=50": 1.05,
        "lb_cl, N=15": 1.04,
        "lb_cl, N=50": 1.05,
        "am_lora, N=1": 1.06,
        "am_lora, N=5": 1.07,
        "am_lora, N=15": 1.16,
        "am_lora, N=50": 1.36,
        "am_lora keep_gates=5, N=50": 1.12,
    },
    "full": {"seq_ft+migu": 1.05, "seq_ft+migu, two micro-batches": 1.08},
    "starts": {f"{method}, from N=50 on": 0.3 for method in ("inc_lora", "o_lora", "am_lora", "lb_cl")},
    "sensitivity": {"lb_cl, N=15": 1.3, "lb_cl, N=50": 1.5},
    "evaluation": {
        **{f"inc_lora, N={n}": 1.02 for n in (1, 5, 15, 50)},
        "am_lora, N=5": 1.08,
        "am_lora, N=15": 1.20,
        "am_lora, N=50": 1.45,
    },
    "decision": {"14 labels": 1.7},
    "sorting": {"sorted by length": 0.55},
}
"""Of T5-small's shape in float32: what the project demands of the median."""

RATIOS = {
    "inc_lora: N=50 over N=1": ("inc_lora, N=50", "inc_lora, N=1", 1.03),
    "am_lora over its large products alone, N=50": ("am_lora, N=50", "AM-LoRA's large products alone, N=50", 1.10),
    "seq_lora+migu over seq_lora": ("seq_lora+migu", "seq_lora", 1.05),
}
"""Ratios between two of the steps, round by round, and their goals."""


def main() -> None:
    own = (EVERY_METHOD, FIFTY, SERVING)
    files = [file for file in sorted(FOLDER.glob("*.json"), reverse=True) if file not in own]
    found = [section(json.loads(file.read_text())) for file in files]
    write_between("<!-- tables -->", "<!-- end of tables -->", "\n\n".join(found), PAGE)
    if EVERY_METHOD.exists():
        every = every_method(json.loads(EVERY_METHOD.read_text()))
        write_between("<!-- every method -->", "<!-- end of every method -->", every, PAGE)
    if FIFTY.exists():
        write_between("<!-- fifty -->", "<!-- end of fifty -->", fifty(json.loads(FIFTY.read_text())), PAGE)
    if SERVING.exists():
        write_between("<!-- serving -->", "<!-- end of serving -->", serving(json.loads(SERVING.read_text())), PAGE)


def every_method(found: dict[str, Any]) -> str:
    """A row for each method, a column for each number of past tasks; and what a difference of nothing looks like."""
    columns = [(what, tasks) for what in ("step", "answer") for tasks in found["past"]]
    medians = {
        (what, one["name"]): statistics.median(one["ratios"]) for what in found["parts"] for one in found["parts"][what]
    }
    methods = dict.fromkeys(name.partition(",")[0] for _, name in medians if ", N=" in name)
    rows = [["", *(f"{what}, N={tasks}" for what, tasks in columns)], ["---"] * (len(columns) + 1)]
    rows += [
        [f"`{method}`", *(f"{medians[what, f'{method}, N={tasks}']:.2f}" for what, tasks in columns)]
        for method in methods
    ]
    again = [
        statistics.median(one["ratios"])
        for measured in found["parts"].values()
        for one in measured
        if one["name"].endswith("again")
    ]
    parts = [
        "## Every method beside PEFT",
        "T5-small's shape, 8 rows of 128 tokens read and 8 written a step, after N tasks that the method really "
        "learned (of one step each). A step is one inside `learn`, an answer is 16 rows of 8 tokens written greedily, "
        "PEFT's by transformers. What a method does between tasks is not in it. `lfpt5` learned no row that it had "
        "written: a model of random weights writes none that is one.",
        f"```\n{found['command']}\n```",
        f"{setting_of(found)} PEFT beside itself gave {min(again):.2f} to {max(again):.2f}.",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n\n".join(parts)


def fifty(found: dict[str, Any]) -> str:
    """What a task and an answer cost late beside early, and what is kept."""
    names = {
        "step": "a training step",
        "task": "a whole task",
        "answer, own labels": "an answer, among its task's labels",
        "answer, all labels": "an answer, among all labels so far",
    }
    rows = [["", "late / early", "range", "early / itself"], ["---"] * 4]
    for what, name in names.items():
        _, late, again = found["parts"][what]
        rows.append([name, *cells_of("", late["ratios"], {}, what)[1:], f"{statistics.median(again['ratios']):.2f}"])
    kept = found["kept"]
    stored = [after["stored"] - before["stored"] for before, after in itertools.pairwise([{"stored": 0}, *kept])]
    parts = [
        "## Fifty tasks",
        f"`nacre` on the stream `fifty`: one learner has learned one task, another one {len(kept)}. Both learn the "
        "next one, and answer the first one's test rows.",
        f"```\n{found['command']}\n```",
        setting_of(found),
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "Late, an answer among all labels costs more, as the host is asked about more of them, and reads a row again "
        "where the evidence leaves more than two labels open. A whole task also reads its rows for the sums, and looks "
        "among the earlier tasks for a start.",
        f"A task takes {min(stored) / 1e6:.2f} to {max(stored) / 1e6:.2f} MB, the first as much as the last "
        f"({stored[0] / 1e6:.2f} and {stored[-1] / 1e6:.2f}): the more where texts have two parts. The "
        f"process had {kept[0]['peak'] / 1e6:.0f} MB at most after the first task, "
        f"and {kept[-1]['peak'] / 1e6:.0f} after the last.",
    ]
    return "\n\n".join(parts)


def serving(found: dict[str, Any]) -> str:
    """Questions a second, and how long each one waited."""
    rows = [["", "a second", "waited: median", "95 %", "99 %"], ["---"] * 5]
    for name, rounds in found["found"].items():
        medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        waited = [f"{1000 * medians[key]:.0f} ms" for key in ("p50", "p95", "p99")]
        rows.append([name, f"{medians['per second']:.1f}", *waited])
    parts = [
        "## Served answers",
        f"{found['requests']} questions of {found['clients']} clients on loopback, each of which asks the next one "
        f"when it has its answer; {found['tokens']} tokens are written for each, greedily. The store has "
        f"{found['adapters']} LoRAs (`epi`); in the last line every batch mixes them. The first line is transformers' "
        "`generate` with the pretrained model in a plain loop, without a server.",
        f"```\n{found['command']}\n```",
        setting_of(found),
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n\n".join(parts)


def setting_of(found: dict[str, Any]) -> str:
    """The machine, the versions and the number of rounds, as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['machine']}; Python {found['python']}, {versions}; {found['rounds']} rounds."


def section(found: dict[str, Any]) -> str:
    goals = GOALS if (found["shape"], found["dtype"], found["mixed_precision"]) == ("t5-small", "float32", "no") else {}
    precision = {"no": "", "bf16": ", autocast to bfloat16"}[found["mixed_precision"]]
    parts = [
        f"## {found['shape']}'s shape, {found['dtype']}{precision}",
        f"```\n{found['command']}\n```",
        setting_of(found),
    ]
    for part, measured in found["parts"].items():
        parts += [f"### {TITLES[part]}", table(part, measured, goals.get(part, {}))]
    return "\n\n".join(parts)


def table(part: str, measured: list[dict[str, Any]], goals: dict[str, float]) -> str:
    saved, peaks = any(one["saved"] for one in measured), part == "memory"
    head = ["", "median", "range", *(["goal"] if goals else []), *(["saved MB"] if saved else [])]
    rows = [cells_of(one["name"], one["ratios"], goals, part) for one in measured]
    for row, one in zip(rows, measured, strict=True):
        row += [f"{one['saved'] / 1e6:.1f}"] if saved else []
        row += [f"{one['extra']['peak_mb']:.0f}"] if peaks else []
    by_name = {one["name"]: one["seconds"] for one in measured}
    for name, (own, base, goal) in RATIOS.items() if part == "steps" else ():
        if own in by_name and base in by_name:
            ratios = [a / b for a, b in zip(by_name[own], by_name[base], strict=True)]
            rows.append([*cells_of(name, ratios, goals and {name: goal}, part), ""])
    if peaks:
        head = ["", "ratio", "MB"]
        rows = [[row[0], row[1], row[-1]] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def cells_of(name: str, ratios: list[float], goals: dict[str, float], part: str) -> list[str]:
    digits = 3 if part in ("starts", "saving") else 2
    spread = f"{min(ratios):.{digits}f} to {max(ratios):.{digits}f}"
    cells = [name, f"{statistics.median(ratios):.{digits}f}", spread]
    return [*cells, f"{goals[name]:.2f}" if name in goals else ""] if goals else cells


if __name__ == "__main__":
    main()
