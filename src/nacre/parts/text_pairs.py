"""Texts of two parts, such as a premise and a hypothesis: the parts are read apart and compared."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nacre.functional.gaussian_evidence import evidence
from nacre.functional.pair_features import best_pair_weight, pair_features, share_of_labels
from nacre.models.families import Encoded
from nacre.models.pooled_states import PooledStates
from nacre.parts.class_evidence import TaskLabel
from nacre.parts.derived import derived
from nacre.parts.evidence_sums import HeldOut, PairSums, Sums, SumsSettings, TaskSums, temperatures_of, with_scatter
from nacre.parts.kept_states import kept_states
from nacre.parts.pair_means import in_order
from nacre.parts.part import LearnerView
from nacre.parts.states_by_content import states_in_order
from nacre.tasks.template import Example


def two_parts(text: str | None) -> tuple[str, str] | None:
    """The lines before the last one, and the last one; None of a text of one line."""
    before, _, last = (text or "").strip().rpartition("\n")
    return (before, last) if before.strip() and last.strip() else None


def with_pairs(
    learner: LearnerView, settings: SumsSettings, known: Sums, held_out: MutableMapping[str, HeldOut]
) -> Sums:
    """The sums with how the two parts of the new tasks' texts relate, where every text has two.

    Args:
        learner: Who asks.
        settings: How sums are made.
        known: The sums, which hold the tasks.
        held_out: Of each new task: its rows, and their evidence by sums that do not hold them. What the parts of their
            texts say is put there.
    """
    tasks = {own.task: own for own in known.tasks}
    for name, rows in held_out.items():
        if len(rows.labels) > 1 and all(two_parts(row.bare) for row in rows.rows):
            pairs, said = _pairs_of(learner, settings, tasks, name, rows)
            tasks[name], held_out[name] = replace(tasks[name], pairs=pairs), replace(rows, said=said)
    return replace(known, tasks=list(tasks.values()))


def _pairs_of(
    learner: LearnerView, settings: SumsSettings, tasks: Mapping[str, TaskSums], name: str, rows: HeldOut
) -> tuple[PairSums, Tensor]:
    parts = [_encoded(learner, rows.rows, part) for part in (0, 1)]
    view = _view(learner, settings)
    states = pair_features(*(states_in_order(learner, name, own, view, settings.batch_size) for own in parts))
    others = [own.pairs for own in tasks.values() if own.pairs is not None and own.task != name]
    means = [mean for own in others for mean in own.means]
    found = settings.held_out(learner, states, rows.classes, means, [own.scatter for own in others])
    found = found[:, : len(rows.labels)]
    base = rows.found["both"] / temperatures_of(list(tasks.values()))["both"]
    weight = best_pair_weight(base, found, rows.classes)
    by_label = {label: states[rows.classes == number] for number, label in enumerate(rows.labels)}
    before = tasks[name].pairs
    joined, spread = with_scatter(before.means if before else (), before.scatter if before else None, name, by_label)
    return PairSums(joined, spread, weight), share_of_labels(found, weight)


def of_pairs(
    learner: LearnerView, settings: SumsSettings, known: Sums, pairs: Sequence[TaskLabel], rows: Sequence[Encoded]
) -> Tensor | None:
    """What the parts of the rows' texts say of each task's labels: log(L p(label)) [B, P]; 0 where they say nothing.

    Args:
        learner: Whose bare host reads.
        settings: How sums are read.
        known: The sums.
        pairs: The P pairs of a task and a label.
        rows: The batch.

    Returns:
        None if they say nothing of any row.
    """
    telling = [own for own in known.tasks if own.pairs is not None and own.pairs.weight > 0]
    two = [number for number, row in enumerate(rows) if two_parts(row.bare)]
    if not telling or not two:
        return None
    own_rows = [rows[number] for number in two]
    view = _view(learner, settings)
    states = pair_features(*(kept_states(learner, _encoded(learner, own_rows, part), view) for part in (0, 1)))
    factor, means, numbers = _solved(learner, settings, known)
    found = evidence(states, means, factor)
    said = found.new_zeros(len(rows), len(pairs))
    for own in telling:
        assert own.pairs is not None
        mine = [pair for pair in numbers if pair[0] == own.task]
        shares = share_of_labels(found[:, [numbers[pair] for pair in mine]], own.pairs.weight)
        places = torch.tensor([pairs.index(pair) for pair in mine], device=said.device)
        said[torch.tensor(two, device=said.device).unsqueeze(1), places] = shares
    return said


def _solved(learner: LearnerView, settings: SumsSettings, known: Sums) -> tuple[Tensor, Tensor, dict[TaskLabel, int]]:
    """F, the whitened means, and the number of each pair; solved once a task."""

    def solve() -> tuple[Tensor, Tensor, dict[TaskLabel, int]]:
        there = [own.pairs for own in known.tasks if own.pairs is not None]
        means = [mean for own in there for mean in own.means]
        numbers = {mean.pair: number for number, mean in enumerate(in_order(means))}
        return *settings.solved(learner, means, [own.scatter for own in there]), numbers

    return derived(learner, "pairs of texts solved", known, solve)


def _view(learner: LearnerView, settings: SumsSettings) -> PooledStates:
    """A part is all that is read."""
    return settings.states(learner, "prompt")


def _encoded(learner: LearnerView, rows: Sequence[Encoded], part: int) -> list[Encoded]:
    """The rows' first or second parts as inputs."""
    texts = [(two_parts(row.bare), row.task) for row in rows]
    return learner.encode([Example("", text[part], "", "", task=task) for text, task in texts if text is not None])
