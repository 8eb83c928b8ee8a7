"""Learning without forgetting: what the term is, whose answers the teacher's are, and when there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from helpers.contract import state_of
from helpers.proofs import epi_like, progressive_prompts
from helpers.texts import text_host, text_task
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import RecipeError
from nacre.events import Event, StepTaken
from nacre.functional.distillation import divergence
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.methods.joint import joint
from nacre.methods.seq_ft import seq_ft
from nacre.methods.seq_lora import seq_lora
from nacre.modifiers.distill import distill
from nacre.parts.distillation import Distillation
from nacre.parts.part import BatchTerm, GradientRule, LearnerView, MicroBatch

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task("animals"), tiny_task("birds", labels=("yes", "no", "maybe"))]
ARCHITECTURES = ["t5", "llama", "roberta"]
BASES = {"seq_ft": seq_ft, "seq_lora": lambda: seq_lora(dropout=0.0), "inc_lora": lambda: inc_lora(dropout=0.0)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_divergence_and_its_gradient_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator).unbind()
    leaf = student.clone().requires_grad_()
    found = divergence(teacher, leaf, 2.0)
    found.backward()

    def softened(logits: list[float]) -> list[float]:
        exponentials = [math.exp(z / 2.0) for z in logits]
        return [value / sum(exponentials) for value in exponentials]

    value, gradient = 0.0, []
    for z, s in zip(teacher.tolist(), student.tolist(), strict=True):
        p, q = softened(z), softened(s)
        value += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        gradient.append([(b - a) / 2.0 for a, b in zip(p, q, strict=True)])
    assert float(found.detach()) == pytest.approx(value, rel=1e-12)
    assert leaf.grad is not None
    assert (leaf.grad - torch.tensor(gradient, dtype=torch.float64)).abs().max() < 1e-12
    assert float(divergence(teacher, teacher.clone(), 2.0)) == 0.0


@dataclass(frozen=True)
class Against(BatchTerm):
    """The divergence from another learner, row by row and token by token; adds nothing."""

    teacher: Learner | None
    temperature: float
    strength: float = 0.0
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        if learner.task_number == 2:
            assert self.teacher is not None
            expected = 0.0
            for row in batch.rows:
                with torch.no_grad():
                    theirs, labels = self.teacher.predictions([row])
                    ours, _ = learner.predictions([row])
                for z, s in zip(theirs[labels != IGNORED], ours[labels != IGNORED], strict=True):
                    p, q = ((each[: len(z)] / self.temperature).softmax(0) for each in (z, s))
                    expected += float((p * (p.log() - q.log())).sum())
            with torch.no_grad():
                found = Distillation(1.0, self.temperature).value(learner, batch)
            self.pairs.append((float(found), expected))
        return batch.logits.sum() * 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("base", BASES)
def test_the_teacher_is_the_learner_as_the_last_task_left_it(architecture: str, base: str, tmp_path: Path) -> None:
    """A learner that was saved after the first task is the teacher's twin in every later step."""
    method = distill(BASES[base](), temperature=3.0)
    first = Learner(tiny_host(architecture, torch.float64), method, seed=5, optim=OPTIM)
    first.learn(TASKS[0])
    first.save(tmp_path / "saved")
    twin = Learner.load(tmp_path / "saved", tiny_host(architecture, torch.float64))
    against = Against(twin, 3.0)
    learner = Learner(tiny_host(architecture, torch.float64), method.with_batch_term(against), seed=5, optim=OPTIM)
    for task in TASKS:
        learner.learn(task)
    assert len(against.pairs) >= 3
    found, expected = against.pairs[0]
    assert abs(found) < 1e-10, "the learner begins as its teacher"
    assert abs(expected) < 1e-10
    for found, expected in against.pairs:
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-10)
    assert against.pairs[-1][1] > 1e-8


@dataclass(frozen=True)
class Look(GradientRule):
    """The teacher of each task."""

    reads_gradients: ClassVar[bool] = False
    found: list[nn.Module | None] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)

    def apply(self, learner: LearnerView) -> None:
        if learner.step.number == 0:
            teacher = learner.resources.get("distillation")  # type: ignore[attr-defined]
            self.found.append(teacher)
            if teacher is not None:
                own = {parameter.data_ptr() for parameter in learner.host.model.parameters()}
                assert not teacher.training
                self.shared.append(sum(parameter.data_ptr() in own for parameter in teacher.parameters()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_beside_a_lora_the_teacher_shares_the_hosts_weights(architecture: str) -> None:
    shared = {}
    for name, base in BASES.items():
        look = Look()
        learner = Learner(tiny_host(architecture), distill(base()).with_gradient_rule(look), optim=OPTIM)
        bare = len(list(learner.host.body.parameters()))
        for task in TASKS:
            learner.learn(task)
        assert [teacher is None for teacher in look.found] == [True, False]
        assert "distillation" not in learner.resources
        shared[name] = look.shared[0] / bare
    assert shared["seq_ft"] == 0
    assert shared["seq_lora"] >= 0.5


def test_without_weight_it_is_its_base_bit_for_bit() -> None:
    def learned(method: Method) -> dict[str, Tensor]:
        learner = Learner(tiny_host("t5"), method, seed=5, optim=OPTIM)
        for task in TASKS:
            learner.learn(task)
        return state_of(learner)

    base, found = learned(seq_lora(dropout=0.3)), learned(distill(seq_lora(dropout=0.3), strength=0.0))
    assert same(base, found)
    # The first task has no teacher, whatever the weight.
    with_teacher = learned(distill(seq_lora(dropout=0.3), strength=(9.0, 0.0)))
    assert same(base, with_teacher)
    assert not same(base, learned(distill(seq_lora(dropout=0.3))))


def test_a_strong_teacher_is_left_less() -> None:
    def left(strength: float) -> float:
        learner = Learner(
            tiny_host("t5"),
            distill(seq_lora(dropout=0.0), strength=strength),
            seed=5,
            optim=OPTIM.model_copy(update={"epochs": 6}),
        )
        learner.learn(TASKS[0])
        rows = learner.encode(TASKS[1].examples("train"))
        before, labels = learner.predictions(rows)
        learner.learn(TASKS[1])
        after, _ = learner.predictions(rows)
        return float(divergence(before[labels != IGNORED], after[labels != IGNORED], 1.0))

    assert left(20.0) < 0.5 * left(0.0)


def test_texts_and_labels_follow_one_another_in_an_encoder() -> None:
    """A teacher of texts knows no class, and one of labels the tokens that its masked-LM head knows."""
    seen: list[dict[str, Any]] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            seen.append(event.terms)

    optim = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_source_length=16)
    learner = Learner(text_host(bare=True), distill(seq_ft()), optim=optim, on_event=watch)
    for task in (tiny_task("animals"), text_task(rows=8), text_task("other", rows=8), tiny_task("birds")):
        seen.clear()
        learner.learn(task)
        first, last = seen[0]["distillation"], seen[-1]["distillation"]
        assert abs(first) < 1e-6
        assert last > 1e-6 or task.name == "animals"
    texts = Learner(text_host(bare=True), distill(seq_ft()), optim=optim, on_event=watch)
    texts.learn(text_task(rows=8))
    seen.clear()
    texts.learn(tiny_task("animals"))
    assert all(terms["distillation"] == 0 for terms in seen)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"temperature: 0\.0 is not positive"):
        distill(seq_ft(), temperature=0.0)
    with pytest.raises(RecipeError, match="cannot be negative"):
        distill(seq_ft(), strength=-1.0)
    with pytest.raises(RecipeError, match="distill has no teacher in joint"):
        distill(joint())
    with pytest.raises(RecipeError, match="distill cannot go with EPI-like: the teacher is a copy"):
        distill(epi_like())
    with pytest.raises(RecipeError, match="its teacher knows no prompt of the new task"):
        distill(progressive_prompts())
    with pytest.raises(RecipeError, match="cannot go with a routing"):
        Learner(tiny_host("t5"), epi_like().with_batch_term(Distillation()), optim=OPTIM).learn(TASKS[0])
    with pytest.raises(RecipeError, match="take head=growing"):
        Learner(tiny_host("roberta"), distill(seq_ft()), optim=OPTIM, head="per_task").learn(TASKS[0])
