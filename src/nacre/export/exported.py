"""An export: what it is, and how far it is from the learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nacre.adapters.route import Route
from nacre.errors import ModelError
from nacre.files import build_new_folder
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.models.batch import Batch
from nacre.models.families import Encoded
from nacre.models.generative import Generative
from nacre.tasks.template import Example

ROWS = 64
"""Rows on which an export and the learner are compared."""

AT_ONCE = 8
"""Rows of one batch."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        format: Which files they are.
        folder: Where.
        rows: On how many rows it was compared with the learner.
        difference: The largest difference of any logit.
        largest: The largest logit, by its size, that this is to be seen beside.
    """

    format: str
    folder: Path
    rows: int
    difference: float
    largest: float


@dataclass(frozen=True)
class LoadedModel:
    """A model in an export, and how the learner computes what it should.

    Attributes:
        load: Loads it from the export's folder, as a user would.
        route: Under which the learner computes the same; None: as it answers by itself.
    """

    load: Callable[[Path], nn.Module]
    route: Callable[[int], Route] | None = None


def export(
    kind: str,
    learner: Learner,
    folder: Path,
    rows: Sequence[Encoded],
    write: Callable[[Path], None],
    models: Sequence[LoadedModel],
    bound: float,
) -> Exported:
    """Write an export, load it again, and compare it. The folder appears only if it passes.

    Args:
        kind: The format's name.
        learner: What is exported.
        folder: A new folder.
        rows: To compare on; see `rows_of`.
        write: Writes the files.
        models: Those in it.
        bound: How much a logit may differ, as a share of the largest one, or of 1 where all are smaller.

    Raises:
        ModelError: If the difference is larger.
        FileExistsError: If the folder is there.
    """
    batches = [learner.host.family.batch(rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE)]
    found: list[Exported] = []

    def fill(place: Path) -> None:
        write(place)
        difference = largest = 0.0
        for each in models:
            model = each.load(place)
            for batch in batches:
                own = _own_logits(learner, batch, each.route)
                difference = max(difference, float((own - logits_of(model, batch)).abs().max()))
                largest = max(largest, float(own.abs().max()))
        if not difference <= bound * max(1.0, largest):
            raise ModelError(
                f"{kind}: loaded again, it answers otherwise: logits differ by up to {difference:.3g}, where the "
                f"largest is {largest:.3g}. Nothing was written."
            )
        found.append(Exported(kind, folder, len(rows), difference, largest))

    build_new_folder(folder, fill)
    return found[0]


def rows_of(learner: Learner, examples: Sequence[Example]) -> list[Encoded]:
    """Rows on which an export is compared: examples of what was learned, and where they are few, random tokens.

    Args:
        learner: What is exported.
        examples: Of its tasks.
    """
    tokenizer = learner.host.tokenizer
    special = set(tokenizer.all_special_ids)
    usual = [number for number in range(len(tokenizer)) if number not in special]
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> str:
        numbers = torch.randint(len(usual), (count,), generator=generator).tolist()
        return str(tokenizer.decode([usual[number] for number in numbers]))

    taken = list(examples[:: max(1, -(-len(examples) // ROWS))])[:ROWS]
    taken += [Example("", drawn(4 + number % 13), "", drawn(2)) for number in range(ROWS - len(taken))]
    return learner.encode(taken)


def logits_of(model: Any, batch: Batch) -> Tensor:
    """The logits [B, S, V] of a batch, as the model answers; those of padding are 0.

    Args:
        model: A Hugging Face model.
        batch: From the family that it is of.
    """
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            device = next(model.parameters()).device
            logits: Tensor = model(**batch.to(device)).logits.float().cpu()
    finally:
        model.train(before)
    reads_and_writes = model.config.is_encoder_decoder  # its logits are of the targets
    counted = batch["labels"] != IGNORED if reads_and_writes else batch["attention_mask"] != 0
    return torch.where(counted.cpu().unsqueeze(-1), logits, 0.0)


def check_writes(learner: Learner, kind: str) -> None:
    """Refuse hosts whose answers do not come out of their own language-model head.

    Raises:
        ModelError: If the host is encoder-only.
    """
    if not isinstance(learner.host.family, Generative):
        raise ModelError(
            f"{kind}: '{learner.host.name}' is {learner.host.family.name}, and its classification head is nacre's: no "
            "other tool would read it. Keep it in the store, or save it with learner.save(folder)."
        )


def _own_logits(learner: Learner, batch: Batch, route: Callable[[int], Route] | None) -> Tensor:
    asked = Batch(batch.tensors, ("",) * batch.size)  # as by somebody who has nothing but the prompts
    with learner.host.family.routed(asked) if route is None else learner.under(route(batch.size)):
        return logits_of(learner.host.model, batch)
