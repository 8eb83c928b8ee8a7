"""One way into the model: whatever reads rows asks the router, once a batch, before anything of the batch is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.texts import text_host, text_task
from helpers.tiny import tiny_host, tiny_task
from nacre.evaluation.base_ability.benchmarks import load_ability_tasks
from nacre.evaluation.base_ability.harness import samples_of
from nacre.evaluation.base_ability.measure import measure_ability
from nacre.evaluation.decoding import Decoding
from nacre.evaluation.gates import dropped_gates, mean_gates
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models import generative
from nacre.models.batch import Batch
from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, split_padding=None)
TASK = tiny_task()
ARCHITECTURES = ("t5", "llama", "roberta")
CHOICES = {"text": "the big dog", "choices": ["sees", "likes the sea", "near", "under a tree"], "label": "A"}


def write_rows(folder: Path, name: str, rows: Sequence[object]) -> str:
    """A benchmark's own rows in its folder of `folder`, which is returned."""
    (folder / name).mkdir()
    (folder / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


class Asked:
    """A router that notes each batch and, of every batch, whether the model read anything of it."""

    def __init__(self, host: Host) -> None:
        self.batches: list[Batch] = []
        self.read: list[bool] = []
        self.open = False
        host.family.router = self
        for module in host.body.modules():
            if isinstance(module, nn.Embedding):
                module.register_forward_pre_hook(self._reads)

    def _reads(self, *_: object) -> None:
        assert self.open, "the model reads tokens that no router was asked about"
        self.read[-1] = True

    @contextmanager
    def route(self, batch: Batch) -> Iterator[None]:
        assert not self.open, "asked twice about one batch"
        self.open = True
        self.batches.append(batch)
        self.read.append(False)
        yield
        self.open = False

    def forget(self) -> None:
        self.batches.clear()
        self.read.clear()

    @property
    def sizes(self) -> list[int]:
        assert all(self.read)
        assert all(batch["input_ids"].shape == batch["attention_mask"].shape for batch in self.batches)
        assert all(len(batch["input_ids"]) == batch.size for batch in self.batches)
        return [batch.size for batch in self.batches]

    @property
    def tasks(self) -> set[str]:
        return {name for batch in self.batches for name in batch.task_names}


def learner_of(architecture: str, method: str = "seq_lora", host: Host | None = None, **more: object) -> Learner:
    decoding = Decoding(batch_size=4, split_padding=None, max_new_tokens=3, **more)
    return Learner(host or tiny_host(architecture), build_method(method), optim=OPTIM, decoding=decoding)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_asks_for_every_micro_batch(architecture: str) -> None:
    learner = learner_of(architecture)
    learner.optim = learner.optim.model_copy(update={"accumulation": 2})
    asked = Asked(learner.host)
    learner.learn(TASK)
    assert asked.sizes == [2] * 6
    assert asked.tasks == {"animals"}
    assert all("labels" in batch for batch in asked.batches)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("decode", ["free", "labels"])
def test_answers_ask_for_every_batch(architecture: str, decode: str) -> None:
    learner = learner_of(architecture, decode=decode)
    learner.learn(TASK)
    expected = learner.answer([TASK])
    asked = Asked(learner.host)
    assert learner.answer([TASK]) == expected
    assert asked.sizes == [4, 2]
    assert asked.tasks == {"animals"}
    asked.forget()
    learner.predict(["the dog"], task="animals")
    assert asked.tasks == {"animals"}


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("labels_at_once", [True, False])
def test_labels_that_are_read_one_by_one_ask_for_the_rows_that_are_read(
    architecture: str, labels_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every label is a sequence of its own and few fit into memory, each part of the batch is one to route."""
    monkeypatch.setattr(generative, "takes_tree", lambda *_: labels_at_once)
    monkeypatch.setattr(generative, "LOGITS_AT_ONCE", 1)
    learner = learner_of(architecture, decode="labels")
    asked = Asked(learner.host)
    learner.answer([TASK])
    assert asked.sizes == ([4, 2] if labels_at_once else [1] * 6)


@pytest.mark.parametrize("architecture", ["llama", "roberta"])
def test_perplexity_asks_for_every_batch(architecture: str) -> None:
    learner = learner_of(architecture, host=text_host(architecture))
    learner.optim = learner.optim.model_copy(update={"max_source_length": 16})
    asked = Asked(learner.host)
    score = learner.measure_text(text_task())
    assert sum(asked.sizes) == len(score.tokens)
    assert len(asked.sizes) == -(-len(score.tokens) // 4)
    assert asked.tasks == {"farm"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gates_ask_for_every_batch(architecture: str) -> None:
    learner = learner_of(architecture, "am_lora")
    learner.learn(TASK)
    asked = Asked(learner.host)
    mean_gates(learner, TASK)
    assert sum(asked.sizes) == 6
    asked.forget()
    dropped_gates(learner, TASK, batch_size=4)
    assert asked.sizes == [4, 2]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("labels", ["gold", "sampled"])
def test_the_fisher_asks_for_every_row(architecture: str, labels: str) -> None:
    method = build_method("ewc", {"samples": 5, "labels": labels})
    learner = Learner(tiny_host(architecture), method, optim=OPTIM)
    asked = Asked(learner.host)
    learner.learn(TASK)
    assert asked.sizes == [4] * 3 + [1] * 5


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_likelihoods_of_continuations_ask_for_every_batch(architecture: str, tmp_path: Path) -> None:
    (task,) = load_ability_tasks(["hellaswag"], write_rows(tmp_path, "hellaswag", [CHOICES] * 3))
    host = tiny_host(architecture)
    expected = measure_ability(host, task, batch_size=5).log_likelihoods
    asked = Asked(host)
    assert measure_ability(host, task, batch_size=5).log_likelihoods == expected
    assert asked.sizes == [5, 5, 2]
    assert asked.tasks == {""}


def test_a_decoders_padding_and_continuations_are_told_apart(tmp_path: Path) -> None:
    """lm-eval gives the model neither a mask nor labels; a router must know which tokens are the context's."""
    rows = [{"text": "the dog", "choices": ["likes the sea", "sees"], "label": "A"}]
    (task,) = load_ability_tasks(["hellaswag"], write_rows(tmp_path, "hellaswag", rows))
    host = tiny_host("llama")
    asked = Asked(host)
    measure_ability(host, task, batch_size=5)
    (batch,) = asked.batches
    words = host.tokenizer
    context = words("the dog")["input_ids"]
    long, short = ([*context, *words(text, add_special_tokens=False)["input_ids"]] for text in rows[0]["choices"])
    assert batch["input_ids"].tolist() == [long[:-1], [*short[:-1], 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1] * 3 + [0] * 2]
    read = batch["labels"] == IGNORED
    assert (read & batch["attention_mask"].bool()).sum(1).tolist() == [3, 3]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_written_programs_ask_for_every_batch(architecture: str, tmp_path: Path) -> None:
    row = {
        "input": "the dog",
        "output": "sees",
        "test": "def check(c):\n    pass\n",
        "entry_point": "f",
        "task_id": "0",
    }
    (task,) = load_ability_tasks(["humaneval"], write_rows(tmp_path, "humaneval", [row] * 3))
    host = tiny_host(architecture)
    asked = Asked(host)
    samples_of(host, task, batch_size=2, max_new_tokens=3)
    assert asked.sizes == [2, 1]


def test_a_router_may_read_the_batch_itself() -> None:
    """A query pass goes the same way and asks nobody."""
    host = tiny_host("t5")
    queries = []

    class Querying:
        @contextmanager
        def route(self, batch: Batch) -> Iterator[None]:
            with torch.no_grad():
                queries.append(host.family.predictions(host.model, batch)[0].shape[0])
            yield

    host.family.router = Querying()
    rows = [host.family.encode(example, Lengths()) for example in TASK.examples("test")]
    host.family.loss_sum(host.model, host.family.batch(rows))
    host.family.loss_sum(host.model, host.family.batch(rows))
    assert queries == [6, 6]


def test_a_failed_batch_leaves_the_way_open() -> None:
    host = tiny_host("t5")
    asked = Asked(host)
    rows = [host.family.encode(example, Lengths()) for example in TASK.examples("test")]

    class Broken(nn.Module):
        def forward(self, **_: object) -> None:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        host.family.loss_sum(Broken(), host.family.batch(rows))
    asked.open = False
    host.family.loss_sum(host.model, host.family.batch(rows))
    assert len(asked.batches) == 2


def test_a_batch_on_a_device_keeps_its_tasks_and_shows_the_model_tensors_alone() -> None:
    host = tiny_host("t5")
    learner = Learner(host, build_method("seq_lora"))
    batch = host.on_device(host.family.batch(learner.encode(TASK.examples("test"))))
    assert batch.task_names == ("animals",) * 6
    assert set(dict(**batch)) == {"input_ids", "attention_mask", "decoder_input_ids", "labels"}
    assert batch.rows(2, 4).size == 2
