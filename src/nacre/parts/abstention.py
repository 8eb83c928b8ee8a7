"""Whether a row is of a task that was learned, asked in other words, or foreign: by the sums over rows alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.distances_by_length import quantile
from nacre.functional.gaussian_evidence import evidence
from nacre.models.pooled_states import Text
from nacre.parts.evidence_posterior import Posterior, texts_of
from nacre.parts.evidence_sums import TEXTS, Sums, View, Views

KNOWN, REWORDED, FOREIGN = 0, 1, 2
"""Kinds of rows."""


@dataclass(frozen=True)
class Abstention:
    """A row is known if its prompt is as near to a pair as the tasks' own rows are.

    Otherwise it is a reworded one if its text alone is that near, and prompt and text, each by itself, name the same
    task; and foreign if not. No foreign row is needed to set a threshold.

        known:     d_prompt <= q_prompt(task of the nearest pair, n)
        reworded:  d_bare <= q_bare(task of the nearest pair, n), and sum_i p_prompt(i | x) p_bare(i | x) >= agreement

    Attributes:
        known_share: Of a task's held-out rows, how many are as near: q is this quantile of their squared distances
            around what is usual for a prompt of n tokens.
        agreement: How probable it must be that both name the same task.
    """

    known_share: float = 0.99
    agreement: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("known_share", self.known_share), ("agreement", self.agreement)):
            if not 0 < value <= 1:
                raise RecipeError(f"{name}: {value:g} is not in (0, 1].")

    def kinds(
        self, solved: Posterior, known: Sums, states: Mapping[Text, Tensor], lengths: Tensor, has_text: Tensor
    ) -> Tensor:
        """`KNOWN`, `REWORDED` or `FOREIGN` for each row [B].

        Args:
            solved: The sums, solved.
            known: The sums.
            states: z of the rows by what is read, of both texts [B, d].
            lengths: n, of the rows' prompts in tokens [B].
            has_text: Whether somebody gave the row's text alone [B]: without it no row counts as reworded.
        """
        names = [own.task for own in known.tasks]
        owners = torch.tensor([names.index(task) for task, _ in solved.pairs], device=lengths.device)
        near, shares = {}, {}
        for text in TEXTS:
            factor, means = solved.solved[text]
            found = evidence(states[text], means, factor)
            best = found.max(1)
            tasks, limits = owners[best.indices], torch.empty_like(best.values)
            for number in sorted(set(tasks.tolist())):  # not of all tasks: there may be many more than rows
                mine = tasks == number
                limits[mine] = _limit(known.tasks[number].view(text), self.known_share, lengths[mine]).to(limits)
            near[text] = -2 * best.values <= limits
            shares[text] = solved.of_tasks(found / solved.temperatures[text], names).exp()
        agree = (shares["prompt"] * shares["bare"]).sum(1) >= self.agreement
        reworded = torch.where(near["bare"] & agree & has_text, REWORDED, FOREIGN)
        return torch.where(near["prompt"], KNOWN, reworded)


def _limit(view: View, share: float, lengths: Tensor) -> Tensor:
    """Up to which squared distance a row of each length is near [B]: any, of a task that had no held-out row."""
    counts = view.distances
    return view.trend.at(lengths) * (quantile(counts, share) if bool(counts.any()) else math.inf)


@dataclass(frozen=True, eq=False)
class Assessment:
    """What the sums say of a batch.

    Attributes:
        pairs: e / T of each row and pair [B, P].
        kinds: `KNOWN`, `REWORDED` or `FOREIGN` [B].
    """

    pairs: Tensor
    kinds: Tensor


def assess(
    solved: Posterior,
    known: Sums,
    read: Callable[[Text], Tensor],
    views: Views,
    abstention: Abstention | None,
    lengths: Callable[[], Tensor],
    texts: Sequence[str | None],
) -> Assessment:
    """What the sums say: of a reworded row by its text alone, of a row whose text nobody gave by its prompt alone.

    Args:
        solved: The sums, solved.
        known: The sums.
        read: Gives z of the rows [B, d] by what is read.
        views: Which texts count.
        abstention: Which rows are foreign; None: none.
        lengths: Counts the tokens of the rows' prompts [B].
        texts: Each row's text before any template, None where nobody gave it; () where nobody gave any.
    """
    wanted = TEXTS if abstention is not None else texts_of(views)
    has_all = bool(texts) and None not in texts
    states = {text: read(text) for text in (wanted if has_all else dict.fromkeys(("prompt", *wanted)))}
    some = next(iter(states.values()))
    given = [text is not None for text in texts] or [False] * len(some)
    has_text = torch.tensor(given, device=some.device)
    pairs = solved.log_evidence(states, views)
    if not has_all:
        pairs = torch.where(has_text.unsqueeze(1), pairs, solved.log_evidence(states, "prompt"))
    kinds = torch.full_like(has_text, KNOWN, dtype=torch.long)
    if abstention is not None:
        kinds = abstention.kinds(solved, known, states, lengths(), has_text)
        pairs = torch.where((kinds == REWORDED).unsqueeze(1), solved.log_evidence(states, "bare"), pairs)
    return Assessment(pairs, kinds)
