"""A store's learners: a new one, and the one that a version holds."""

from __future__ import annotations

from pathlib import Path

from nacre.events import OnEvent
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.models.loading import load_host_as
from nacre.models.quiet import quiet_transformers
from nacre.store.settings import StoreSettings
from nacre.store.store import Store


def fresh_learner(settings: StoreSettings, on_event: OnEvent) -> Learner:
    """A learner that has learned nothing, with a store's model and settings.

    Raises:
        NacreError: If the model cannot be loaded, or if the method does not fit it.
    """
    return Learner(
        load_host_as(settings.model, settings.loaded_as),
        settings.build(),
        seed=settings.seed,
        optim=settings.optim,
        decoding=settings.evaluation,
        head=settings.head,
        on_event=on_event,
    )


@quiet_transformers()
def learner_of(store: Store, name: str, on_event: OnEvent) -> Learner:
    """The learner in a version, after the version was verified.

    Raises:
        CheckpointError: If the version, or one that it continues, is damaged.
    """
    store.peek(name)
    return restored(store, store.folder(name), on_event)


def restored(store: Store, folder: Path, on_event: OnEvent) -> Learner:
    """The learner in a folder of a store's.

    Raises:
        CheckpointError: If it, or a version that it continues, is damaged.
    """
    snapshot = checkpoint.read(folder)  # first: a model takes seconds
    learner = fresh_learner(store.settings, on_event)
    learner.restore(snapshot, str(folder))
    return learner
