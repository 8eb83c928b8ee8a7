"""A learner: a host, a method and what has been learned so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from nacre import processes
from nacre.adapters.adapter import Adapter, PlacedAdapter
from nacre.adapters.merged import merged_copy
from nacre.adapters.route import Route
from nacre.adapters.site import Site
from nacre.adapters.slots_on_disk import SlotsOnDisk
from nacre.errors import DataError, ModelError, RecipeError, TrainingError, nearest
from nacre.evaluation.candidates import Calibration, Candidates, LabelSet
from nacre.evaluation.decoding import answer, in_batches
from nacre.evaluation.perplexity import TextScore, measure_text
from nacre.evaluation.scoring import TaskScore, score
from nacre.evaluation.settings import Decoding
from nacre.evaluation.spelling import (
    as_answered,
    label_spellings,
)
from nacre.events import OnEvent, PastFolded, RowsAnswered, Stopped, TrainingPrepared, Warned, only_warn
from nacre.functional.losses import token_loss_sum
from nacre.learning import checkpoint
from nacre.learning.answers import answers_to
from nacre.learning.batches import Batches, TokenCount
from nacre.learning.contents import taken_out
from nacre.learning.decided import RowDecision, decided
from nacre.learning.forgetting import take_out
from nacre.learning.notices import report_rows, warn_of_rounding
from nacre.learning.precision import accelerator_of
from nacre.learning.prefix import LearnerPrefix
from nacre.learning.restoring import check_on_disk, method_in, take_over
from nacre.learning.router import ChosenRoute, LearnerRouter, NoInputs, followed, routed_by
from nacre.learning.settings import Optim
from nacre.learning.snapshot import OwnerState, Snapshot, State, as_tree
from nacre.learning.trainer import Loss, train
from nacre.learning.training_saves import TrainingSaves
from nacre.method import Method
from nacre.models.batch import Batch
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.models.loaded_as import LoadedAs
from nacre.models.loading import load_host_as
from nacre.models.named import HeadKind
from nacre.models.owner import Owner, ParameterGroup
from nacre.models.pooled_states import PooledStates, pooled_states
from nacre.parts.decision import Decision
from nacre.parts.part import MicroBatch, Part, Reading, Step
from nacre.per_task import value_of
from nacre.progress import ProgressBar
from nacre.randomness import seeded
from nacre.seeds import derive
from nacre.tasks.prompts import Conversation, TaskForm, prompt_example
from nacre.tasks.task import Task
from nacre.tasks.template import Example

S = TypeVar("S")

GivenFactors = Mapping[str, tuple[Tensor, Tensor]] | None
"""LoRAs that were trained elsewhere, by linear map; None where training is to be done."""


class Learner:
    """Teaches a pretrained model task after task.

        learner = Learner(Host(model, tokenizer), am_lora(rank=8))
        learner.learn(task)
        learner.evaluate([task])

    Attributes:
        host: The pretrained model. It moves to the device that accelerate finds, is changed in place, and is given
            back, bit for bit, by `remove`. It carries one learner at a time.
        method: What is trained, and how tasks share it.
        optim, decoding: How to train and how to answer.
        head: How an encoder-only host chooses answers: by one head that grows with the tasks' labels, or by a head for
            each task, which must then be given in training and at test (``per_task``).
        state: What it remembers besides the owners' tensors.
        owners: Whoever holds learned tensors, by name: ``adapter``, and where there are such, ``head``, ``routing`` and
            ``memory``.
        step: Where training is.
        resources: What parts hold while a task is learned.
        cache: What parts can compute again from the adapter; never saved.
        serves: Whether test rows are being answered or measured.
        router: Asks the method's routing before each batch; None without one.
        work: How much training the newest task took.
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
        on_event: OnEvent | None = None,
    ) -> None:
        """A learner that has learned nothing yet.

        Args:
            host: The pretrained model.
            method: What is trained, and how tasks share it.
            seed: Of everything random.
            optim: How to train; by default `Optim()`.
            decoding: How to answer; by default `Decoding()`.
            head: The kind of classification head of an encoder-only host.
            on_event: Called with what happens (see `nacre.events`). By default warnings become Python's, and a bar
                moves in terminals and notebooks (`nacre.ProgressBar`); `nacre.events.only_warn` shows no bar.

        Raises:
            ModelError: If the host already carries a learner, or if the method does not fit it.
            RecipeError: If the host's positions do not hold targets or answers of these lengths.
        """
        if not isinstance(host, Host):
            raise TypeError(
                f"Learner needs a host first, not a {type(host).__name__}: Learner(load_host(NAME), method), or "
                "Learner(Host(model, tokenizer), method)."
            )
        if not isinstance(method, Method):
            raise TypeError(
                f"Learner needs a method behind the host, not a {type(method).__name__}: Learner(host, am_lora()), or "
                "Learner(host, build_method(NAME))."
            )
        method.check_host(host)
        if head == "per_task" and not method.trains:
            raise RecipeError(
                f"head=per_task: {method.display_name} answers without a classification head; leave 'head' at growing."
            )
        decoding = decoding or Decoding()
        decoding.check_method(method, head)
        if optim is not None and optim.gradient_checkpointing:
            method.check_computed_again()
        if optim is not None and optim.mixed_precision == "fp16" and "host" in method.adapter.groups:
            host.check_whole("optim.mixed_precision=fp16, which skips steps by the whole gradient,")
        host.claim(method.display_name)
        self.host = host
        self.method = method
        self.optim = optim or Optim()
        self.decoding = decoding
        self.head = head
        self.on_event: OnEvent = on_event or _shown_by_one()
        self.state = State(seed=seed)
        self.step = Step(0, 0, 0.0)
        self.resources: dict[str, Any] = {}
        self.cache: dict[str, Any] = {}
        self.work = TokenCount()
        self.unfinished: str | None = None  # what is being learned; after an error, what was
        self.removed = False
        self.serves = False
        self._opened = ExitStack()  # what parts close when learning a task stops
        self._number: int | None = None  # of the task being learned
        self._model: torch.nn.Module = host.model  # while a task is learned: what accelerate made of it
        self._autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        try:
            host.family.multiple = self.optim.pad_to_multiple_of
            host.move_to(processes.device())
            if host.settle():
                self.on_event(Warned(host.unlike))
            if self.decoding.decode == "labels":
                host.family.ways.check_labels()
            classification_head = host.use_head(head)
            host.family.check_lengths(self.lengths, self.decoding.max_new_tokens)
            self.adapter: PlacedAdapter = method.adapter.place(host.body)
        except BaseException:
            host.release()
            raise
        host.family.prefix = LearnerPrefix(self) if method.adapter.has_virtual_tokens else None
        self.router: LearnerRouter | None = None
        self.owners: dict[str, Owner] = {"adapter": self.adapter}
        if classification_head is not None:
            self.owners["head"] = classification_head
        if method.routing is not None:
            if (routing := method.routing.place(host, self.adapter)) is not None:
                self.owners["routing"] = routing
            self.router = host.family.router = LearnerRouter(self, method.routing)
        if method.memory is not None and (kept := method.memory.owner(host, self.adapter)) is not None:
            self.owners["memory"] = kept
        self._pretrained: str | None = None

    def __repr__(self) -> str:
        learned = ", ".join(self.state.tasks) or "nothing yet"
        return f"Learner({self.method.display_name} in {self.host.name}, seed {self.state.seed}; learned: {learned})"

    @property
    def pretrained(self) -> str:
        """Hash of the pretrained model, without what was learned; computed when somebody first asks."""
        if self._pretrained is None:
            self._pretrained = self.host.pretrained_hash(self.adapter.pristine)
        return self._pretrained

    @property
    def task_number(self) -> int:
        """Number of the task being learned, or learned last; from 1, 0 before any."""
        return self.adapter.tasks if self._number is None else self._number

    @property
    def learning_rate(self) -> float:
        """On the task being learned."""
        setting = self.optim.learning_rate or self.method.adapter.learning_rate
        return value_of(setting, self.task_number, "optim.learning_rate")

    @property
    def epochs(self) -> int:
        """See `nacre.parts.part.LearnerView`."""
        return int(value_of(self.optim.epochs, self.task_number, "optim.epochs"))

    @property
    def lengths(self) -> Lengths:
        """How many tokens inputs and targets may have in training."""
        return Lengths(self.optim.max_source_length, self.optim.max_target_length)

    def learn(self, *tasks: Task, again: bool = False, saves: TrainingSaves | None = None) -> None:
        """Learn one task; with a joint curriculum, several at once. Earlier tasks' frozen tensors do not move.

        Args:
            tasks: One task, or several at once.
            again: Whether a task may have been learned before; it is learned as a further one then.
            saves: Where training is saved while it goes on, and where it goes on if it was; None: it is not saved.

        Raises:
            DataError: If a task has no rows, or if the host cannot learn such a task; nothing has happened then.
            TrainingError: If the curriculum does not work that way, if a task has been learned before, if a loss is not
                finite, or if nothing can be learned from a batch.
        """
        self._learn_wholly(tasks, again, None, saves)

    def adopt(self, task: Task, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take a task over whose LoRA was trained elsewhere: all happens as in `learn`, but for the training.

        Args:
            task: The task; parts that look at its rows do so.
            factors: A [r, d_in] and B [d_out, r] of every linear map, by its name; the scale is the adapter's.

        Raises:
            ModelError: If they do not fit the method's adapter.
            DataError, TrainingError: As `learn` does.
        """
        self._learn_wholly([task], False, factors, None)

    def _learn_wholly(
        self, tasks: Sequence[Task], again: bool, factors: GivenFactors, saves: TrainingSaves | None
    ) -> None:
        try:
            self._learn(tasks, again, factors, saves)
        finally:
            self._number = None
            self.resources.clear()
            self._opened.close()
        self._calibrate(tasks)
        self.unfinished = None

    def check(self, task: Task) -> None:
        """Check that the method and the host can learn a task, and the host can answer it as `decoding` says.

        Raises:
            DataError: If they cannot.
        """
        self.method.check(task)
        self.host.family.check(task)
        self.decoding.check_rows(task)
        if self.decoding.decode == "labels" and self.method.readout is None and task.labels:
            for example in task.examples("train")[:1]:
                LabelSet.of(self.host.family, example, Candidates(task.labels), self.lengths).check_distinct()
        if self.writes_labels:
            label_spellings(self.host.family, task)

    @property
    def writes_labels(self) -> bool:
        """Whether answers are written freely, so that a label has to be read in them."""
        return self.method.readout is None and self.decoding.decode == "free"

    def _learn(self, tasks: Sequence[Task], again: bool, factors: GivenFactors, saves: TrainingSaves | None) -> None:
        if self.adapter.on_disk is not None:
            raise TrainingError(
                "This learner's slots stay on disk: load it without slots_in_memory to learn more tasks."
            )
        self._check_curriculum(tasks)
        for number, task in enumerate(tasks):
            self._check_rows(task, () if again else [*self.state.tasks, *(other.name for other in tasks[:number])])
            self.check(task)
        self.unfinished = " + ".join(task.name for task in tasks)
        self._number = self.adapter.tasks + 1
        for part in self.method.parts:
            part.prepare(self, tasks)
        earlier, more = self._extra_examples(tasks)
        if self.host.family.head is not None and self.method.trains:
            rehearsed = {example.task for example in earlier}
            if self.method.memory is not None:
                rehearsed.update(self.method.memory.rehearsed(self))
            self.host.family.head.prepare(tasks, self.state.seed, rehearsed)
        fresh = self.adapter.grow()
        if folding := self.adapter.folding_summary():
            self.on_event(PastFolded(**folding))
        if fresh:
            self.method.start.fill(self, tasks)
        for part in self.method.parts:
            part.begin(self, tasks)
        self._take_from_first()
        if factors is None:
            self.on_event(TrainingPrepared(groups=[(group.name, group.size) for group in self.trainable()]))
        if not self.state.tasks:
            warn_of_rounding(self, self.trainable())
        if factors is not None:
            self.adapter.take(factors)
        elif self.trainable():
            own = [example for task in tasks for example in task.examples("train")]
            self._train(tasks, [*own, *more, *earlier], saves)
        for part in self.method.parts:
            part.end(self, tasks)
        for owner in self.owners.values():
            owner.freeze()
        self._take_from_first()
        self.state.tasks += [task.name for task in tasks]
        self.state.forms |= {task.name: TaskForm.of(task) for task in tasks}

    def _take_from_first(self) -> None:
        """Give several processes one learner: each computes starts and statistics itself, and last bits may differ."""
        if processes.count() == 1:
            return
        remembered: dict[str, Tensor] = {}
        for key, state in self.state.parts.items():
            taken_out(as_tree(state, key), key, remembered)
        owned = [tensor for owner in self.owners.values() for tensor in owner.tensors().values()]
        processes.take_from_first([*owned, *remembered.values()])

    @torch.inference_mode()
    def _calibrate(self, tasks: Sequence[Task]) -> None:
        """Score the tasks' labels on their validation rows, which are answered as test rows are; never again."""
        for task in tasks if self.decoding.calibrates else ():
            if not task.labels:
                continue
            rows = sorted(self.encode(task.examples("validation")), key=lambda row: len(row.source))
            scored = partial(self.label_scores, labels=task.labels)
            scores: list[Tensor] = []
            with self.serving():
                for found in in_batches(scored, rows, self.decoding, in_step=self.host.is_sharded):
                    scores.append(found)
                    self.on_event(RowsAnswered(done=sum(map(len, scores)), rows=len(rows)))
            self.state.calibrations[task.name] = Calibration.of(self.decoding, task, torch.cat(scores))

    def _extra_examples(self, tasks: Sequence[Task]) -> tuple[Sequence[Example], Sequence[Example]]:
        """Of earlier tasks, and more of the new ones; asked once a task, before its slot opens."""
        memory = self.method.memory
        if memory is None:
            return (), ()
        earlier = memory.examples(self, tasks) if memory.mixed else ()
        return earlier, memory.lessons(self, tasks)

    def _train(self, tasks: Sequence[Task], examples: Sequence[Example], saves: TrainingSaves | None) -> None:
        rows = self.encode(examples)
        report_rows(self, tasks, examples, rows)
        batches = Batches(
            rows=rows,
            seed=self.state.seed,
            where=self.unfinished or "",
            batch_size=self.optim.batch_size,
            epochs=self.epochs,
        )
        apart = (processes.rank(),) if processes.rank() else ()  # dropout is drawn anew in each process
        seed = derive(self.state.seed, "learn", self.task_number, *apart)
        with seeded(seed), accelerator_of(self.optim.mixed_precision) as accelerator:
            self._autocast = accelerator.autocast
            try:
                self.work = train(self, batches, self.optim, accelerator, self.on_event, saves)
            finally:
                self._model, self._autocast = self.host.model, nullcontext
                self.on_event(Stopped())

    def begin_step(self, step: Step) -> None:
        """Tell everybody that a step begins."""
        self.step = step
        for part in self.method.parts:
            part.before_step(self)

    def loss(self, model: torch.nn.Module, rows: Sequence[Encoded], batch: Batch) -> Loss:
        """The loss of a micro-batch.

        Args:
            model: What accelerate made of the host's model.
            rows: The micro-batch.
            batch: The same as tensors, on the device.
        """
        self._model = model
        logits, labels = self.host.family.predictions(model, batch)
        task = token_loss_sum(logits, labels)
        if not self.method.batch_terms and self.method.memory is None:
            return Loss(task, {})
        router = self.router
        micro_batch = MicroBatch(rows, batch, logits, labels, None if router is None else router.newest)
        terms = {term.key: term.value(self, micro_batch) for term in self.method.batch_terms}
        if self.method.memory is not None:
            self.method.memory.observe(self, micro_batch)
        return Loss(task, terms)

    def trainable(self) -> list[ParameterGroup]:
        """What is trained for the newest task: the adapter's groups and, where there are such, ``head`` and routing."""
        return [group for owner in self.owners.values() for group in owner.parameter_groups()]

    @property
    def traits(self) -> dict[str, bool]:
        """The method's; and a head for each task must be given the task, in training and at test."""
        given = ("task boundaries in training", "task identity at test")
        return self.method.traits | (dict.fromkeys(given, True) if self.head == "per_task" else {})

    def stored_parameters(self) -> int:
        """Numbers kept besides the pretrained model."""
        return sum(tensor.numel() for owner in self.owners.values() for tensor in owner.tensors().values())

    def remembered(self, part: Part, kind: type[S]) -> S | None:
        """See `nacre.parts.part.LearnerView`."""
        state = self.state.parts.get(part.remembers or part.key)
        assert state is None or isinstance(state, kind)
        return state

    def remember(self, part: Part, state: object) -> None:
        """See `nacre.parts.part.LearnerView`."""
        if part.State is None or not isinstance(state, part.State):
            raise TypeError(f"{part.key} remembers {part.State}, not a {type(state).__name__}.")
        as_tree(state, part.key)  # refused now, not when it is saved
        self.state.parts[part.remembers or part.key] = state

    def on_close(self, callback: Callable[[], object]) -> None:
        """See `nacre.parts.part.LearnerView`."""
        self._opened.callback(callback)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The examples as token ids, within the lengths that training uses."""
        return self.host.family.encode_all(examples, self.lengths)

    def loss_sum(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum over the rows' target tokens of the task loss, as one batch, in the model's present mode. Returns []."""
        return self.host.family.loss_sum(self.host.model, self.host.on_device(self.host.family.batch(rows)))

    def predictions(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """See `nacre.parts.part.LearnerView`."""
        with self._autocast():
            return self.host.family.predictions(self._model, self.host.on_device(self.host.family.batch(rows)))

    def pooled_states(self, rows: Sequence[Encoded], states: PooledStates) -> Tensor:
        """See `nacre.parts.part.LearnerView`."""
        if states.text == "bare":
            rows = [self.host.family.bare(row, self.lengths) for row in rows]
        with self.bypassed():
            return torch.stack(self.host.read(rows, lambda prompts, _: pooled_states(self.host, prompts, states)))

    def label_scores(self, rows: Sequence[Encoded], labels: Sequence[str], route: Route | None = None) -> Tensor:
        """See `nacre.parts.part.LearnerView`."""
        family = self.host.family
        cues = [family.cue(_example(row)) for row in rows]
        numbers = {cue: family.label_set(_example(rows[cues.index(cue)]), labels, self.lengths) for cue in set(cues)}

        def scored(prompts: Batch, places: Sequence[int]) -> list[Tensor]:
            found: dict[int, Tensor] = {}
            for cue in dict.fromkeys(cues[place] for place in places):
                own = [number for number, place in enumerate(places) if cues[place] == cue]
                read = prompts if len(own) == len(places) else prompts.taken(own)
                chosen = None if route is None else route.rows([places[number] for number in own])
                with nullcontext() if chosen is None else routed_by(family, ChosenRoute(self, chosen)):
                    found |= zip(own, family.label_scores(read, numbers[cue]), strict=True)
            return [found[number] for number in range(len(places))]

        return torch.stack(self.host.read_for_labels(rows, scored))

    def write(self, rows: Sequence[Encoded]) -> list[str]:
        """See `nacre.parts.part.LearnerView`."""
        return self.host.write(rows, self.decoding.max_new_tokens or self.lengths.target)

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Inside, the host computes as if nothing had been learned, bit for bit."""
        family = self.host.family
        before, family.prefix = family.prefix, None
        try:
            with self.adapter.bypassed(), routed_by(family, None):
                yield
        finally:
            family.prefix = before

    @contextmanager
    def under(self, route: Route) -> Iterator[None]:
        """Inside, batches are read under this route instead of the one that the method's routing would choose."""
        with routed_by(self.host.family, None), followed(self, route):
            yield

    @contextmanager
    def beside(self, adapter: Adapter, *, seed: int, on_event: OnEvent, **optim: Any) -> Iterator[Learner]:
        """See `nacre.parts.part.LearnerView`."""
        family = self.host.family
        if family.head is not None:
            raise ModelError(
                f"'{self.host.name}' is {family.name}: its classification head belongs to one learner, and no second "
                "one can learn beside it."
            )
        method = Method(title=f"Beside {self.method.display_name}", sources=(), adapter=adapter)
        settings = self.optim.model_copy(update=optim)
        before, family.prefix = family.prefix, None
        try:
            with routed_by(family, None), self.adapter.aside(), self.host.lent():
                decoding = self.decoding.of_own_task()
                second = Learner(self.host, method, seed=seed, optim=settings, decoding=decoding, on_event=on_event)
                try:
                    yield second
                finally:
                    second.remove()
        finally:
            family.prefix = before

    @contextmanager
    def as_task(self, name: str) -> Iterator[None]:
        """Inside, the host computes as for rows of this task, where the method must be given the task of each.

        Args:
            name: The task's.
        """
        routing = self.method.routing
        if routing is None or not routing.needs_task_at_test:
            yield
            return
        route = routing.route(self, Reading({}, (name,), NoInputs()))
        with routed_by(self.host.family, None) if route is None else self.under(route):
            yield

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Inside, test rows are answered or measured, and parts serve what they serve."""
        before, self.serves = self.serves, True
        try:
            with ExitStack() as served:
                served.callback(lambda: self.on_event(Stopped()))
                for part in self.method.parts:
                    served.enter_context(part.serving(self))
                yield
        finally:
            self.serves = before

    def answer(self, tasks: Sequence[Task]) -> list[list[str]]:
        """Answers to the test rows of each task, in row order, as `decoding` says; by the method's readout, if any.

        Raises:
            DataError: If a task is unlabeled text, or if labels are to be chosen and it has none.
        """
        self.check_usable()
        with self.serving():
            return answers_to(self, tasks)

    @overload
    def evaluate(self, tasks: Task) -> TaskScore: ...

    @overload
    def evaluate(self, tasks: Sequence[Task]) -> list[TaskScore]: ...

    def evaluate(self, tasks: Task | Sequence[Task]) -> TaskScore | list[TaskScore]:
        """Accuracy and share of valid answers on the test rows of one task, or of each of several.

        Raises:
            DataError: If a task cannot be answered, see `answer`.
            TrainingError: If learning a task stopped halfway.
        """
        if isinstance(tasks, Task):
            return self.evaluate([tasks])[0]
        answered = zip(tasks, self.answer(tasks), strict=True)
        return [score(as_answered(self.host.family, task), answers) for task, answers in answered]

    def measure_text(self, task: Task) -> TextScore:
        """Token accuracy and perplexity on the test rows of a task of unlabeled text."""
        if task.kind != "text":
            raise DataError(f"Task '{task.name}' has targets; evaluate() scores the answers to it.")
        self.check_usable()
        with self.serving():
            size = self.decoding.batch_size
            return measure_text(self.host, task, self.lengths, size, self.on_event, self._read_text)

    def _read_text(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        readout = self.method.readout
        return None if readout is None else readout.predictions(self, batch)

    @overload
    def predict(self, inputs: str, task: str = "") -> str: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, inputs: Sequence[str | Conversation], task: str = "") -> list[str]: ...

    def predict(self, inputs: str | Sequence[str | Conversation], task: str = "") -> str | list[str]:
        """Free answers to finished prompts. A prompt has no label set, so that `decoding.decode` does not matter here.

        Args:
            inputs: The prompts, or one alone. A prompt is a text, or a conversation: a list of messages, each with
                `role` and `content`, which the tokenizer's chat template writes out.
            task: Which one they are of. Only methods and heads that need the task at test are given it, and must be.

        Returns:
            An answer for each prompt, of at most `decoding.max_new_tokens` tokens, or else of the targets' limit.

        Raises:
            DataError: If no such task has been learned, if none is named where one must be, or if something is no
                prompt.
            TrainingError: If learning a task stopped halfway.
        """
        if isinstance(inputs, str):
            return self.predict([inputs], task)[0]
        self.check_usable()
        if task and task not in self.state.tasks:
            learned = ", ".join(self.state.tasks) or "none"
            raise DataError(f"predict(task='{task}'): no such task has been learned; learned so far: {learned}.")
        if self.method.chooses_labels:
            raise DataError(
                f"{self.method.display_name} chooses among a task's labels: evaluate() or answer() give them."
            )
        limit = self.decoding.max_new_tokens or self.lengths.target
        examples = [prompt_example(prompt, task) for prompt in inputs]
        with self.serving():
            return answer(self.host, [examples], self.lengths, self.decoding, limit, on_event=self.on_event)[0]

    @overload
    def ask(self, task: str, texts: str) -> str: ...  # type: ignore[overload-overlap]

    @overload
    def ask(self, task: str, texts: Sequence[str | Conversation]) -> list[str]: ...

    def ask(self, task: str, texts: str | Sequence[str | Conversation]) -> str | list[str]:
        """Answers to texts of a task that has been learned, asked as its rows were.

            learner.ask("topic", "The match ended two to one.")

        Args:
            task: The task's name. Its instruction, options and labels are kept with the learner.
            texts: The texts, or one alone. In a task of conversations a text is the user's message, and a conversation
                is a list of messages.

        Returns:
            An answer for each text, as `evaluate` would score it.

        Raises:
            DataError: If no such task has been learned, or if it has nothing to answer.
            TrainingError: If learning a task stopped halfway.
        """
        if isinstance(texts, str):
            return self.ask(task, [texts])[0]
        if task not in self.state.tasks:
            raise DataError(f"ask('{task}'): no such task has been learned. {nearest(task, self.state.tasks)}")
        if task not in self.state.forms:
            raise DataError(
                f"ask('{task}'): an older version saved this learner, without how the task is asked: give finished "
                "prompts to predict()."
            )
        return self.answer([self.state.forms[task].filled(task, texts)])[0]

    @overload
    def decide(self, inputs: str, task: str = "") -> Decision: ...  # type: ignore[overload-overlap]

    @overload
    def decide(self, inputs: Sequence[str | Conversation], task: str = "") -> list[Decision]: ...

    def decide(self, inputs: str | Sequence[str | Conversation], task: str = "") -> Decision | list[Decision]:
        """What is answered, of all labels learned so far, and how sure that is.

            learner.decide("The match ended two to one.", task="topic").kind

        Args:
            inputs: Finished prompts, as for `predict`, or one alone; with a task, texts of it, as for `ask`.
            task: Whose template the texts are put into. Which task they are of is inferred all the same.

        Raises:
            DataError: If no such task has been learned, or if the method does not say how sure it is.
            TrainingError: If learning a task stopped halfway.
        """
        if isinstance(inputs, str):
            return self.decide([inputs], task)[0]
        self.check_usable()
        if task and task not in self.state.forms:
            raise DataError(f"decide(task='{task}'): no such task has been learned. {nearest(task, self.state.forms)}")
        if task:
            examples = self.state.forms[task].filled(task, inputs).examples("test")
        else:
            examples = [prompt_example(prompt, task) for prompt in inputs]
        with self.serving():
            readout = self.method.readout
            decisions = readout.decide(self, self.encode(examples), None) if readout is not None and examples else None
        if decisions is None and examples:
            raise DataError(f"{self.method.display_name} does not say how sure it is; a method with +evidence does.")
        return decisions or []

    def decided(self, tasks: Sequence[Task]) -> list[list[RowDecision]] | None:
        """What is decided of the test rows of each task with labels: whose each one is, and how sure its answer is.

        Returns:
            In row order; None where the method does not say whose a row is, is given its task, or has learned nothing.

        Raises:
            TrainingError: If learning a task stopped halfway.
        """
        self.check_usable()
        with self.serving():
            return decided(self, tasks)

    def forget(self, task: str) -> None:
        """Take a task out again: its slot, what parts remember of it, and labels that no other task has.

        Other tasks' slots and sums keep their bits. What a later task took from this one while it was learned stays:
        its start, if it was a warm one, and the temperature that its held-out rows asked for.

        Args:
            task: The task's name.

        Raises:
            DataError: If no such task has been learned.
            ModelError: If the method's tasks do not lie apart.
            TrainingError: If a part's memory cannot be taken apart, or if learning a task stopped halfway.
        """
        self.check_usable()
        take_out(self, task)

    def merged(self) -> torch.nn.Module:
        """A copy of the model, in Hugging Face's form, with what was learned added to its weights.

        It shares nothing with the host, so that `learner.merged().save_pretrained(folder)` writes an ordinary model.

        Raises:
            ModelError: If the method's updates depend on the input or the task, and no one weight holds them; or if the
                host is sharded.
            TrainingError: If learning a task stopped halfway.
        """
        self.check_usable()
        self.host.check_whole("A merged model")
        chosen_anew = self.method.routing is not None or self.method.readout is not None
        merged = None if chosen_anew else merged_copy(self.host.body)
        if merged is None or any(isinstance(module, Site) for module in merged.modules()):
            raise ModelError(
                f"{self.method.display_name} answers in a way that depends on the input, and no one weight holds that: "
                "use learner.save(folder)."
            )
        return merged

    def snapshot(self) -> Snapshot:
        """Everything that the learner's future depends on, except the pretrained model. Tensors are not copied."""
        self.check_usable()
        return Snapshot(
            seed=self.state.seed,
            tasks=tuple(self.state.tasks),
            owners={name: OwnerState(owner.tensors(), owner.values()) for name, owner in self.owners.items()},
            parts={key: as_tree(state, key) for key, state in self.state.parts.items()},
            head=self.head,
            method={"name": self.method.name, "parameters": dict(self.method.parameters)},
            optim=self.optim.model_dump(),
            decoding=self.decoding.model_dump(),
            host={"name": self.host.name, "hash": self.pretrained, "loaded_as": self.host.loaded_as.document()},
            forms={name: as_tree(form, name) for name, form in self.state.forms.items()},
            calibrations={name: as_tree(own, name) for name, own in self.state.calibrations.items()},
        )

    def restore(self, snapshot: Snapshot, where: str = "The snapshot", on_disk: SlotsOnDisk | None = None) -> None:
        """Bring a learner that has learned nothing yet to where another one was.

        Args:
            snapshot: Of a learner with the same host and method.
            where: What an error calls it.
            on_disk: The adapter's stacks of earlier slots that the snapshot lacks, because they stay in their files.

        Raises:
            CheckpointError: If it does not fit this host, method or seed.
        """
        self.state = take_over(self, snapshot, where, on_disk)
        for part in self.method.parts:
            part.restored(self)

    def save(self, folder: str | Path) -> None:
        """Write everything that the learner's future depends on, except the pretrained model; atomically."""
        checkpoint.save(self.snapshot(), Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        host: Host | None = None,
        method: Method | None = None,
        *,
        slots_in_memory: int | None = None,
    ) -> Learner:
        """The learner that was saved, bit for bit.

        With `slots_in_memory` it answers, and learns no more: memory does not grow with the tasks then.

        Args:
            folder: Where it was saved.
            host: The pretrained model; by default loaded by the name that it had then, and held as then.
            method: Needed only for one that was put together by hand or stands in a file of one's own.
            slots_in_memory: How many earlier tasks' slots stay in memory between batches, those that answered last; the
                others are read from their files when they answer. None: all of them, from the beginning.

        Raises:
            CheckpointError: If a file is missing or damaged, or if this is another pretrained model.
            RecipeError: If slots are to stay on disk that answer together, or that are no slots.
        """
        on_disk = None if slots_in_memory is None else SlotsOnDisk(slots_in_memory)
        snapshot = checkpoint.read(Path(folder), on_disk)
        if method is None:
            method = method_in(snapshot, str(folder))
        if on_disk is not None:
            check_on_disk(method)
        learner = cls(
            load_host_as(snapshot.host["name"], LoadedAs.of(snapshot.host["loaded_as"])) if host is None else host,
            method,
            seed=snapshot.seed,
            optim=Optim(**snapshot.optim),
            decoding=Decoding(**snapshot.decoding),
            head=_head_kind(snapshot),
        )
        try:
            learner.restore(snapshot, str(folder), on_disk)
        except BaseException:
            learner.remove()
            raise
        return learner

    def remove(self) -> None:
        """Take everything that was learned out of the model, which is then bit for bit what it was.

        This learner is over then; a second call does nothing.
        """
        if self.removed:
            return
        self.removed = True
        self.host.family.router = self.host.family.prefix = None
        for owner in self.owners.values():
            owner.remove()
        self.cache.clear()
        self.host.release()

    def restart(self) -> Learner:
        """Give the host back, and begin again in it with the same settings.

        The host is bit for bit what it was, so that its hash need not be computed a second time.

        Returns:
            A learner that has learned nothing; this one is over.
        """
        self.remove()
        again = Learner(
            self.host,
            self.method,
            seed=self.state.seed,
            optim=self.optim,
            decoding=self.decoding,
            head=self.head,
            on_event=self.on_event,
        )
        again._pretrained = self._pretrained
        return again

    def check_usable(self) -> None:
        if self.removed:
            raise TrainingError(
                "This learner was removed from its model, and what it had learned with it: make a new Learner, or load "
                "one that was saved."
            )
        if self.unfinished is not None and self._number is None:
            raise TrainingError(
                f"Learning '{self.unfinished}' stopped halfway, and the adapter with it: load the learner as it was "
                "saved before, or make a new one."
            )

    def _check_rows(self, task: Task, learned: Sequence[str]) -> None:
        if not task.train:
            raise DataError(f"Task '{task.name}' has no rows to train on.")
        if task.name in learned:
            raise TrainingError(
                f"Task '{task.name}' has been learned already: give other rows a name of their own, or call "
                "learn(task, again=True)."
            )

    def _check_curriculum(self, tasks: Sequence[Task]) -> None:
        self.check_usable()
        stages = self.method.curriculum.stages(tasks) if tasks else []
        if len(stages) != 1:
            raise TrainingError(
                f"{self.method.display_name} learns one task at a time; learn() was given {len(tasks)}."
            )
        if self.state.tasks and not self.method.curriculum.continues:
            raise TrainingError(
                f"{self.method.display_name} begins from the untouched model each time, and this learner "
                f"has learned {', '.join(self.state.tasks)} already: make a new Learner."
            )


def _example(row: Encoded) -> Example:
    assert row.example is not None
    return row.example


def _shown_by_one() -> OnEvent:
    """The bar of a learner, in one of the processes that train it."""
    processes.device()  # forms their group
    return ProgressBar() if processes.is_first() else only_warn


def _head_kind(snapshot: Snapshot) -> HeadKind:
    return "per_task" if snapshot.head == "per_task" else "growing"
