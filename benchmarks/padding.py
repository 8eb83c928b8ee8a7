"""What splitting steps by length saves in training: share of padding, and tokens per second of CPU time.

    python benchmarks/padding.py --model MODEL --data FOLDER --stream order4 --rows 48
    python benchmarks/padding.py

One learner for each setting learns the stream's tasks, the same rows in the same steps; the settings take turns, task
after task, in a shuffled order, in one process. The first runs twice: the difference between the two is noise.
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from nacre.learning.batches import TokenCount
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_lora import seq_lora
from nacre.models.loading import load_host
from nacre.tasks.reading.stream_file import load_stream

SETTINGS: dict[str, int | None] = {
    "one batch": None,
    "one batch again": None,
    "256 (default)": 256,
    "64": 64,
    "0": 0,
}
"""``optim.split_padding``: tokens of padding that are worth one micro-batch more."""


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    arguments.add_argument("--model", default="demo", help="folder or name of a model, or demo")
    arguments.add_argument("--data", help="folder with the tasks; none: the demo's")
    arguments.add_argument("--stream", default="demo")
    arguments.add_argument("--rows", type=int, default=48, help="training rows of a task")
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--max-source-length", type=int, default=512)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)

    tasks = [
        task.limited(train=chosen.rows, test=1) for task in load_stream(chosen.stream, chosen.data, option="--data")
    ]
    learners, work, seconds = {}, {name: TokenCount() for name in SETTINGS}, dict.fromkeys(SETTINGS, 0.0)
    for name, split_padding in SETTINGS.items():
        optim = Optim(
            batch_size=chosen.batch_size, max_source_length=chosen.max_source_length, split_padding=split_padding
        )
        learners[name] = Learner(load_host(chosen.model, dropout=0.0), seq_lora(), optim=optim)
    order, shuffle = list(SETTINGS), random.Random(0)
    for task in tasks:
        shuffle.shuffle(order)
        for name in order:
            started = time.process_time()
            learners[name].learn(task)
            seconds[name] += time.process_time() - started
            work[name].add(learners[name].work.tokens, learners[name].work.positions)
    print(f"{chosen.stream}: {len(tasks)} tasks, {chosen.rows} rows each, steps of {chosen.batch_size}")
    print(f"{'split_padding':<18}{'padding':>9}{'tokens/s':>10}{'ratio':>7}{'CPU s':>8}")
    base = work["one batch"].tokens / seconds["one batch"]
    for name, done in work.items():
        speed = done.tokens / seconds[name]
        share = 1 - done.tokens / done.positions
        print(f"{name:<18}{share:>9.1%}{speed:>10.0f}{speed / base:>7.2f}{seconds[name]:>8.1f}")


if __name__ == "__main__":
    main()
