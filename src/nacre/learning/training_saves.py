"""Saves of a training that goes on: every few steps and on Ctrl-C, so that a stop costs steps and not the task.

training.safetensors  tensors of the state (`nacre.learning.training_state`)
training.json         its plain values
manifest.json         their hashes, and what the training belongs to (`nacre.manifest`)
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nacre import processes
from nacre.errors import CheckpointError
from nacre.events import OnEvent, TrainingContinued, TrainingSaved, Warned
from nacre.files import build_folder, put_back, to_json
from nacre.learning.checkpoint import save_tensors
from nacre.learning.contents import put_in, taken_out
from nacre.learning.snapshot import as_tree, from_tree
from nacre.learning.training_state import TrainingState
from nacre.manifest import MANIFEST, Binding, read_manifest, write_manifest

TENSORS, VALUES = "training.safetensors", "training.json"


class TrainingSaves:
    """The saves of one task's training; each takes the place of the one before.

    Attributes:
        folder: Where they lie.
        binding: What the training belongs to, and what it began from.
        every: Steps between two of them; None: they are made on Ctrl-C only.
    """

    def __init__(self, folder: Path, binding: Binding, every: int | None, on_event: OnEvent) -> None:
        """Nothing is read or written yet.

        Args:
            folder: Where they lie; nothing else may lie there.
            binding: What the training belongs to, and what it began from.
            every: Steps between two of them; None: they are made on Ctrl-C only.
            on_event: Is called with what happens.
        """
        self.folder, self.binding, self.every = folder, binding, every
        self._on_event = on_event
        self._asked = False  # whether Ctrl-C was pressed
        self._stops = False  # whether training stops with the next save, in all processes
        self._started, self._before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """How long learning the task has taken, in this process and in those that were stopped."""
        return self._before + time.monotonic() - self._started

    def newest(self) -> TrainingState | None:
        """Where the task's training was saved last; None if it was not. A save of something else is removed."""
        put_back(self.folder)
        if not (self.folder / MANIFEST).exists():
            return None
        try:
            manifest = read_manifest(self.folder)
            if manifest.binding != self.binding:
                self.remove()
                return None
            manifest.check(self.folder, TENSORS, VALUES)
            state, self._before = self._read()
        except CheckpointError as error:
            self.give_up(error)
            return None
        return state

    def went_on(self, state: TrainingState) -> None:
        """Say that training goes on from the newest save."""
        self._on_event(TrainingContinued(step=state.step, steps=state.steps, folder=str(self.folder)))

    def give_up(self, error: CheckpointError) -> None:
        """Say that a save cannot be used, and remove it."""
        if processes.is_first():
            self._on_event(Warned(f"{error} The task is learned from its beginning."))
            self.remove()

    def is_due(self, step: int, steps: int, *, ask: bool) -> bool:
        """Whether to save now.

        Args:
            step: How many steps have been taken.
            steps: How many there are. The last one is saved, too: what follows it may take long.
            ask: Whether several processes ask each other now if Ctrl-C was pressed, and stop at the same step.
        """
        if ask or processes.count() == 1:
            self._stops = any(processes.gathered(self._asked))
        return self._stops or (self.every is not None and (step % self.every == 0 or step == steps))

    def write(self, state: TrainingState) -> None:
        """Save a state, which is the same in all processes; the first one writes it.

        Raises:
            KeyboardInterrupt: When that is done, if Ctrl-C was pressed.
        """
        processes.by_first(lambda: self._write(state))
        if self._stops:
            raise KeyboardInterrupt

    def _write(self, state: TrainingState) -> None:
        tensors: dict[str, Tensor] = {}
        tree = taken_out(as_tree(state, "training"), "training", tensors)

        def fill(folder: Path) -> None:
            save_tensors({name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
            document = to_json({"seconds": self.seconds, "state": tree})
            (folder / VALUES).write_text(document + "\n", encoding="utf-8")
            write_manifest(folder, self.binding)

        build_folder(self.folder, fill)
        self._on_event(TrainingSaved(step=state.step, steps=state.steps, folder=str(self.folder)))

    def remove(self) -> None:
        """Remove what was saved: the task is learned, or begins again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, Ctrl-C waits for the end of a step, which is saved then; pressed again, it waits no more."""
        before = signal.getsignal(signal.SIGINT)
        alone = threading.current_thread() is threading.main_thread()
        if not alone or before is not signal.default_int_handler:  # somebody else listens, or wants not to
            yield
            return

        def hear(_: int, __: FrameType | None) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

        signal.signal(signal.SIGINT, hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _read(self) -> tuple[TrainingState, float]:
        file = self.folder / VALUES
        try:
            document = json.loads(file.read_bytes())
            tree, seconds = put_in(document["state"], load_file(self.folder / TENSORS)), float(document["seconds"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
            raise CheckpointError(f"{file} is damaged: it does not describe a training.") from None
        return from_tree(TrainingState, tree, str(self.folder), torch.device("cpu")), seconds
