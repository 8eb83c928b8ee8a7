"""From a snapshot back to a learner: whether it fits, and what is taken over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from nacre.adapters.sites import PlacedSites
from nacre.adapters.slots_on_disk import SlotsOnDisk
from nacre.errors import CheckpointError, RecipeError
from nacre.evaluation.candidates import Calibration
from nacre.files import to_json
from nacre.learning.snapshot import OwnerState, Snapshot, State, from_tree
from nacre.method import Method
from nacre.method_files import MethodFile
from nacre.models.host import Host
from nacre.models.named import HeadKind
from nacre.models.owner import Owner
from nacre.records.plain import differences
from nacre.registry import build_method
from nacre.tasks.prompts import TaskForm


class Restoring(Protocol):
    """What restoring needs of a learner."""

    @property
    def host(self) -> Host: ...
    @property
    def method(self) -> Method: ...
    @property
    def state(self) -> State: ...
    @property
    def head(self) -> HeadKind: ...
    @property
    def owners(self) -> Mapping[str, Owner]: ...
    @property
    def pretrained(self) -> str: ...


def method_in(snapshot: Snapshot, where: str) -> Method:
    """Build the method of a snapshot anew.

    Raises:
        CheckpointError: If it cannot be built by its name alone.
    """
    if not snapshot.method["name"] or MethodFile.of(snapshot.method["name"].split("+")[0]):
        raise CheckpointError(
            f"{where} holds a method that was put together by hand, or that stands in a file of somebody's, which is "
            "not run unasked; give it: Learner.load(..., method=...)."
        )
    return build_method(snapshot.method["name"], snapshot.method["parameters"])


def check_on_disk(method: Method) -> None:
    """Refuse to leave slots on disk that answer together, or that are no slots."""
    chooses = method.routing is not None and method.routing.chooses_task(method.adapter)
    if not (chooses and method.adapter.can_stay_on_disk):
        raise RecipeError(
            f"slots_in_memory: {method.display_name} has no slots of which one answers a row alone, as epi has; load "
            "it without."
        )


def take_over(learner: Restoring, snapshot: Snapshot, where: str, on_disk: SlotsOnDisk | None) -> State:
    """Fill the owners of a learner that has learned nothing. If one does not fit, all are empty again.

    Args:
        learner: With the same host and method.
        snapshot: Of another one.
        where: What an error calls it.
        on_disk: See `Learner.restore`.

    Returns:
        What it remembers from now on.

    Raises:
        CheckpointError: If the snapshot does not fit.
    """
    kinds = {part.remembers or part.key: part.State for part in learner.method.parts if part.State is not None}
    _check_fits(learner, snapshot, kinds, where)
    device = learner.host.device
    parts = {key: from_tree(kinds[key], tree, key, device) for key, tree in snapshot.parts.items()}
    nothing = OwnerState({}, {})
    try:
        for name, owner in learner.owners.items():
            saved = snapshot.owners.get(name, nothing)
            if on_disk is not None and isinstance(owner, PlacedSites):
                owner.load_beside(saved.tensors, saved.values, on_disk)
            else:
                owner.load(saved.tensors, saved.values)
    except CheckpointError:
        for owner in learner.owners.values():  # those that fit have taken theirs over
            owner.load({}, {})
        raise
    forms = {name: from_tree(TaskForm, tree, name, device) for name, tree in snapshot.forms.items()}
    calibrations = {name: from_tree(Calibration, tree, name, device) for name, tree in snapshot.calibrations.items()}
    return State(snapshot.seed, list(snapshot.tasks), parts, forms, calibrations)


def _check_fits(learner: Restoring, snapshot: Snapshot, kinds: dict[str, type[Any]], where: str) -> None:
    if learner.pretrained != snapshot.host["hash"]:
        raise CheckpointError(
            f"{where} was made with another pretrained model: '{snapshot.host['name']}', "
            f"hash {snapshot.host['hash'][:12]}; this one has {learner.pretrained[:12]}."
        )
    if snapshot.head != learner.head:
        raise CheckpointError(f"{where} was made with head={snapshot.head}, and this learner has head={learner.head}.")
    if snapshot.seed != learner.state.seed:
        raise CheckpointError(
            f"{where} was made with seed {snapshot.seed}, and this learner has seed {learner.state.seed}."
        )
    if different := _other_method(learner.method, snapshot):
        raise CheckpointError(f"{where} was made by another method: {different}.")
    for key in snapshot.parts:
        if key not in kinds:
            raise CheckpointError(
                f"{where} remembers something for '{key}', which is not a part of {learner.method.display_name}."
            )
    for name, saved in snapshot.owners.items():
        if name not in learner.owners and saved.tensors:
            raise CheckpointError(f"{where} holds a {name}, which this host and method do not have.")


def _other_method(method: Method, snapshot: Snapshot) -> str:
    """In what a snapshot's method differs; nothing can be said of one that was put together by hand."""
    if not method.name or not snapshot.method["name"]:
        return ""
    here = json.loads(to_json({"name": method.name, "parameters": dict(method.parameters)}))
    return "; ".join(differences(dict(snapshot.method), here, "method"))
