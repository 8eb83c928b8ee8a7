"""What `nacre` pays for a task and for an answer after one task, and after forty-nine, on the stream `fifty`.

    python benchmarks/fifty.py --data DATA/long_sequence --model PATH/minilm-b2b --output docs/performance/fifty.json

One learner has learned the stream's first task, the other one its first 49. Both learn the fiftieth, and answer the
test rows of the first, in turn (measuring.py). A task has 32 rows of at most 128 tokens to learn, 10
to choose on and 32 to test. What is stored and the most memory are those of the second learner after each task.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from bench import peak_bytes, show, surroundings
from measuring import Variant, measure

from nacre.evaluation.settings import Decoding
from nacre.events import Event, StepTaken, ignore
from nacre.learning.contents import Contents
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.loading import load_host
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.tasks.task import Task

METHOD, STREAM = "nacre", "fifty"
TRAINED, HELD_OUT, TESTED = 32, 10, 32
OPTIM = Optim(batch_size=8, learning_rate=1e-3, max_source_length=128, log_every=1)
DECODERS = {
    "all labels": Decoding(decode="labels", candidates="union"),
    "own labels": Decoding(decode="labels"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", type=int, default=50, help="of the stream: its first ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    tasks = tasks_of(chosen.data, chosen.model)[: chosen.tasks]
    early, late = new_learner(chosen.model), new_learner(chosen.model)
    early.learn(tasks[0])
    kept = [sizes_after(late, task) for task in tasks[:-1]]
    learners = {"after 1 task": early, f"after {len(tasks) - 1} tasks": late}
    device, first = torch.device("cpu"), "after 1 task"
    found = {}
    for name, decoding in DECODERS.items():
        for learner in learners.values():
            learner.decoding = decoding
        answers = {label: (lambda learner=learner: learner.answer([tasks[0]])) for label, learner in learners.items()}
        found[f"answer, {name}"] = measure(
            {label: Variant(run, first) for label, run in {**answers, f"{first}, again": answers[first]}.items()},
            chosen.rounds,
            device,
        )
    runs = {label: Taught(learner, tasks[-1]) for label, learner in learners.items()}
    runs[f"{first}, again"] = runs[first]
    for what in ("step", "task"):
        found[what] = measure(
            {
                label: Variant(getattr(run, what), first, before=run.make_ready, part=True)
                for label, run in runs.items()
            },
            chosen.rounds,
            device,
        )
    for what, measured in found.items():
        print(what)
        show(measured)
    document = {
        **surroundings(device),
        "rounds": chosen.rounds,
        "parts": {what: [asdict(one) for one in measured] for what, measured in found.items()},
        "kept": kept,
    }
    chosen.output.write_text(json.dumps(document, indent=1) + "\n")


def tasks_of(data: str, model: str) -> list[Task]:
    recipe = Recipe(method=METHOD, stream=STREAM, data=data, model=model, limit_train=TRAINED, limit_test=TESTED)
    return [replace(task, validation=task.validation[:HELD_OUT]) for task in recipe.tasks()]


def new_learner(model: str) -> Learner:
    return Learner(load_host(model), build_method(METHOD), seed=1, optim=OPTIM, on_event=ignore)


def sizes_after(learner: Learner, task: Task) -> dict[str, float]:
    """Teach one more task: the bytes that the learner stores then, and the most that the process has had."""
    learner.learn(task)
    saved = Contents.of(learner.snapshot()).files.values()
    return {"stored": sum(tensor.nbytes for own in saved for tensor in own.values()), "peak": peak_bytes()}


class Taught:
    """A learner that is taught one more task, again and again."""

    def __init__(self, learner: Learner, task: Task) -> None:
        self.learner, self.rows = learner, task
        self.there = copy.deepcopy(learner.snapshot())

    def make_ready(self) -> None:
        self.learner = self.learner.restart()
        self.learner.restore(copy.deepcopy(self.there))

    def task(self) -> float:
        """CPU seconds of all that the task asks for."""
        started = time.process_time()
        self.learner.learn(self.rows)
        return time.process_time() - started

    def step(self) -> float:
        """The mean CPU seconds of a step, the first one left out, which pays for what is made once."""
        ends: list[float] = []

        def note(event: Event) -> None:
            if isinstance(event, StepTaken):
                ends.append(time.process_time())

        self.learner.on_event = note
        self.learner.learn(self.rows)
        return (ends[-1] - ends[0]) / (len(ends) - 1)


if __name__ == "__main__":
    main()
