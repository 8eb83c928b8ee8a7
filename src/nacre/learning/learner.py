"""A learner: a host, a method and what has been learnt so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor

from nacre.adapters.adapter import PlacedAdapter
from nacre.errors import DataError, TrainingError
from nacre.evaluation.decoding import Decoding, answer, token_budget
from nacre.evaluation.perplexity import TextScore, measure_text
from nacre.evaluation.scoring import TaskScore, score
from nacre.learning import checkpoint
from nacre.learning.batches import Batches, TokenCount
from nacre.learning.settings import Optim
from nacre.learning.state import State
from nacre.learning.trainer import Report, train
from nacre.method import Method
from nacre.models.families import Encoded, HeadKind, Lengths
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup
from nacre.parts.part import Held, Step
from nacre.per_task import value_of
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example


def _silent(kind: str, **values: Any) -> None:
    """The report that nobody reads."""


class Learner:
    """Teaches a pretrained model task after task.

        learner = Learner(Host(model, tokenizer), am_lora(rank=8))
        learner.learn(task)
        learner.evaluate([task])

    host: a Hugging Face model with a language-model head, or an encoder without pooler; it moves to the device
    that accelerate finds, is changed in place, and is given back, bit for bit, by ``remove()``. seed: of everything
    random. optim, decoding: how to train and how to answer. head: of an encoder-only host, how it chooses answers:
    by one head that grows with the tasks' labels, or by a head for each task, which must then be told in training and
    at test (``per_task``). report: is called with what happens (see ``trainer.Report``).
    """

    def __init__(
        self,
        host: Host,
        method: Method,
        *,
        seed: int = 0,
        optim: Optim | None = None,
        decoding: Decoding | None = None,
        head: HeadKind = "growing",
        report: Report = _silent,
    ) -> None:
        if not isinstance(host, Host) or not isinstance(method, Method):
            raise TypeError("Learner needs a host and a method: Learner(Host(model, tokenizer), am_lora()).")
        self.host = host
        self.method = method
        self.optim = optim or Optim()
        self.decoding = decoding or Decoding()
        self.head = head
        self.report = report
        self.state = State(seed=seed)
        self.host.family.multiple = self.optim.pad_to_multiple_of
        self.step = Step(0, 0, 0.0)  # where training is; the trainer says so
        self.held: dict[str, Held] = {}  # what parts hold while a task is learnt
        self.derived: dict[str, Any] = {}  # what parts can compute again from the adapter; never saved
        self.work = TokenCount()  # how much the newest task took
        self.host.model.to(PartialState(cpu=_only_cpu()).device)
        self.host.family.use_head(head)
        self.host.family.load({}, {})  # an earlier learner's classes are not this one's
        self.pretrained = self.host.fingerprint  # of the host as it is now, before anything is placed or learnt
        self.unfinished: str | None = None  # what is being learnt; after an error, what was
        self.adapter: PlacedAdapter = method.adapter.place(self.host.body)

    @property
    def task_number(self) -> int:
        """The number of the task being learnt, or learnt last; from 1, 0 before any."""
        return self.adapter.tasks

    @property
    def learning_rate(self) -> float:
        """On the task being learnt."""
        setting = self.optim.learning_rate or self.method.adapter.learning_rate
        return value_of(setting, self.task_number, "optim.learning_rate")

    @property
    def lengths(self) -> Lengths:
        return Lengths(self.optim.max_source_length, self.optim.max_target_length)

    def learn(self, *tasks: Task) -> None:
        """Learn one task; with a joint curriculum, several at once. Earlier tasks' frozen tensors do not move.

        Raises ``DataError`` if the host cannot learn such a task; nothing has happened then.
        Raises ``TrainingError`` if the curriculum does not work that way, if a loss is not finite, or if nothing can
        be learnt from a batch.
        """
        try:
            self._learn(tasks)
        finally:
            for held in self.held.values():
                held.close()
            self.held.clear()

    def _learn(self, tasks: Sequence[Task]) -> None:
        self._check_curriculum(tasks)
        for task in tasks:
            self.host.family.check(task)
        self.unfinished = " + ".join(task.name for task in tasks)
        self.host.family.prepare(tasks, self.state.seed, self._rehearsed())
        fresh = self.adapter.grow()
        if folding := self.adapter.folding_summary():
            self.report("folded", **folding)
        if fresh:
            self.method.start.fill(self, tasks)
        for part in self.method.parts:
            part.begin(self, tasks)
        self.report("trainable", groups=[(group.name, group.size) for group in self.trainable()])
        batches = Batches(
            rows=self._rows(tasks),
            seed=self.state.seed,
            where=self.unfinished,
            batch_size=self.optim.batch_size,
            epochs=int(value_of(self.optim.epochs, self.task_number, "optim.epochs")),
        )
        with self._seeded("learn", self.task_number):
            accelerator = Accelerator(mixed_precision=self.optim.mixed_precision, cpu=_only_cpu())
            self.work = train(self, batches, self.optim, accelerator, self.report)
        for part in self.method.parts:
            part.end(self, tasks)
        self.adapter.freeze()
        for parameter in self.host.family.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.state.tasks += [task.name for task in tasks]
        self.unfinished = None

    def trainable(self) -> list[ParameterGroup]:
        """What is trained for the newest task: the adapter's own groups and, of an encoder-only host, ``head``."""
        head = self.host.family.parameters()
        return [*self.adapter.parameter_groups(), *([ParameterGroup("head", head)] if head else [])]

    @property
    def traits(self) -> dict[str, bool]:
        """The method's; and a head for each task must be told the task, in training and at test."""
        told = ("task boundaries in training", "task identity at test")
        return self.method.traits | (dict.fromkeys(told, True) if self.head == "per_task" else {})

    def stored_parameters(self) -> int:
        """Numbers kept besides the pretrained model."""
        return self.adapter.stored_parameters() + sum(tensor.numel() for tensor in self.host.family.tensors().values())

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The examples as token ids, within the lengths that training uses."""
        return self.host.family.encode_all(examples, self.lengths)

    def loss_sum(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum over the rows' target tokens of the task loss, as one batch, in the model's present mode. Returns []."""
        tensors = {name: tensor.to(self.host.device) for name, tensor in self.host.family.batch(rows).items()}
        return self.host.family.loss_sum(self.host.model, tensors)

    def answer(self, tasks: Sequence[Task]) -> list[list[str]]:
        """Answers to the test rows of each task, in row order, as ``decoding`` says.

        Raises ``DataError`` if a task is unlabelled text, or if labels are to be chosen and it has none.
        """
        for task in tasks:
            if task.kind == "text":
                raise DataError(
                    f"Task '{task.name}' is unlabelled text, which has no answers; measure_text() scores it."
                )
        self.decoding.check(tasks)
        return answer(
            self.host,
            [task.examples("test") for task in tasks],
            self.lengths,
            self.decoding,
            token_budget(self.host, tasks, self.lengths, self.decoding),
            [task.labels for task in tasks],
        )

    def evaluate(self, tasks: Sequence[Task]) -> list[TaskScore]:
        """Accuracy and share of valid answers on the test rows of each task."""
        return [score(task, answers) for task, answers in zip(tasks, self.answer(tasks), strict=True)]

    def measure_text(self, task: Task) -> TextScore:
        """Token accuracy and perplexity on the test rows of a task of unlabelled text."""
        if task.kind != "text":
            raise DataError(f"Task '{task.name}' has targets; evaluate() scores the answers to it.")
        return measure_text(self.host, task, self.lengths, self.decoding.batch_size)

    def predict(self, inputs: Sequence[str], task: str = "") -> list[str]:
        """Free answers to finished prompts, of at most ``decoding.max_new_tokens`` or else the targets' limit. A prompt
        has no label set, so that ``decoding.decode`` does not matter here.

        task: which one the inputs are of. Only hosts with a head for each task are told, and must be.

        Raises ``DataError`` if no such task has been learnt, or none is named where one must be.
        """
        if task and task not in self.state.tasks:
            learnt = ", ".join(self.state.tasks) or "none"
            raise DataError(f"predict(task='{task}'): no such task has been learnt; learnt so far: {learnt}.")
        limit = self.decoding.max_new_tokens or self.lengths.target
        examples = [Example("", text, "", "", task=task) for text in inputs]
        return answer(self.host, [examples], self.lengths, self.decoding, limit)[0]

    def save(self, folder: str | Path) -> None:
        """Write everything that the learner's future depends on, except the pretrained model; atomically."""
        self._check_finished()
        checkpoint.save(self, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        host: Host | None = None,
        method: Method | None = None,
    ) -> Learner:
        """The learner that was saved, bit for bit. host: the pretrained model; loaded by the name it had when saved, if
        not given. method: needed only for one that was put together by hand.

        Raises ``CheckpointError`` if a file is missing or damaged, or if this is another pretrained model.
        """
        return checkpoint.load(cls, Path(folder), host, method)

    def remove(self) -> None:
        """Take everything that was learnt out of the model, which is then bit for bit what it was."""
        self.adapter.remove()
        self.derived.clear()
        self.host.family.use_head("growing")
        self.host.family.load({}, {})

    def _rehearsed(self) -> set[str]:
        """Earlier tasks of which rows are learnt again, whose heads are then trained too."""
        if self.head == "growing" or self.method.memory is None:
            return set()
        return {example.task for example in self.method.memory.examples(self)}

    def _rows(self, tasks: Sequence[Task]) -> list[Encoded]:
        examples = [example for task in tasks for example in task.examples("train")]
        if self.method.memory is not None:
            examples += self.method.memory.examples(self)
        rows = self.encode(examples)
        self.report("rows", rows=len(rows), truncated=sum(row.truncated for row in rows))
        return rows

    def _check_finished(self) -> None:
        if self.unfinished is not None:
            raise TrainingError(
                f"Learning '{self.unfinished}' stopped halfway, and the adapter with it: load the learner as it was "
                "saved before, or make a new one."
            )

    def _check_curriculum(self, tasks: Sequence[Task]) -> None:
        self._check_finished()
        stages = self.method.curriculum.stages(tasks) if tasks else []
        if len(stages) != 1:
            raise TrainingError(
                f"{self.method.name or self.method.title} learns one task at a time; learn() was given {len(tasks)}."
            )
        if self.state.tasks and not self.method.curriculum.continues:
            raise TrainingError(
                f"{self.method.name or self.method.title} begins from the untouched model each time, and this learner "
                f"has learnt {', '.join(self.state.tasks)} already: make a new Learner."
            )

    @contextmanager
    def _seeded(self, *where: str | int) -> Iterator[None]:
        """Seed torch for what happens inside, and leave the caller's own random state as it was."""
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(self.state.seed, *where))
            yield


def _only_cpu() -> bool:
    """accelerate forms a group of processes on CPUs only if it is told that there is nothing else."""
    return not torch.accelerator.is_available()
