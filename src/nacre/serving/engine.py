"""Who answers: one thread that holds the current version's learner, and one that loads the next.

Questions wait in a line. The answering thread takes all that wait, up to a limit, and answers those of one task
together. When another version is current, the loading thread makes its learner beside the old one; the answering thread
changes over between two batches. So no question is lost, and each is answered by one version, which it names. Nothing
that was computed for a question outlives its batch.
"""

from __future__ import annotations

import copy
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from nacre.errors import NacreError
from nacre.events import ignore
from nacre.learning.learner import Learner
from nacre.store.answering import Question, Reply, reply, tokens_read
from nacre.store.learners import learner_of
from nacre.store.store import Store

log = logging.getLogger(__name__)

EVERY = 0.5
"""Seconds between two looks at which version is current."""


class Busy(NacreError):
    """So many questions wait that one more would wait too long."""


@dataclass(frozen=True)
class Served:
    """An answer to a question.

    Attributes:
        version: Who answered.
        reply: What.
        tokens_read: Of the question, in its template.
    """

    version: str
    reply: Reply
    tokens_read: int


@dataclass(frozen=True)
class _Waiting:
    question: Question
    answer: Future[Served]


class Engine:
    """Answers questions with the current version of a store.

    Attributes:
        store: The store.
        version: The name of the version that answers.
        tasks: What it has learned.
        writes: Whether it answers in words of its own, and not with labels alone.
        trouble: Why the current version could not be loaded; None where it was.
    """

    def __init__(
        self,
        store: Store,
        *,
        batch: int = 64,
        waiting: int = 4096,
        every: float = EVERY,
        observe: Callable[[int, float], object] = lambda count, seconds: None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            store: Whose current version answers.
            batch: Questions answered at once, at most.
            waiting: Questions that may wait.
            every: Seconds between two looks at which version is current.
            observe: Is told of each batch: how many questions, how many seconds.
        """
        self.store = store
        self.version = ""
        self.tasks: tuple[str, ...] = ()
        self.writes = False
        self.trouble: str | None = None
        self._batch, self._every, self._observe = batch, every, observe
        self._line: queue.Queue[_Waiting | None] = queue.Queue(waiting)
        self._learner: Learner | None = None
        self._next: tuple[str, Learner] | None = None
        self._changes = threading.Lock()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Load the current version, and begin to answer.

        Raises:
            NacreError: If it cannot be loaded.
        """
        name = self.store.current
        self._take(name, learner_of(self.store, name, ignore))
        for work in (self._answer_all, self._watch):
            thread = threading.Thread(target=work, name=f"nacre-{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Answer what waits, and end."""
        self._stopped.set()
        self._line.put(None)
        for thread in self._threads:
            thread.join()
        if self._learner is not None:
            self._learner.remove()

    @property
    def waiting(self) -> int:
        """How many questions wait, about."""
        return self._line.qsize()

    def ask(self, question: Question) -> Future[Served]:
        """Put a question into the line.

        Returns:
            Its answer, or the `NacreError` that says why there is none.

        Raises:
            Busy: If the line is full.
        """
        waiting = _Waiting(question, Future())
        try:
            self._line.put_nowait(waiting)
        except queue.Full:
            raise Busy(f"{self.waiting} questions are waiting; try again in a moment.") from None
        return waiting.answer

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, as the model's tokenizer has them."""
        return len(self._counter(text, add_special_tokens=False)["input_ids"])

    def _answer_all(self) -> None:
        while True:
            first = self._line.get()
            self._change_over()
            batch = [] if first is None else self._gathered(first)
            if batch:
                self._answer(batch)
            self._change_over()  # the call to do so may have come among these
            if self._stopped.is_set() and self._line.empty():
                return

    def _gathered(self, first: _Waiting) -> list[_Waiting]:
        """All that wait, up to the limit, but for those whose asker has gone."""
        batch = [first]
        while len(batch) < self._batch:
            try:
                following = self._line.get_nowait()
            except queue.Empty:
                break
            if following is not None:
                batch.append(following)
        return [each for each in batch if each.answer.set_running_or_notify_cancel()]

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        learner, version = self._learner, self.version
        assert learner is not None
        started = time.monotonic()
        try:
            replies = reply(learner, [each.question for each in batch])
            sizes = [tokens_read(learner, each.question) for each in batch]
        except Exception as error:
            if len(batch) > 1:
                for each in batch:  # one of them is at fault, and the others are not
                    self._answer([each])
                return
            if not isinstance(error, NacreError):
                log.exception("A question was not answered")
            batch[0].answer.set_exception(error)
            return
        self._observe(len(batch), time.monotonic() - started)  # before anybody hears of the answers
        for each, own, size in zip(batch, replies, sizes, strict=True):
            each.answer.set_result(Served(version, own, size))

    def _watch(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                name = self.store.current
                with self._changes:
                    known = self.version if self._next is None else self._next[0]
                if name != known:
                    learner = learner_of(self.store, name, ignore)
                    with self._changes:
                        self._next, skipped = (name, learner), self._next
                    if skipped is not None:
                        skipped[1].remove()
                    self._line.put(None)  # whoever waits for a question wakes up
                self.trouble = None
            except NacreError as error:
                if self.trouble != str(error):
                    log.error("The version before goes on answering: %s", error)
                self.trouble = str(error)
            except Exception as error:
                log.exception("The version before goes on answering")
                self.trouble = str(error)

    def _change_over(self) -> None:
        with self._changes:
            following, self._next = self._next, None
        if following is not None:
            if self._learner is not None:
                self._learner.remove()
            self._take(*following)

    def _take(self, name: str, learner: Learner) -> None:
        self._learner, self.version = learner, name
        self._counter = copy.deepcopy(learner.host.tokenizer)  # two threads cannot share one
        self.tasks = tuple(learner.state.tasks)
        self.writes = learner.host.family.is_generative and not learner.method.chooses_labels
        log.info("Version %s answers", name)
