"""Evaluation: labels chosen by adapted hosts beside the unadapted one; the choice beside reading alone; rows sorted by
length beside rows as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hosts import Hosts
from learners import learner_with
from measuring import Variant

from nacre.evaluation.decoding import Decoding, answer
from nacre.learning.settings import Optim
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.models.label_tree import Labels
from nacre.tasks.template import Example

BARE, READING, RANDOM = "unadapted", "reading alone", "rows in random order"
LENGTHS = Lengths(512, 50)
LABELS = [" ".join(f"w{4 + 7 * number + token}" for token in range(1 + number % 4)) for number in range(14)]
"""14 labels of 1 to 4 tokens."""


def adapted(hosts: Hosts, past: Sequence[int]) -> dict[str, Variant]:
    """Choosing among 14 labels for 16 rows of 128 tokens, by methods with N past tasks."""
    rows = hosts.rows(16)
    made = {name: Variant(choosing(hosts.frozen(), rows), BARE) for name in (BARE, f"{BARE}, again")}
    for method in ("inc_lora", "am_lora"):
        for tasks in past:
            learner = learner_with(hosts.frozen(), method, tasks, Optim())
            learner.adapter.freeze()
            made[f"{method}, N={tasks}"] = Variant(choosing(learner.host, rows), BARE)
    return made


def choosing(host: Host, rows: list[Encoded]) -> Callable[[], object]:
    labels = labels_of(host)
    host.model.eval()
    return lambda: host.classify(rows, labels)


def labels_of(host: Host) -> Labels:
    return host.family.label_set(Example("", "", LABELS[0], LABELS[0]), LABELS, LENGTHS)


def decision(hosts: Hosts) -> dict[str, Variant]:
    """What the decision costs over reading the inputs: one encoder pass, or one pass over the prompts."""
    host, rows = hosts.frozen(), hosts.rows(16)
    encoder = host.model.get_encoder() if hosts.encoder_decoder else host.model.base_model  # type: ignore[operator]
    host.model.eval()
    prompts = host.on_device(host.family.prompts(rows))

    @torch.inference_mode()
    def read() -> None:
        encoder(**prompts)  # type: ignore[operator]

    return {
        READING: Variant(read, READING),
        f"{READING}, again": Variant(read, READING),
        "14 labels": Variant(choosing(host, rows), READING),
    }


def sorting(hosts: Hosts) -> dict[str, Variant]:
    """64 inputs of log-normal lengths (median 60 tokens, sigma 0.7, at most 512), 16 at once."""
    host = hosts.frozen()
    host.model.eval()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.empty(64).log_normal_(4.1, 0.7, generator=generator).clamp(8, 500).long().tolist()
    examples = [
        Example("", " ".join(f"w{4 + (number + place) % 1000}" for place in range(length)), LABELS[0], LABELS[0])
        for number, length in enumerate(lengths)
    ]
    labels = labels_of(host)

    def as_they_come() -> None:
        rows = [host.family.encode(example, LENGTHS) for example in examples]
        for start in range(0, len(rows), 16):
            host.classify(rows[start : start + 16], labels)

    def sorted_with(split_padding: int | None) -> Callable[[], object]:
        decoding = Decoding(batch_size=16, decode="labels", split_padding=split_padding)
        return lambda: answer(host, [examples], LENGTHS, decoding, 1, [LABELS])

    return {
        RANDOM: Variant(as_they_come, RANDOM),
        f"{RANDOM}, again": Variant(as_they_come, RANDOM),
        "sorted by length": Variant(sorted_with(None), RANDOM),
        "sorted and cut where that saves padding": Variant(sorted_with(1024), RANDOM),
    }
