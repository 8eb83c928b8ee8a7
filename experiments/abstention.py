"""Known, reworded and foreign rows: what nacre takes them for, and that the bare model answers the foreign ones.

    python experiments/abstention.py run --data $NACRE_DATA --model PATH/minilm-b2b --work FOLDER
    python experiments/abstention.py table

nacre learns a stream. Then it is asked test rows as they were learned, the same rows in other words (five wordings of
each instruction, and another word for the options), and prompts of tasks that it was never taught. No foreign or
reworded row sets a threshold. Foreign prompts are given twice: with their text, as an application knows it that fills a
template itself, and as finished prompts. Then base ability is measured, and compared with the bare model's. ``run``
adds one line a stream to docs/results/abstention.jsonl, and ``table`` writes docs/honest_table.md's part from them.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from honest_table import PAGE
from recorded_runs import add_line, commands_of, read_lines
from results_page import write_between

from nacre.evaluation.base_ability.benchmarks import AbilityName, load_ability_tasks
from nacre.evaluation.base_ability.harness import samples_of
from nacre.learning.answers import in_row_order
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.models.loading import load_host
from nacre.parts.decision import KINDS
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.tasks.reading.foreign import foreign_rows
from nacre.tasks.task import Task
from nacre.tasks.template import Example

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "docs" / "results" / "abstention.jsonl"
STREAMS = {"order1": "reworded"}
"""Each stream, and the one that asks its test rows in other words."""
ROWS, RATE, LENGTH, FOREIGN = 500, 1e-3, 512, 500
ABILITY: tuple[AbilityName, ...] = ("hellaswag", "winogrande", "arc_challenge")
ABILITY_ROWS = 100


def run_all(data: Path, model: str, work: Path) -> None:
    torch.set_num_threads(1)
    for stream, in_other_words in STREAMS.items():
        if stream in read_lines(LINES, "stream"):
            continue
        tasks, reworded = (_tasks(data, model, name) for name in (stream, in_other_words))
        learner = _learned(model, tasks, work / stream)
        kinds = {
            "known": _kinds(learner, [example for task in tasks for example in _some(task)]),
            "reworded": _kinds(learner, [example for task in reworded for example in _some(task)]),
        }
        foreign = foreign_rows(data, FOREIGN, known=tasks)
        kinds["foreign, with their text"] = _kinds(learner, foreign)
        sources: dict[str, Counter[str]] = {}
        for example, kind in zip(foreign, kinds["foreign, with their text"], strict=True):
            sources.setdefault(example.task, Counter())[kind] += 1
        finished = [Example("", example.input, "", example.target, finished=True) for example in foreign]
        kinds["foreign, finished prompts"] = _kinds(learner, finished)
        line = {
            "stream": stream,
            "kinds": {name: dict(Counter(found)) for name, found in kinds.items()},
            "foreign": {name: dict(own) for name, own in sources.items()},
            "answers": {name: _right(learner, own) for name, own in (("known", tasks), ("reworded", reworded))},
            "bare": _equal_to_the_bare_host(learner, model, foreign),
            "ability": _ability(learner, model, data),
            "rows": ROWS,
            "rate": RATE,
            "command": "python experiments/abstention.py run --data DATA --model minilm-b2b --work FOLDER",
        }
        add_line(LINES, line)
        print(f"done {stream}", flush=True)


def _tasks(data: Path, model: str, stream: str) -> list[Task]:
    folder = str(data / "long_sequence")
    recipe = Recipe(method="nacre", stream=stream, data=folder, model=model, limit_train=ROWS, limit_test=ROWS)
    return list(recipe.tasks())


def _some(task: Task) -> list[Example]:
    """As many test rows of a task that all of them together are 500."""
    return task.examples("test")[:125]


def _learned(model: str, tasks: Sequence[Task], folder: Path) -> Learner:
    """The learner after the stream; what is saved of an earlier run goes on."""
    host = load_host(model, dropout=0.0)
    saved = [number for number in range(1, len(tasks) + 1) if (folder / str(number)).exists()]
    if saved:
        learner = Learner.load(folder / str(saved[-1]), host)
    else:
        optim = Optim(batch_size=8, max_source_length=LENGTH, learning_rate=RATE)
        learner = Learner(host, build_method("nacre"), seed=1, optim=optim)
    for number, task in enumerate(tasks, start=1):
        if number > len(learner.state.tasks):
            started = time.perf_counter()
            learner.learn(task)
            learner.save(folder / str(number))
            print(f"learned {task.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return learner


def _batches(rows: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    ordered = iter(sorted(rows, key=lambda row: len(row.source)))
    while batch := list(itertools.islice(ordered, 32)):
        yield batch


def _kinds(learner: Learner, examples: Sequence[Example]) -> list[str]:
    """Of each row, in their order."""
    readout = learner.method.readout
    assert readout is not None

    def kinds(batch: Sequence[Encoded]) -> list[str]:
        return [decision.kind for decision in readout.decide(learner, batch, None) or ()]

    return in_row_order(learner, learner.encode(examples), kinds) or []


def _right(learner: Learner, tasks: Sequence[Task]) -> float:
    """The share of right answers to the rows that were asked, of all labels."""
    few = [replace(task, test=task.test[:125]) for task in tasks]
    scores = learner.evaluate(few)
    return sum(score.value for score in scores) / len(scores)


def _equal_to_the_bare_host(learner: Learner, model: str, foreign: Sequence[Example]) -> dict[str, int]:
    """Of the rows found to be foreign: how many have the bare model's scores of every label, bit for bit."""
    bare = Learner(load_host(model, dropout=0.0), build_method("seq_lora"), optim=learner.optim)
    labels = sorted({label for form in learner.state.forms.values() for label in form.labels or ()})
    readout = learner.method.readout
    assert readout is not None
    counted: Counter[str] = Counter()
    with torch.no_grad():
        for batch in _batches(learner.encode(foreign)):
            decisions = readout.decide(learner, batch, None) or ()
            here, there = (one.label_scores(batch, labels) for one in (learner, bare))
            for number, decision in enumerate(decisions):
                if decision.kind == "foreign":
                    counted["foreign"] += 1
                    counted["equal"] += int(torch.equal(here[number], there[number]))
    return dict(counted)


def _ability(learner: Learner, model: str, data: Path) -> dict[str, dict[str, int]]:
    """Of base ability's continuations: how many stand behind a foreign prompt, and have the bare model's likelihood."""
    bare, found = load_host(model, dropout=0.0), {}
    for task in load_ability_tasks(ABILITY, str(data / "base_ability"), ABILITY_ROWS):
        with learner.serving():
            here, _ = samples_of(learner.host, task, 16, 1)
        there, _ = samples_of(bare, task, 16, 1)
        asked = [prompt for sample in here for prompt, _ in sample["arguments"]]
        mine, theirs = ([one for sample in own for one, _ in sample["filtered_resps"]] for own in (here, there))
        prompts = list(dict.fromkeys(asked))
        finished = [Example("", prompt, "", "", finished=True) for prompt in prompts]
        kinds = dict(zip(prompts, _kinds(learner, finished), strict=True))
        foreign = [number for number, prompt in enumerate(asked) if kinds[prompt] == "foreign"]
        equal = sum(mine[number] == theirs[number] for number in foreign)
        found[task.name] = {"asked": len(asked), "foreign": len(foreign), "equal": equal}
    return found


def tables() -> str:
    parts = []
    for line in read_lines(LINES, "stream").values():
        rows = [f"### What rows are taken for, after {line['stream']} with {line['rows']} rows a task", ""]
        rows += [f"| | rows | {' | '.join(KINDS)} | right |", "|---" * (len(KINDS) + 3) + "|"]
        for name, found in line["kinds"].items():
            right = line["answers"].get(name)
            rows.append(f"{_row(name, found)} {'-' if right is None else f'{100 * right:.1f}'} |")
        rows += ["", "Of the foreign rows, with their text:", "", f"| | rows | {' | '.join(KINDS)} |"]
        rows += ["|---" * (len(KINDS) + 2) + "|", *(_row(name, found) for name, found in line["foreign"].items())]
        bare = line["bare"]
        rows += ["", f"{bare['equal']} of {bare['foreign']} rows found to be foreign have the bare model's scores of"]
        rows[-1] += " every label, bit for bit."
        rows += ["", "Base ability: continuations, those behind a foreign prompt, and those of them that have the bare"]
        rows += ["model's log-likelihood, bit for bit:", "", "| | asked | foreign | equal |", "|---" * 4 + "|"]
        rows += [f"| {name} | {' | '.join(map(str, own.values()))} |" for name, own in line["ability"].items()]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _row(name: str, found: Mapping[str, int]) -> str:
    total = sum(found.values())
    shares = [f"{100 * found.get(kind, 0) / total:.1f}" for kind in KINDS]
    return f"| {name} | {total} | {' | '.join(shares)} |"


def main() -> None:
    parser, _, _ = commands_of(__doc__)
    chosen = parser.parse_args()
    if chosen.command == "run":
        run_all(Path(chosen.data), chosen.model, chosen.work)
    else:
        write_between("<!-- abstention -->", "<!-- end of abstention -->", tables(), PAGE)


if __name__ == "__main__":
    main()
