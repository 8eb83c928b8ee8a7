"""The kinds of parts that a method is made of, and what each may see and do, when.

One task is learned in this order; every moment is a method of `Part` or of one of its kinds:

    prepare            before the slot opens: the learner still answers as the last task left it
    Memory.examples    which earlier rows join the new task's epoch, and `Memory.lessons`, more rows of the new task
    Start.fill         the adapter's new slot is open and empty
    begin              the slot is open and filled
      before_step      once an optimizer step, before anything of it is computed
      Routing.route    whenever the host reads a batch, in training and at test
      Penalty.value    once a step
      BatchTerm.value  once a micro-batch, with its logits
      Memory.observe   after a micro-batch's loss
      GradientRule.apply, GradientRule.after_step    around the optimizer's step
      Holding.held, Holding.take_back    between two steps, where training is saved, and where it goes on from there
    end                after the last step
    restored           after a learner was loaded: rebuild what follows from what was saved
    serving            around every answer and evaluation
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, final

from nacre.errors import TrainingError
from nacre.events import OnEvent
from nacre.per_task import PerTask, value_of

if TYPE_CHECKING:
    from torch import Tensor

    from nacre.adapters.adapter import Adapter, PlacedAdapter
    from nacre.adapters.route import Route
    from nacre.models.batch import Batch
    from nacre.models.families import Encoded
    from nacre.models.host import Host
    from nacre.models.owner import Owner, ParameterGroup
    from nacre.models.pooled_states import PooledStates
    from nacre.parts.decision import Decision
    from nacre.parts.landmarks import Landmarks
    from nacre.tasks.prompts import TaskForm
    from nacre.tasks.task import Task
    from nacre.tasks.template import Example, TaskKind

S = TypeVar("S")


@dataclass(frozen=True)
class Step:
    """Where training is.

    Attributes:
        number: Of the optimizer's step, from 0.
        of: Number of steps of the task.
        rate: This step's learning rate, of which a group's own is a multiple (`ParameterGroup.rate`).
        takes_part: Whether this process has rows of the step. Where there are fewer rows than processes, some compute
            another's row with weight 0.
        all_forward: Whether the step's forward passes are over, so that its last backward pass comes or is under way.
        rows: Of all processes, in the order in which one process would compute them.
    """

    number: int
    of: int
    rate: float
    takes_part: bool = True
    all_forward: bool = False
    rows: Sequence[Encoded] = field(default=(), repr=False, compare=False)

    @property
    def num_target_tokens(self) -> int:
        """Number of tokens that the step's loss is a mean over, of all its rows."""
        return sum(row.num_target_tokens for row in self.rows)

    @property
    def tokens_per_row(self) -> float:
        """What makes of a sum over rows what `BatchTerm.value` has to be, where the term is a mean over rows."""
        return self.num_target_tokens / len(self.rows)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows that were computed at once, with what the model made of them.

    Attributes:
        rows: The encoded rows.
        tensors: The model's inputs, and the labels.
        logits: [..., V], with their graph.
        labels: [...], the token that each position should predict, or `IGNORED`.
        route: The route that they were read under; None where the method has no routing, or it chose none.
    """

    rows: Sequence[Encoded]
    tensors: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor
    route: Route | None = None

    @property
    def num_target_tokens(self) -> int:
        """Number of the rows' target tokens: a mean over something else, times this, is a term's sum."""
        return sum(row.num_target_tokens for row in self.rows)


class LearnerState(Protocol):
    """See `nacre.learning.state`: what must survive a restart."""

    @property
    def seed(self) -> int: ...
    @property
    def tasks(self) -> list[str]: ...
    @property
    def forms(self) -> Mapping[str, TaskForm]:
        """How each task that has been learned is asked, by its name."""
        ...


class Composition(Protocol):
    """See `nacre.method`: what the method is made of."""

    @property
    def gradient_rules(self) -> tuple[GradientRule, ...]:
        """In the order in which they act."""
        ...

    @property
    def traits(self) -> Mapping[str, bool]:
        """What the parts imply: 'foldable', 'grows with tasks' and others."""
        ...


class LearnerView(Protocol):
    """What a part may see of the learner (`nacre.learning.learner`)."""

    @property
    def host(self) -> Host: ...
    @property
    def adapter(self) -> PlacedAdapter: ...
    @property
    def owners(self) -> Mapping[str, Owner]:
        """The holders of learned tensors, by name: `adapter`, and where they exist, `head`, `routing` and `memory`."""
        ...

    @property
    def state(self) -> LearnerState: ...
    @property
    def method(self) -> Composition: ...
    @property
    def task_number(self) -> int:
        """Number of the task being learned, or learned last, from 1; known from `Part.prepare` on."""
        ...

    @property
    def resources(self) -> dict[str, Any]:
        """What parts hold while a task is learned, by key; dropped when learning stops, with or without an error."""
        ...

    @property
    def cache(self) -> dict[str, Any]:
        """What parts have computed from the adapter's tensors and keep for the next task, by key.

        It is never saved: without it a part computes the same again, to the bit.
        """
        ...

    @property
    def on_event(self) -> OnEvent:
        """Reports what a person should know, such as `Warned`."""
        ...

    @property
    def step(self) -> Step:
        """The step being taken, while the loss is computed and gradient rules act."""
        ...

    @property
    def epochs(self) -> int:
        """How often the task being learned, or learned last, has each of its rows: `step.of` is a multiple of it."""
        ...

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call this when learning the task stops, with or without an error: what was opened must be closed."""
        ...

    def remembered(self, part: Part, kind: type[S]) -> S | None:
        """The value of its `State` that the part remembers; None before the first."""
        ...

    def remember(self, part: Part, state: object) -> None:
        """Replace what the part remembers. It is saved and loaded with the learner.

        Raises:
            TypeError: The state is not of the part's `State`, or holds what a file cannot give back.
        """
        ...

    def trainable(self) -> list[ParameterGroup]:
        """The parameters that are trained for the newest task, of all owners."""
        ...

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The examples as token ids, within the lengths that training uses."""
        ...

    def loss_sum(self, rows: Sequence[Encoded]) -> Tensor:
        """The task loss summed over the rows' target tokens, [], as one batch, in the model's present mode."""
        ...

    def predictions(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Logits [..., V] of the rows as one batch, and the labels [...] they should predict, in training's precision.

        Gradients reach the trained parameters, as in the task loss.
        """
        ...

    def pooled_states(self, rows: Sequence[Encoded], states: PooledStates) -> Tensor:
        """The bare host's pooled states of the rows' inputs, without anything learned: [rows, d]."""
        ...

    def label_scores(self, rows: Sequence[Encoded], labels: Sequence[str], route: Route | None = None) -> Tensor:
        """log p of each label as the answer to each row, as the learner computes now, [rows, L].

        It has its graph, where gradients are on, and is -inf of a label that the host cannot give.

        Args:
            rows: The rows.
            labels: The labels.
            route: How the rows are answered; None: as the method's routing chooses. It goes with its rows, also where
                they are read in several passes, as they are not under `under`.
        """
        ...

    def write(self, rows: Sequence[Encoded]) -> list[str]:
        """What the host writes to the rows' inputs as it computes now, as long as an answer may be."""
        ...

    def bypassed(self) -> AbstractContextManager[None]:
        """Inside, the host computes as if nothing had been learned, bit for bit."""
        ...

    def under(self, route: Route) -> AbstractContextManager[None]:
        """Inside, batches are read under this route instead of the one that the method's routing would choose."""
        ...

    def beside(
        self, adapter: Adapter, *, seed: int, on_event: OnEvent, **optim: Any
    ) -> AbstractContextManager[SecondLearner]:
        """Inside, this learner makes way, and a second one learns in the bare host, with an adapter of its own.

        Afterwards the host is this learner's again, bit for bit. Whoever needs what the second one has learned takes
        its adapter's `tensors`, and gives them to a later one's `load`. Not while a step is taken.

        Args:
            adapter: Its adapter; it has no other part.
            seed: Of everything random in it.
            on_event: Is called with what happens to it.
            optim: Its settings of training where they are not this learner's, by name.

        Raises:
            ModelError: The host has a classification head, which both would learn.
        """
        ...


class SecondLearner(LearnerView, Protocol):
    """A learner that a part teaches beside its own (`LearnerView.beside`)."""

    def learn(self, *tasks: Task) -> None:
        """Learn a task, by the loop that every learner is trained by."""
        ...


class Part(ABC):
    """Base of all parts. Subclasses are frozen dataclasses of settings: no part holds a tensor.

    What a part must remember is a value of its `State`, a frozen dataclass of tensors, plain values, and lists and
    dicts (with text as keys) of them. Nothing else influences what the learner does next.
    """

    State: ClassVar[type[Any] | None] = None

    learns: ClassVar[frozenset[TaskKind]] = frozenset({"answer", "text"})
    """The kinds of tasks that the part works with: "answer" for fine-tuning, "text" for pre-training."""

    writes: ClassVar[bool] = False
    """Whether the part lets the host write, as no encoder-only one can."""

    chooses_labels: ClassVar[bool] = False
    """Whether the part answers with a label, so that a task without labels is refused."""

    keeps_data: ClassVar[bool] = False
    """Whether what the part remembers are single rows of tasks, be it as vectors. A method with one is not
    rehearsal-free."""

    grows: ClassVar[bool] = False
    """Whether what the part remembers grows with the tasks by more than a few vectors for each."""

    changes_passes: ClassVar[bool] = False
    """Whether the part changes how the model computes for single forward passes in training, as routes do. A layer that
    is computed again in the backward pass would then be computed otherwise."""

    remembers: ClassVar[str | None] = None
    """The key of the part whose state this one shares; None: its own."""

    @property
    def key(self) -> str:
        """The part's place in the state: its class name in lower case. A method cannot hold two parts of one key."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def shardable(self) -> bool:
        """Whether the part works where the host's own weights are trained, and each process holds its rows of them."""
        return False

    @property
    def needs_boundaries(self) -> bool:
        """Whether the part must know in training when one task ends and the next begins.

        True for every part that does something lasting in `prepare`, `begin` or `end`; not for one that only prepares
        itself there.
        """
        return False

    @property
    def needed_groups(self) -> tuple[str, ...]:
        """Names of the parameter groups, of any owner, that the part acts on by name."""
        return ()

    def objection(self, adapter: Adapter) -> str | None:
        """Why this part cannot work with that adapter, as a clause that says what would be right; None if it can.

        Called when a method is composed, so that a combination that makes no sense is refused before anything runs.
        """
        return None

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Called before the slot opens: the learner still answers as the last task left it."""

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Called when the adapter has its new slot, filled, and before the first step."""

    def before_step(self, learner: LearnerView) -> None:
        """Called when `learner.step` is set and nothing of the step has been computed."""

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Called after the last step."""

    def forget(self, learner: LearnerView, task: str) -> None:
        """Drop what is remembered of a task, which is about to be taken out of the learner.

        Raises:
            TrainingError: What is remembered cannot be taken apart by tasks.
        """
        if self.State is not None and learner.remembered(self, self.State) is not None:
            raise TrainingError(f"What {self.key} remembers is of all tasks together: none can be taken out.")

    def landmarks(self, learner: LearnerView) -> Landmarks | None:
        """Where the pairs of tasks and labels lie that the part tells apart; None: it tells apart no such pairs."""
        return None

    def restored(self, learner: LearnerView) -> None:
        """Called after a learner was loaded, to rebuild what follows from what was saved."""

    def serving(self, learner: LearnerView) -> AbstractContextManager[None]:
        """Entered around every answer and evaluation, for parts that serve other tensors than they train."""
        return nullcontext()


class Holding(Part, ABC):
    """A part that changes from step to step what it holds while a task is learned (`LearnerView.resources`).

    Training may be saved between two steps. What `begin` made and no step changes is made anew by whoever goes on
    there, and needs nothing of this.
    """

    Held: ClassVar[type[Any]]
    """A frozen dataclass like `State` of what changes."""

    @abstractmethod
    def held(self, learner: LearnerView) -> Any:
        """A value of `Held`: called between two steps, when training is saved. None: nothing changes, as it is set."""

    @abstractmethod
    def take_back(self, learner: LearnerView, held: Any) -> None:
        """Called after `begin` where training goes on between two steps, with what `held` gave there."""


class Start(Part, ABC):
    """How a new task's parameters begin."""

    @abstractmethod
    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Fill the slot that the adapter has just opened for these tasks."""


class Penalty(Part, ABC):
    """A term added to the loss once per optimizer step, whatever the accumulation, in full precision."""

    strength: PerTask

    @abstractmethod
    def value(self, learner: LearnerView) -> Tensor:
        """The term before weighting, []. Its graph reaches trained parameters."""

    @final
    def weight(self, task_number: int) -> float:
        """What the value is multiplied with on that task, from 1."""
        return value_of(self.strength, task_number, self.key)


class BatchTerm(Part, ABC):
    """A term added to the loss once per micro-batch, inside autocast, where the task loss is computed."""

    strength: PerTask

    @abstractmethod
    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        """The term before weighting, as a SUM over the rows' target tokens, [].

        Like the task loss, it is then divided by the number of target tokens of the whole step. A mean over something
        else is a mean over that of the whole step (`Step.tokens_per_row`), never of the micro-batch: how a step is
        split into micro-batches and processes must not change it.
        """

    @final
    def weight(self, task_number: int) -> float:
        """What the value is multiplied with on that task, from 1."""
        return value_of(self.strength, task_number, self.key)


class GradientRule(Part, ABC):
    """What happens between backward and the optimizer's step, and right after it.

    Rules act in the order of the method's `gradient_rules`, on full gradients: summed over micro-batches, averaged over
    processes, unscaled, not yet clipped.
    """

    reads_gradients: ClassVar[bool] = True
    """Whether `apply` looks at gradients or changes them."""

    def apply(self, learner: LearnerView) -> None:
        """Change the gradients of trained parameters in place."""

    def after_step(self, learner: LearnerView) -> None:
        """Change trained parameters in place, after the optimizer's step; not called for a step that was skipped."""


class Memory(Part, ABC):
    """What is kept of past tasks' data, and replayed while a new task is learned."""

    mixed: ClassVar[bool] = True
    """Whether `examples` join the new task's epoch. Otherwise they serve other parts, or `observe`."""

    @property
    def needs_boundaries(self) -> bool:
        return True

    @abstractmethod
    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        """Examples of past tasks, each with its `task`. Called once a task, before its slot opens."""

    def owner(self, host: Host, adapter: PlacedAdapter) -> Owner | None:
        """The learned tensors that are kept beside the adapter's, `owners["memory"]`; None if there are none."""
        return None

    def lessons(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        """More examples of the NEW tasks to learn, such as inputs to be generated later. Called once a task."""
        return ()

    def observe(self, learner: LearnerView, batch: MicroBatch) -> None:
        """See a micro-batch of training with its live logits, after its loss was computed."""

    def rehearsed(self, learner: LearnerView) -> Collection[str]:
        """Names of earlier tasks whose rows are learned again beside the epoch, as by a penalty.

        Where each task has a head of its own, theirs are trained, too. Called once a task, before its slot opens.
        """
        return ()

    def size(self, rows: int) -> int | None:
        """Number of examples stored of a task with this many rows; None if it is known only after learning."""
        return None


class Query(Protocol):
    """A batch's prompts as the bare host reads them: without targets and virtual tokens."""

    def __call__(self, states: PooledStates) -> Tensor:
        """Pooled states [B, d], without gradient; computed once for each kind."""
        ...

    def lengths(self) -> Tensor:
        """How many tokens each prompt has [B]."""
        ...


@dataclass(frozen=True, eq=False)
class Reading:
    """A batch that the host is about to read, in training or at test.

    Attributes:
        inputs: `input_ids`, `attention_mask` [B, S] and the model's other inputs.
        tasks: Each row's task, as far as the routing may know it: where labels are there to be learned always, at test
            only where it needs the task; "" otherwise.
        query: Asks the bare host about the prompts.
        texts: Each row's text before any template, None where nobody gave it; () where nobody gave any.
    """

    inputs: Mapping[str, Tensor]
    tasks: Sequence[str]
    query: Query
    texts: Sequence[str | None] = ()


class Routing(Part, ABC):
    """Chooses, row by row, which learned parameters answer. It may own trained parameters itself."""

    changes_passes: ClassVar[bool] = True

    groups: ClassVar[tuple[str, ...]] = ()
    """Names of the parameter groups of the owner that `place` returns."""

    @property
    def needs_task_at_test(self) -> bool:
        """Whether each row's task must be known at test. The trait of the method follows from it."""
        return False

    @property
    def needs_boundaries(self) -> bool:
        return True

    def place(self, host: Host, adapter: PlacedAdapter) -> Owner | None:
        """The trained tensors of the routing, `owners["routing"]`; None if it has none."""
        return None

    def chooses_task(self, adapter: Adapter) -> bool:
        """Whether each row is answered by the slot of one task, or by none.

        Its answer may then be chosen among that task's labels (`candidates=routed_task`).
        """
        return False

    def infers_task(self, adapter: Adapter) -> bool:
        """Whether it says of each row which task it is of, untold: the slot with the largest weight is that task's."""
        return self.chooses_task(adapter) and not self.needs_task_at_test

    @abstractmethod
    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        """How to answer this batch; None: as the adapter does by itself."""


class Readout(Part, ABC):
    """Answers from evidence of its own instead of the host's logits, with or without an adapter."""

    @property
    def abstains(self) -> bool:
        """Whether it leaves rows that are of no task to the bare host."""
        return False

    @property
    def needs_task_at_test(self) -> bool:
        """Whether it looks at each row's task at test. The trait of the method follows from it."""
        return False

    @abstractmethod
    def classify(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
        """The best label for each row of one batch; "" where none is known.

        Args:
            learner: Whose host reads.
            rows: The batch.
            labels: What to choose from: with `decode=labels` and `candidates=true_task` those of the rows' task. None:
                all labels learned so far.
        """

    def decide(
        self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None
    ) -> list[Decision] | None:
        """What it answers, as `classify` does, and how sure it is; None: it does not say.

        Args:
            learner: Whose host reads.
            rows: The batch.
            labels: What to choose from; None: all labels learned so far.
        """
        return None

    def predictions(self, learner: LearnerView, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """How it predicts unlabeled text that is scored.

        Args:
            learner: Whose host reads.
            batch: Rows as in training, on the model's device.

        Returns:
            Logits [..., V] and the tokens [...] they should predict, or `IGNORED`; None: as the host predicts them.
        """
        return None
