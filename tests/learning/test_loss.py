"""The loss is a sum over target tokens divided by their global number: accumulation and processes do not change it."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import TrainingError
from nacre.evaluation.decoding import Decoding
from nacre.events import Event, StepTaken, TrainingPrepared
from nacre.functional.losses import IGNORED, token_loss_sum
from nacre.learning.batches import Batches, split, target_tokens
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.registry import build_method
from nacre.tasks.task import Row, Task


def uneven_task() -> Task:
    """Targets of one to four words."""
    task = tiny_task(rows=8)
    words = ["yes", "no no", "yes yes yes", "no no no no"]
    rows = tuple(Row(f"the {'big ' * number}dog", words[number % 4]) for number in range(8))
    return Task("uneven", rows, task.validation, task.test, task.template, None)


def gradients(host: Host, method: str, accumulation: int) -> dict[str, Tensor]:
    """Gradients of one step on eight rows, before clipping, without dropout."""
    found: dict[str, Tensor] = {}

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, size=0.01)
        if isinstance(event, StepTaken):
            for group in learner.trainable():
                found.update({f"{group.name} {i}": p.grad.clone() for i, p in enumerate(group.parameters)})

    for module in host.model.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    optim = Optim(batch_size=8, accumulation=accumulation, max_grad_norm=None, log_every=1)
    parameters = {} if method == "seq_ft" else {"dropout": 0.0}
    learner = Learner(host, build_method(method, parameters), optim=optim, on_event=watch)
    learner.learn(uneven_task())
    learner.remove()
    return found


def relative_difference(host: Host, method: str) -> float:
    """Of the gradients of one batch of eight and of four micro-batches of two."""
    whole, parts = (gradients(host, method, accumulation) for accumulation in (1, 4))
    norm = torch.stack([tensor.norm() for tensor in whole.values()]).norm()
    difference = torch.stack([(tensor - parts[name]).norm() for name, tensor in whole.items()]).norm()
    assert norm > 0
    return (difference / norm).item()


@pytest.mark.parametrize("method", ["seq_ft", "seq_lora", "am_lora"])
@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "gpt2"])
def test_accumulation_four_times_two_equals_eight(architecture: str, method: str) -> None:
    """In float64: random float32 hosts round their gradients by more than the difference that is looked for."""
    assert relative_difference(tiny_host(architecture, torch.float64), method) <= 1e-12


@pytest.mark.parametrize("method", ["seq_ft", "seq_lora", "am_lora"])
@pytest.mark.parametrize(
    ("name", "dtype", "bound"),
    [
        ("demo", torch.float32, 1e-6),
        ("stories260k", torch.float32, 1e-6),
        ("minilm-b2b", torch.float64, 1e-12),  # eight layers: float32 alone rounds by 1e-6
    ],
)
def test_accumulation_on_trained_hosts(name: str, dtype: torch.dtype, bound: float, method: str) -> None:
    """T5, Llama and BART with trained weights."""
    if name != "demo":
        name = str(Path(os.environ.get("NACRE_DATA", "")).parent / "models" / name)
        if not Path(name).is_dir():
            pytest.skip("the small pretrained models lie beside NACRE_DATA, which is not set")
    assert relative_difference(load_host(name, dtype), method) <= bound


def test_token_loss_sum_against_the_definition() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([[1, 4, IGNORED], [IGNORED, 0, 2]])
    expected = 0.0
    for row in range(2):
        for place in range(3):
            if labels[row, place] != IGNORED:
                scores = logits[row, place]
                expected -= (scores[labels[row, place]] - torch.logsumexp(scores, 0)).item()
    assert math.isclose(token_loss_sum(logits, labels).item(), expected, rel_tol=1e-12)


def test_a_decoder_only_host_learns_the_answer_only() -> None:
    """Changing what the prompt predicts must not matter: only the answer's positions are labelled."""
    host = tiny_host("llama")
    rows = [Encoded((3, 5, 6, 7), (9, 1), False), Encoded((3, 8), (10, 11, 1), False)]
    labels = host.family.batch(rows)["labels"]
    assert labels.tolist() == [[IGNORED] * 4 + [9, 1] + [IGNORED] * 2, [IGNORED] * 2 + [10, 11, 1] + [IGNORED] * 3]
    batch = host.family.batch(rows)
    with torch.no_grad():
        logits = host.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
        expected = -sum(
            torch.log_softmax(logits[row, place - 1], -1)[token].item()
            for row, places in enumerate([{4: 9, 5: 1}, {2: 10, 3: 11, 4: 1}])
            for place, token in places.items()
        )
        assert math.isclose(host.family.loss_sum(host.model, batch).item(), expected, rel_tol=1e-5)


def test_padding_does_not_change_the_loss(host) -> None:  # type: ignore[no-untyped-def]
    short, long = Encoded((5, 6, 1), (9, 1), False), Encoded((5, 6, 7, 8, 9, 10, 1), (10, 1), False)
    family = host.family
    with torch.no_grad():
        together = family.loss_sum(host.model, family.batch([short, long]))
        apart = sum(family.loss_sum(host.model, family.batch([row])) for row in (short, long))
    assert torch.allclose(together, apart, rtol=1e-5)


def test_batches_are_a_function_of_seed_task_epoch_and_step() -> None:
    rows = [Encoded((number,), (1,), False) for number in range(10)]
    batches = Batches(rows, seed=1, where="a", batch_size=4, epochs=2)
    assert batches.steps == 6
    first = [batches.indices(step) for step in range(6)]
    assert [len(step) for step in first] == [4, 4, 2, 4, 4, 2]
    for epoch in (first[:3], first[3:]):
        assert sorted(index for step in epoch for index in step) == list(range(10))
    assert first[:3] != first[3:], "each epoch has its own order"
    assert [batches.indices(step) for step in reversed(range(6))] == first[::-1], "no memory of earlier calls"
    assert Batches(rows, 2, "a", 4, 2).indices(0) != first[0]
    assert Batches(rows, 1, "b", 4, 2).indices(0) != first[0]


def test_split_keeps_all_rows_in_order_and_leaves_no_part_empty() -> None:
    rows = [Encoded((number,), (1, 1), False) for number in range(7)]
    for parts in range(1, 10):
        pieces = split(rows, parts)
        assert [row for piece in pieces for row in piece] == rows
        assert len(pieces) == min(parts, 7)
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert target_tokens(rows) == 14


def test_a_loss_that_is_not_finite_names_the_step_and_rows() -> None:
    learner = Learner(tiny_host("t5"), build_method("seq_lora"), optim=Optim(batch_size=4, log_every=10))

    def poison(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            with torch.no_grad():
                next(iter(learner.adapter.sites.values())).slots.up.weight.fill_(float("nan"))

    learner.on_event = poison
    with pytest.raises(TrainingError, match=r"not finite at step 1 of 'animals', which holds the training rows \d+"):
        learner.learn(tiny_task())


def test_masked_labels_stop_with_the_rows_named(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = Decoding(decode="labels")  # no label is looked for in what is written
    learner = Learner(tiny_host("t5"), build_method("seq_lora"), optim=Optim(batch_size=4), decoding=labels)
    family = type(learner.host.family)
    monkeypatch.setattr(family, "encode_target", lambda *_: ())
    with pytest.raises(TrainingError, match="All labels are masked at step 1 of 'animals', which holds the training"):
        learner.learn(tiny_task())


def test_an_adapter_that_takes_no_part_stops_with_the_rows_named_and_leaves_nothing_to_go_on_with(
    tmp_path: Path,
) -> None:
    learner = Learner(tiny_host("t5"), build_method("seq_lora"), optim=Optim(batch_size=4))

    def cut(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            for site in learner.adapter.sites.values():
                site.slots.is_open = False

    learner.on_event = cut
    with pytest.raises(TrainingError, match=r"No trainable parameter .* step 1 of 'animals', which holds"):
        learner.learn(tiny_task())
    with pytest.raises(TrainingError, match="stopped halfway"):
        learner.learn(tiny_task("birds"))
    with pytest.raises(TrainingError, match="stopped halfway"):
        learner.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_every_term_is_logged_before_and_after_weighting() -> None:
    logged: list[dict[str, float]] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            logged.append({"loss": event.loss, **event.terms})

    method = build_method("am_lora", {"sparsity": 0.25})
    Learner(tiny_host("t5"), method, optim=Optim(batch_size=4, log_every=1), on_event=watch).learn(tiny_task())
    assert logged
    for line in logged:
        assert math.isclose(line["l1_selector_weighted"], 0.25 * line["l1_selector"], rel_tol=1e-6)
        assert math.isclose(line["loss"], line["task"] + line["l1_selector_weighted"], rel_tol=1e-5)


WORKER = """
import os, sys, torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[1].split(os.pathsep)
from helpers.tiny import tiny_host
from test_loss import uneven_task
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method
from accelerate import PartialState
for name in ("am_lora", "seq_ft"):
    method = build_method(name, {} if name == "seq_ft" else {"dropout": 0.0})
    optim = Optim(batch_size=5, accumulation=2, epochs=2, learning_rate=1e-3)
    learner = Learner(tiny_host("t5"), method, seed=2, optim=optim)
    assert PartialState().num_processes == int(sys.argv[3]), PartialState()
    learner.learn(uneven_task())
    if PartialState().is_main_process:
        torch.save({k: v.clone() for k, v in learner.adapter.tensors().items()}, f"{sys.argv[2]}-{name}.pt")
"""


@pytest.mark.long
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Steps of 5, 3 rows with unequal targets, shared by two processes: the same parameters as alone."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    here = os.pathsep.join(sys.path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    for processes, launcher in ((1, []), (2, group)):
        arguments = [str(script), here, str(tmp_path / str(processes)), str(processes)]
        done = subprocess.run(
            [sys.executable, *launcher, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("am_lora", "seq_ft"):
        alone, shared = (torch.load(tmp_path / f"{processes}-{name}.pt") for processes in (1, 2))
        for key, tensor in alone.items():
            assert torch.allclose(tensor, shared[key], rtol=1e-4, atol=2e-6), (name, key)
