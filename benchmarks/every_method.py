"""A training step and an answer of every method after N tasks that it really learned, beside plain PEFT LoRA.

    python benchmarks/every_method.py --output docs/performance/every_method.json
    python benchmarks/every_method.py --methods epi l2p seq_lora+distill --past 1 15 --rounds 3

T5-small's shape with random weights, rows of 128 tokens read and 8 written. A past task has 8 rows, which is one step,
so that memories, keys and statistics hold what little such tasks leave in them. A step is the mean of a task's second
and third step, in `learn` itself; what a method does between tasks is not in it. An answer is 16 rows of 8 tokens,
written greedily, for the first task, and PEFT's are written by transformers. Three methods at a
time are measured beside PEFT; measuring.py says how. Methods that stand in the output already are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from baselines import peft_lora, plain_step
from bench import show, surroundings
from hosts import ROWS, WRITTEN, Hosts
from measuring import Measured, Variant, measure

from nacre.evaluation.settings import Decoding
from nacre.events import Event, StepTaken, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Lengths
from nacre.registry import METHODS, build_method
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

PEFT = "PEFT LoRA"
STEPS, TOGETHER = 3, 3
SHORT = Optim(batch_size=ROWS, max_source_length=128, max_target_length=WRITTEN, split_padding=None, log_every=1)
WRITING = Decoding(batch_size=16, max_new_tokens=WRITTEN)
MODIFIED = ("seq_lora+der", "seq_lora+distill", "seq_lora+hat", "seq_ft+soft_mask")
CHEAPER = {"sapt_lora": {"inputs": "real"}, "lfpt5": {"separator": "w9", "draws": 1, "per_label": 1, "max_length": 16}}
"""Settings of methods whose own ones cost much between tasks, which is not what is measured: SAPT's generators, and the
rows that LFPT5 writes, by a separator that this tokenizer has."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=[*filter(takes_steps, METHODS.names()), *MODIFIED])
    parser.add_argument("--past", type=int, nargs="+", default=[1, 5, 15], help="numbers N of past tasks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    hosts = Hosts("t5-small", torch.float32, torch.device("cpu"))
    found = measured_before(chosen.output, chosen.past, chosen.rounds)
    done = {one.name.partition(",")[0] for one in found["step"]}
    waiting = [method for method in chosen.methods if method not in done]
    for start in range(0, len(waiting), TOGETHER):
        group = waiting[start : start + TOGETHER]
        print(f"\n{', '.join(group)}", flush=True)
        for what, measured in beside_peft(hosts, group, chosen.past, chosen.rounds).items():
            print(what)
            show(measured)
            found[what] += measured
        gc.collect()
        if chosen.output is not None:
            document = {
                **surroundings(torch.device("cpu")),
                "past": chosen.past,
                "rounds": chosen.rounds,
                "parts": {what: [asdict(one) for one in measured] for what, measured in found.items()},
            }
            chosen.output.write_text(json.dumps(document, indent=1) + "\n")


def measured_before(output: Path | None, past: list[int], rounds: int) -> dict[str, list[Measured]]:
    """What an earlier run of the script has written, in the same way."""
    if output is None or not output.exists():
        return {"step": [], "answer": []}
    written = json.loads(output.read_text())
    if (written["past"], written["rounds"]) != (past, rounds):
        raise SystemExit(f"{output} has other past tasks or rounds; give this measurement a file of its own.")
    parts = written["parts"]
    return {what: [Measured(**one) for one in measured] for what, measured in parts.items()}


def takes_steps(name: str) -> bool:
    """Whether one model is trained on task after task: neither a bound nor a closed form."""
    method = build_method(name)
    return method.curriculum.continues and method.trains


def beside_peft(hosts: Hosts, methods: list[str], past: list[int], rounds: int) -> dict[str, list[Measured]]:
    """Answers first: a step moves its learner on by a task."""
    learners = {f"{name}, N={tasks}": learner_after(hosts, name, tasks) for name in methods for tasks in past}
    references = (PEFT, f"{PEFT}, again")
    answers = {name: Variant(peft_answer(hosts), PEFT) for name in references}
    answers |= {name: Variant(answer_of(learner), PEFT) for name, learner in learners.items()}
    steps = {name: Variant(peft_steps(hosts), PEFT, part=True) for name in references}
    steps |= {name: Variant(Steps(learner), PEFT, part=True) for name, learner in learners.items()}
    device = torch.device("cpu")
    answered = measure(answers, rounds, device)
    return {"step": measure(steps, rounds, device), "answer": answered}


def learner_after(hosts: Hosts, method: str, past: int) -> Learner:
    """A learner that has learned ``past`` tasks, with a step each."""
    learner = Learner(
        hosts.own(), build_method(method, CHEAPER.get(method)), optim=SHORT, decoding=WRITING, on_event=ignore
    )
    for number in range(past):
        learner.learn(task_of(number, rows=ROWS))
    return learner


def task_of(number: int, rows: int) -> Task:
    """Rows of random words; every task has another number."""
    generator = torch.Generator().manual_seed(number)
    words = torch.randint(10, 1000, (rows, 128 + WRITTEN), generator=generator).tolist()
    made = tuple(Row(_text(row[:128]), _text(row[128 : 127 + WRITTEN])) for row in words)
    return Task(f"task{number}", made, (), (made * 2)[:16], Template(answer_cue=""))


def _text(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def answer_of(learner: Learner) -> Callable[[], object]:
    first = task_of(0, rows=ROWS)
    return lambda: learner.answer([first])


class Steps:
    """The mean CPU seconds of a further task's steps but the first, which pays for what is made once."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.there = learner, copy.deepcopy(learner.snapshot())

    def __call__(self) -> float:
        ends: list[float] = []

        def note(event: Event) -> None:
            if isinstance(event, StepTaken):
                ends.append(time.process_time())

        self.learner = self.learner.restart()
        self.learner.restore(copy.deepcopy(self.there))
        self.learner.on_event = note
        self.learner.learn(task_of(len(self.there.tasks), rows=STEPS * ROWS))
        return (ends[-1] - ends[0]) / (STEPS - 1)


def peft_steps(hosts: Hosts) -> Callable[[], float]:
    host = hosts.frozen()
    step = plain_step(host, peft_lora(host), hosts.rows())

    def run() -> float:
        step()
        started = time.process_time()
        for _ in range(STEPS - 1):
            step()
        return (time.process_time() - started) / (STEPS - 1)

    return run


def peft_answer(hosts: Hosts) -> Callable[[], object]:
    host = hosts.frozen()
    model = peft_lora(host).eval()

    @torch.inference_mode()
    def run() -> object:
        examples = task_of(0, rows=ROWS).examples("test")
        rows = host.family.encode_all(examples, Lengths(SHORT.max_source_length, SHORT.max_target_length))
        return model.generate(**host.family.prompts(rows), max_new_tokens=WRITTEN, do_sample=False)  # type: ignore[operator]

    return run


if __name__ == "__main__":
    main()
