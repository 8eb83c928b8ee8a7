"""What answering a classification task costs, as a ratio to plain greedy generation: CPU time, variants in turn.

    python benchmarks/decoding.py --model MODEL --data FOLDER --task dbpedia --rows 200
    python benchmarks/decoding.py --model demo --task request

generation           ``generate``, token after token (decode=free)
labels               the most likely label (decode=labels)
reading alone        the encoder pass, or the pass over the prompts, which all of them need: no way can be faster

A host that has learnt nothing mostly writes what is no label; --teach lets it learn from some rows of the task before.
Machines are shared and noisy: all variants live in one process, take turns in a shuffled order, and each round gives
one ratio. Generation runs twice; "generation again" shows what a difference of nothing looks like.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nacre.evaluation.decoding import Decoding, answer, cut, token_budget
from nacre.evaluation.scoring import is_right, normalize
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_ft import seq_ft
from nacre.models.loading import load_host
from nacre.tasks.demo import demo_tasks
from nacre.tasks.reading.sources import load_tasks


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    arguments.add_argument("--model", default="demo", help="folder or name of a model, or demo")
    arguments.add_argument("--data", type=Path, help="folder with the task; none: a task of the demo")
    arguments.add_argument("--task", default="request")
    arguments.add_argument("--rows", type=int, default=200, help="test rows, a fixed sample")
    arguments.add_argument("--teach", type=int, default=0, help="training rows that are learnt before")
    arguments.add_argument("--epochs", type=int, default=1, help="how often they are learnt")
    arguments.add_argument("--batch-size", type=int, default=64)
    arguments.add_argument("--max-new-tokens", type=int, help="none: two more than the longest label")
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)

    tasks = (
        load_tasks([chosen.task], chosen.data) if chosen.data else [t for t in demo_tasks() if t.name == chosen.task]
    )
    task = tasks[0].limited(train=chosen.teach or None, test=chosen.rows)
    decoding = Decoding(batch_size=chosen.batch_size, max_new_tokens=chosen.max_new_tokens)
    optim = Optim(epochs=chosen.epochs, batch_size=16)
    learner = Learner(load_host(chosen.model), seq_ft(), optim=optim, decoding=decoding)
    if chosen.teach:
        learner.learn(task)
    host, lengths, examples = learner.host, learner.lengths, task.examples("test")
    host.model.eval()
    budget = token_budget(host, [task], lengths, decoding)

    def answers(labels: bool, decode: str = "free") -> list[str]:
        sets = [task.labels] if labels else None
        return answer(host, [examples], lengths, decoding.model_copy(update={"decode": decode}), budget, sets)[0]

    @torch.inference_mode()
    def read() -> None:
        rows = sorted(learner.encode(examples), key=lambda row: len(row.source))
        model = host.model.get_encoder() if host.family.name == "encoder-decoder" else host.model.base_model
        for batch in cut(rows, decoding.batch_size, decoding.split_padding):
            model(**host.family.prompts(batch))

    ways: dict[str, Callable[[], list[str] | None]] = {
        "generation": lambda: answers(False),
        "generation again": lambda: answers(False),
        "labels": lambda: answers(True, "labels"),
        "reading alone": read,
    }
    found = {name: way() for name, way in ways.items()}  # the first calls, not timed
    free, best = found["generation"], found["labels"]
    assert free is not None
    assert best is not None
    labels = task.labels or ()
    valid = {normalize(label) for label in labels}
    width = statistics.mean(len(row.source) for row in learner.encode(examples))
    print(f"{chosen.task}: {len(examples)} rows, {width:.0f} tokens read on average, at most {budget} written")
    right = [sum(is_right(a, row.target) for a, row in zip(got, task.test, strict=True)) for got in (free, best)]
    print(f"{len(labels)} labels; of the free answers {sum(normalize(a) in valid for a in free)} are one")
    print(f"right: {right[0]} free, {right[1]} labels")
    same = sum(normalize(one) == normalize(other) for one, other in zip(free, best, strict=True))
    print(f"{same} of the free answers are the label that was chosen")

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order, shuffle = list(ways), random.Random(0)
    for _ in range(chosen.rounds):
        shuffle.shuffle(order)
        for name in order:
            started = time.process_time()
            ways[name]()
            seconds[name].append(time.process_time() - started)
    print(f"{'generation / way':<20}{'median':>8}{'min':>8}{'max':>8}{'CPU s':>9}")
    for name, spent in seconds.items():
        ratios = [base / own for base, own in zip(seconds["generation"], spent, strict=True)]
        print(
            f"{name:<20}{statistics.median(ratios):>8.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}"
            f"{statistics.median(spent):>9.2f}"
        )


if __name__ == "__main__":
    main()
