"""A store's learners: a new one, and the one that a version holds."""

from __future__ import annotations

from nacre.events import OnEvent
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.models.loading import load_host
from nacre.models.quiet import quiet_transformers
from nacre.store.settings import StoreSettings
from nacre.store.store import Store


def fresh_learner(settings: StoreSettings, on_event: OnEvent) -> Learner:
    """A learner that has learned nothing, with a store's model and settings.

    Raises:
        NacreError: If the model cannot be loaded, or if the method does not fit it.
    """
    return Learner(
        load_host(settings.model, dropout=settings.model_dropout),
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
    version = store.read(name)
    learner = fresh_learner(store.settings, on_event)
    if version.tasks:
        learner.restore(checkpoint.read(store.folder(name)), str(store.folder(name)))
    return learner
