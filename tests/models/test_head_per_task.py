"""A head for each task: a softmax over the task's own labels, in training and at test, by a task that is told."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor

from helpers.command import Call, assert_one_line_error, contents, one_line
from helpers.contract import same_state, state_of
from helpers.task_learner import TaskLearner
from helpers.texts import text_host, text_task
from helpers.tiny import FAMILIES, tiny_host, tiny_task, write_task
from nacre.errors import CheckpointError, DataError, ModelError
from nacre.events import Event, RowMeasured, StepTaken, TrainingPrepared
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.manifest import MANIFEST, write_manifest
from nacre.models.families import Encoded, Lengths
from nacre.models.growing_head import GrowingHead
from nacre.models.host import Host
from nacre.models.task_heads import TaskHeads
from nacre.parts.part import LearnerView as Seen
from nacre.parts.part import Memory
from nacre.records.compare import read_runs
from nacre.registry import build_method
from nacre.runs.recipe import Recipe, training_settings
from nacre.runs.run import run
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.task import Task
from nacre.tasks.template import Example

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)
ANIMALS = tiny_task("animals", labels=("yes", "no"))
FISH = tiny_task("fish", labels=("maybe", "no"))  # shares "no"
WORMS = tiny_task("worms", labels=("no", "yes"))  # shares both, in another order


def learner_of(
    method: str = "inc_lora", *, head: str = "per_task", host: Host | None = None, **optim: object
) -> Learner:
    settings = OPTIM.model_copy(update=optim)
    return Learner(host or tiny_host("roberta"), build_method(method), seed=4, optim=settings, head=head)  # type: ignore[arg-type]


def learnt(method: str, tasks: Sequence[Task], **more: Any) -> Learner:
    learner = learner_of(method, **more)
    for task in tasks:
        learner.learn(task)
    return learner


def heads_of(learner: Learner) -> TaskHeads:
    head = learner.host.model.head
    assert isinstance(head, TaskHeads)
    return head


def rows_of(learner: Learner, task: str) -> tuple[Tensor, Tensor]:
    """A task's head, W and b, as copies."""
    heads = heads_of(learner)
    mine = [number for number, owner in enumerate(heads.tasks) if owner == task]
    return heads.weight.detach()[mine].clone(), heads.bias.detach()[mine].clone()


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def state(learner: Learner, row: Encoded) -> Tensor:
    """The first token's last hidden state, of one row alone: [d]."""
    found: Tensor = learner.host.body(input_ids=torch.tensor([row.source])).last_hidden_state[0, 0]
    return found


def naive_loss(scores: Sequence[Tensor], answer: int) -> Tensor:
    return torch.log(sum((torch.exp(score) for score in scores), start=torch.zeros(()))) - scores[answer]


# The mathematics


@pytest.mark.parametrize("architecture", FAMILIES["encoder-only"])
def test_loss_and_gradients_against_a_softmax_for_each_row(architecture: str) -> None:
    """In float64, row by row, each task's W and b a matrix of its own; shares no code with the heads."""
    learner = learner_of(host=tiny_host(architecture, torch.float64))
    family, heads = learner.host.family, heads_of(learner)
    family.head.prepare([ANIMALS], 1)
    family.head.prepare([FISH, WORMS], 1, {"animals"})
    with torch.no_grad():
        heads.trained_weight.add_(torch.randn(6, 16, generator=torch.Generator().manual_seed(3)))
        heads.trained_bias.add_(torch.arange(6.0))
    own = {task.name: tuple(t.requires_grad_() for t in rows_of(learner, task.name)) for task in (ANIMALS, FISH, WORMS)}
    examples = [(task, row) for task in (ANIMALS, WORMS, FISH) for row in task.train]
    rows = [row for task in (ANIMALS, WORMS, FISH) for row in learner.encode(task.examples("train"))]
    probe = next(p for name, p in learner.host.body.named_parameters() if name.endswith("output.dense.weight"))
    probe.requires_grad_(True)
    expected = torch.zeros((), dtype=torch.float64)
    for row, (task, given) in zip(rows, examples, strict=True):
        weight, bias = own[task.name]
        assert task.labels is not None
        scores = [weight[number] @ state(learner, row) + bias[number] for number in range(len(task.labels))]
        expected = expected + naive_loss(scores, task.labels.index(given.target))
    expected.backward()
    naive_probe, probe.grad = probe.grad, None
    found = family.loss_sum(learner.host.model, family.batch(rows))
    found.backward()
    assert math.isclose(found.item(), expected.item(), rel_tol=1e-10)
    assert heads.newest.tolist() == [2, 3, 4, 5, 0, 1]  # the newest tasks' in their order, then the rehearsed one's
    order = ("fish", "worms", "animals")
    for gradient, place in ((heads.trained_weight.grad, 0), (heads.trained_bias.grad, 1)):
        naive = torch.cat([own[task][place].grad for task in order])
        assert gradient is not None
        assert (gradient - naive).norm() <= 1e-10 * naive.norm()
    assert naive_probe is not None
    assert (probe.grad - naive_probe).norm() <= 1e-10 * naive_probe.norm()


def test_logits_are_the_own_heads_and_minus_infinity_elsewhere() -> None:
    learner = learnt("seq_lora", [ANIMALS, FISH], host=tiny_host("roberta", torch.float64))
    rows = learner.encode([ANIMALS.examples("test")[0], FISH.examples("test")[1]])
    with torch.no_grad():
        logits = learner.host.model(**learner.host.family.prompts(rows)).logits
        for row, found, task, places in zip(rows, logits, ("animals", "fish"), ((0, 1), (2, 3)), strict=True):
            weight, bias = rows_of(learner, task)
            expected = weight @ state(learner, row) + bias
            assert (found[list(places)] - expected).abs().max() <= 1e-10
            assert all(math.isinf(found[place]) and found[place] < 0 for place in {0, 1, 2, 3} - set(places))


def test_the_answer_is_the_most_likely_of_the_own_heads_classes() -> None:
    learner = learnt("seq_lora", [ANIMALS, FISH, WORMS], epochs=3)
    for task in (ANIMALS, FISH, WORMS):
        weight, bias = rows_of(learner, task.name)
        expected = []
        for row in learner.encode(task.examples("test")):
            scores = (weight @ state(learner, row) + bias).tolist()
            expected.append((task.labels or ())[scores.index(max(scores))])
        assert learner.answer([task]) == [expected]
        assert learner.predict([example.input for example in task.examples("test")], task=task.name) == expected


# With one task there is nothing to tell


@pytest.mark.parametrize("method", ["seq_ft", "seq_lora", "am_lora", "seq_lora+replay"])
def test_one_task_is_the_growing_head_bit_for_bit(method: str) -> None:
    losses: dict[str, list[float]] = {"growing": [], "per_task": []}
    found = {}
    for kind, seen in losses.items():
        learner = learner_of(method, head=kind, weight_decay=0.1, epochs=2)
        learner.on_event = lambda event, seen=seen: seen.append(event.loss) if isinstance(event, StepTaken) else None
        learner.learn(WORMS)
        found[kind] = learner
    assert losses["growing"] == losses["per_task"]
    one, other = (state_of(found[kind]) for kind in losses)
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert found["growing"].answer([WORMS]) == found["per_task"].answer([WORMS])


def test_joint_learning_of_one_task_too() -> None:
    one, other = (learnt("joint", [WORMS], head=kind) for kind in ("growing", "per_task"))
    assert all(torch.equal(tensor, state_of(other)[name]) for name, tensor in state_of(one).items())


# Each task's own rows


def test_a_shared_label_string_has_a_row_in_each_head() -> None:
    learner = learnt("inc_lora", [ANIMALS])
    before = rows_of(learner, "animals")
    learner.learn(WORMS)
    assert heads_of(learner).classes == ["yes", "no", "no", "yes"]
    assert heads_of(learner).tasks == ["animals", "animals", "worms", "worms"]
    assert equal(rows_of(learner, "animals"), before), "learning the same strings again moves other rows"
    weight, _ = rows_of(learner, "worms")
    assert not torch.equal(weight[1], before[0][0])
    assert not torch.equal(weight[0], before[0][1])
    encode = learner.host.family.encode_target
    assert [encode(task.examples("test")[0], Lengths()) for task in (ANIMALS, WORMS)] == [(0,), (2,)]


def test_rows_of_one_label_begin_alike_in_every_head() -> None:
    """As in a growing head they depend on the seed and the label alone, so that the order of tasks does not matter."""
    learner, growing = learner_of(), GrowingHead(16, torch.zeros(()))
    for task in (ANIMALS, WORMS):
        learner.host.family.head.prepare([task], 4)
    growing.grow(["yes", "no"], seed=4)
    assert torch.equal(heads_of(learner).weight, growing.weight[[0, 1, 1, 0]])


@pytest.mark.parametrize("method", ["seq_ft", "inc_lora"])
def test_the_heads_of_five_tasks_freeze_bit_for_bit(method: str) -> None:
    learner = learner_of(method, weight_decay=0.1)
    frozen: dict[str, tuple[Tensor, Tensor]] = {}
    for number, labels in enumerate((("yes", "no"), ("no", "yes"), ("maybe", "no"), ("yes", "no"), ("maybe", "yes"))):
        task = tiny_task(f"task {number}", labels=labels)
        begun: list[tuple[Tensor, Tensor]] = []

        def watch(event: Event, name: str = task.name, begun: list[tuple[Tensor, Tensor]] = begun) -> None:
            if isinstance(event, TrainingPrepared):
                begun.append(rows_of(learner, name))

        learner.on_event = watch
        learner.learn(task)
        assert all(equal(rows_of(learner, name), rows) for name, rows in frozen.items())
        frozen[task.name] = rows_of(learner, task.name)
        assert not any((old == new).all() for old, new in zip(begun[0], frozen[task.name], strict=True))
        assert {group.name: group.size for group in learner.trainable()}["head"] == 2 * (16 + 1)
    assert learner.stored_parameters() == learner.adapter.stored_parameters() + 10 * (16 + 1)


def test_a_task_that_comes_again_goes_on_with_its_head() -> None:
    learner = learnt("seq_lora", [ANIMALS, FISH])
    other = rows_of(learner, "fish")
    before = rows_of(learner, "animals")
    learner.learn(replace(ANIMALS, labels=("yes", "no", "maybe")), again=True)
    assert heads_of(learner).tasks == ["animals", "animals", "fish", "fish", "animals"]
    assert equal(rows_of(learner, "fish"), other)
    assert not torch.equal(rows_of(learner, "animals")[0][:2], before[0])


# The wrong head is never used


@pytest.mark.parametrize("decode", ["free", "labels"])
def test_other_heads_have_no_part_in_an_answer(decode: str, tmp_path: Path) -> None:
    """Every other head shouts; the answers and the own logits stay what they were, bit for bit."""
    learner = learnt("seq_lora", [ANIMALS, FISH, WORMS], epochs=3)
    learner.decoding = learner.decoding.model_copy(update={"decode": decode})
    family, heads = learner.host.family, heads_of(learner)
    for task in (ANIMALS, FISH, WORMS):
        mine = torch.tensor([owner == task.name for owner in heads.tasks])
        prompts = family.prompts(learner.encode(task.examples("test")))
        with torch.no_grad():
            answers, logits = learner.answer([task]), learner.host.model(**prompts).logits
            kept, own = heads.tensors(), heads.values()
            loud = {"weight": kept["weight"].clone(), "bias": kept["bias"].clone()}
            loud["weight"][~mine] = 1e6
            loud["bias"][~mine] = 1e9
            heads.load(loud, own)
            assert learner.answer([task]) == answers
            assert torch.equal(learner.host.model(**prompts).logits, logits)
            heads.load(kept, own)
        assert set(answers[0]) <= set(task.labels or ())
    assert len({tuple(answers) for answers in learner.answer([ANIMALS, FISH, WORMS])}) > 1


@pytest.mark.parametrize("decode", ["free", "labels"])
def test_tasks_answered_together_are_answered_as_alone(decode: str) -> None:
    """Rows of several tasks, two of them with the very same labels, in different heads, share batches."""
    bees = tiny_task("bees", labels=("yes", "no"))
    tasks = [WORMS, ANIMALS, bees, FISH]
    learner = learnt("seq_lora", [ANIMALS, FISH, WORMS, bees], epochs=3)
    learner.decoding = learner.decoding.model_copy(update={"decode": decode})
    alone = [learner.answer([task])[0] for task in tasks]
    assert learner.answer(tasks) == alone
    assert all(set(answers) <= set(task.labels or ()) for task, answers in zip(tasks, alone, strict=True))


@pytest.mark.parametrize("decode", ["free", "labels"])
def test_a_task_without_a_head_has_no_answer(decode: str) -> None:
    learner = learner_of()
    learner.decoding = learner.decoding.model_copy(update={"decode": decode})
    assert learner.answer([ANIMALS]) == [[""] * 6]
    learner.learn(ANIMALS)
    assert learner.answer([WORMS]) == [[""] * 6], "although both of its labels are classes of another task"
    score = learner.evaluate([WORMS])[0]
    assert (score.accuracy, score.valid) == (0.0, 0.0)
    assert all(learner.answer([ANIMALS])[0])


def test_labels_of_another_head_cannot_be_chosen() -> None:
    learner = learnt("seq_lora", [ANIMALS, WORMS])
    rows = learner.encode(ANIMALS.examples("test"))
    labels = learner.host.family.label_set(WORMS.examples("test")[0], ("no", "yes"), learner.lengths)
    assert labels == ((2,), (3,))
    assert learner.host.classify(rows, labels) == [None] * 6
    own = learner.host.family.label_set(ANIMALS.examples("test")[0], ("no", "yes"), learner.lengths)
    assert [("no", "yes")[best or 0] for best in learner.host.classify(rows, own)] == learner.answer([ANIMALS])[0]


def test_rows_and_prompts_must_say_their_task() -> None:
    learner = learnt("seq_lora", [ANIMALS])
    bare = replace(ANIMALS.examples("train")[0], task="")
    with pytest.raises(DataError, match=r"A row does not say of which task it is, .*predict\(inputs, task=NAME\)"):
        learner.loss_sum(learner.encode([bare]))
    with pytest.raises(DataError, match="does not say of which task"):
        learner.predict(["the dog"])
    with pytest.raises(
        DataError, match=r"predict\(task='birds'\): no such task has been learned; learned so far: animals"
    ):
        learner.predict(["the dog"], task="birds")
    with pytest.raises(DataError, match="not a label of any task learned so far"):
        learner.loss_sum(learner.encode([replace(bare, task="worms")]))
    with pytest.raises(DataError, match="must be given the rows' tasks"):
        learner.host.model(torch.tensor([[3, 1]]), torch.tensor([[1, 1]]))


def test_hosts_with_a_growing_head_need_no_task() -> None:
    learner = learnt("seq_lora", [ANIMALS], head="growing")
    inputs = [example.input for example in ANIMALS.examples("test")]
    assert learner.predict(inputs) == learner.predict(inputs, task="animals") == learner.answer([ANIMALS])[0]
    assert "tasks" not in learner.host.family.prompts(learner.encode(ANIMALS.examples("test")))


# Rehearsal


@dataclass(frozen=True)
class KeptTexts:
    kept: list[list[str]]


@dataclass(frozen=True)
class FirstTaskOnly(Memory):
    """A memory of one's own: three rows of the first task."""

    State: ClassVar[type[KeptTexts]] = KeptTexts

    def examples(self, learner: Seen, tasks: Sequence[Task]) -> list[Example]:
        state = learner.remembered(self, KeptTexts) or KeptTexts([])
        return [Example(*texts, task="animals") for texts in state.kept]

    def end(self, learner: Seen, tasks: Sequence[Task]) -> None:
        some = tasks[0].examples("train")[:3]
        if learner.remembered(self, KeptTexts) is None:
            learner.remember(self, KeptTexts([[e.before, e.text, e.after, e.target] for e in some]))


def test_rehearsed_rows_train_the_head_of_their_own_task_and_no_other() -> None:
    method = build_method("seq_lora").with_memory(FirstTaskOnly())
    learner = TaskLearner(tiny_host("roberta"), method, optim=OPTIM.model_copy(update={"weight_decay": 0.1}))
    learner.learn(ANIMALS)
    learner.learn(FISH)
    before = {task: rows_of(learner, task) for task in ("animals", "fish")}
    learner.learn(WORMS)
    assert not torch.equal(rows_of(learner, "animals")[0], before["animals"][0])
    assert equal(rows_of(learner, "fish"), before["fish"]), "none of its rows came back"
    assert heads_of(learner).newest.tolist() == [4, 5, 0, 1]
    assert {group.name: group.size for group in learner.trainable()}["head"] == 4 * (16 + 1)


@pytest.mark.parametrize("method", ["replay", "seq_lora+replay", "inc_lora+replay"])
def test_a_step_with_rehearsed_rows_has_each_rows_own_loss(method: str) -> None:
    """The first step on the second task, of all rows at once: the mean over the new and the kept rows."""
    parameters = {"fraction": 0.5} if method == "replay" else {"dropout": 0.0, "replay": {"fraction": 0.5}}
    found: list[float] = []
    expected: list[float] = []
    learner = TaskLearner(
        tiny_host("roberta", torch.float64),
        build_method(method, parameters),
        optim=Optim(batch_size=32, log_every=1),
    )
    learner.learn(ANIMALS)

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            assert learner.method.memory is not None
            kept = learner.method.memory.examples(learner, [])
            assert len(kept) == 6
            losses = []
            for task, examples in ((ANIMALS, kept), (FISH, FISH.examples("train"))):
                weight, bias = rows_of(learner, task.name)
                for row, example in zip(learner.encode(examples), examples, strict=True):
                    answer = (task.labels or ()).index(example.target)
                    with torch.no_grad():
                        losses.append(naive_loss(list(weight @ state(learner, row) + bias), answer).item())
            mixed = learner.encode([*FISH.examples("train"), *kept])
            with torch.no_grad():
                assert math.isclose(learner.loss_sum(mixed).item(), sum(losses), rel_tol=1e-10)
            expected.append(sum(losses) / len(losses))
        if isinstance(event, StepTaken):
            found.append(event.loss)

    learner.on_event = watch
    learner.learn(FISH)
    assert math.isclose(found[0], expected[0], rel_tol=1e-6)  # the loop reports its losses in float32


@pytest.mark.parametrize("nothing", [{"fraction": 0.0}, {"per_task": 0}])
def test_keeping_nothing_is_learning_without_a_memory(nothing: dict[str, float]) -> None:
    decay = OPTIM.model_copy(update={"weight_decay": 0.1})
    learners = [
        TaskLearner(tiny_host("roberta"), build_method(name, parameters), optim=decay)
        for name, parameters in (("replay", nothing), ("seq_ft", {}))
    ]
    for learner in learners:
        for task in (ANIMALS, FISH):
            learner.learn(task)
    one, other = map(state_of, learners)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# Curricula


def test_joint_learns_all_heads_at_once() -> None:
    learner = learner_of("joint", epochs=2)
    begun: list[dict[str, tuple[Tensor, Tensor]]] = []

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            begun.append({task.name: rows_of(learner, task.name) for task in (ANIMALS, FISH, WORMS)})

    learner.on_event = watch
    learner.learn(ANIMALS, FISH, WORMS)
    assert heads_of(learner).tasks == ["animals"] * 2 + ["fish"] * 2 + ["worms"] * 2
    for task in (ANIMALS, FISH, WORMS):
        (old, _), (new, _) = begun[0][task.name], rows_of(learner, task.name)
        assert not (old == new).all(dim=-1).any(), "every row was trained"
        assert set(learner.answer([task])[0]) <= set(task.labels or ())


def test_a_fresh_learner_on_the_same_host_has_no_head() -> None:
    """As in ``independent``: the second copy is what it would be on a host that has never learnt."""
    host = tiny_host("roberta")
    learnt("independent", [ANIMALS], host=host).remove()
    again, alone = learnt("independent", [FISH], host=host), learnt("independent", [FISH])
    assert heads_of(again).tasks == ["fish", "fish"]
    assert all(torch.equal(tensor, state_of(alone)[name]) for name, tensor in state_of(again).items())
    assert again.answer([ANIMALS]) == [[""] * 6]


def test_text_between_labelled_tasks_is_learnt_as_ever() -> None:
    """Unlabeled text has no head of its own kind: what is learnt of it is, to the bit, what a growing head's host
    learns; and the tasks' heads lie still meanwhile."""
    found = {}
    for kind in ("growing", "per_task"):
        short = OPTIM.model_copy(update={"max_source_length": 16})
        learner = Learner(text_host(), build_method("inc_lora"), optim=short, head=kind)  # type: ignore[arg-type]
        learner.learn(ANIMALS)
        labels = learner.host.family.head.tensors()["weight"].clone()
        learner.learn(text_task("farm"))
        assert torch.equal(learner.host.family.head.tensors()["weight"], labels)
        found[kind] = (state_of(learner), learner.measure_text(text_task("farm")), learner.answer([ANIMALS]))
    (one, *scores), (other, *others) = found.values()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert scores == others


# Saving, restoring, removing


@pytest.mark.parametrize("method", ["seq_ft", "am_lora", "inc_lora+replay"])
def test_saved_heads_come_back_bit_for_bit(method: str, tmp_path: Path) -> None:
    """Onto a host that comes with a growing head: the kind of head is the learner's."""
    learner = learnt(method, [ANIMALS, FISH])
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("roberta"))
    assert loaded.head == "per_task"
    assert loaded.host.family.head.values() == learner.host.family.head.values()
    assert same_state(loaded, learner)
    assert loaded.trainable()[-1].size == learner.trainable()[-1].size
    assert loaded.answer([ANIMALS, FISH]) == learner.answer([ANIMALS, FISH])
    for one in (learner, loaded):
        one.learn(WORMS)
    assert all(torch.equal(tensor, state_of(loaded)[name]) for name, tensor in state_of(learner).items())


def test_a_learner_that_has_learnt_nothing_keeps_its_kind_of_head(tmp_path: Path) -> None:
    learner_of().save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "head.safetensors").exists()
    assert isinstance(Learner.load(tmp_path / "saved", tiny_host("roberta")).host.model.head, TaskHeads)


def test_the_other_kind_of_head_is_refused(tmp_path: Path) -> None:
    learnt("seq_lora", [ANIMALS]).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="was made with head=per_task, and this learner has head=growing"):
        learner_of("seq_lora", head="growing").restore(checkpoint.read(tmp_path / "saved"))


def test_learners_saved_before_there_was_a_choice_have_a_growing_head(tmp_path: Path) -> None:
    learner = learnt("seq_lora", [ANIMALS], head="growing")
    learner.save(tmp_path / "saved")
    file = tmp_path / "saved" / "state.json"
    document = json.loads(file.read_text())
    assert document.pop("head") == "growing"
    owners = document.pop("owners")
    old = {"schema": "nacre.learner/1", "slots": owners["adapter"]["slots"], "head": owners["head"]}
    file.write_text(json.dumps({**document, **old}))
    (tmp_path / "saved" / MANIFEST).unlink()
    write_manifest(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("roberta"))
    assert type(loaded.host.model.head) is GrowingHead
    assert loaded.answer([ANIMALS]) == learner.answer([ANIMALS])


@pytest.mark.parametrize("method", ["seq_ft", "inc_lora"])
def test_removing_takes_the_heads_away(method: str) -> None:
    host, untouched = tiny_host("roberta"), tiny_host("roberta")
    learnt(method, [ANIMALS, FISH], host=host).remove()
    names, pristine = host.model.state_dict(), untouched.model.state_dict()
    assert list(names) == list(pristine)
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in names.items())
    assert type(host.model.head) is GrowingHead
    assert host.family.decoding == untouched.family.decoding
    growing, alone = learnt(method, [FISH], host=host, head="growing"), learnt(method, [FISH], head="growing")
    assert all(torch.equal(tensor, state_of(alone)[name]) for name, tensor in state_of(growing).items())


# What is said of it


def test_traits_say_that_the_task_is_told() -> None:
    for name in ("seq_lora", "joint", "independent", "o_lora+replay"):
        told, untold = learner_of(name).traits, learner_of(name, head="growing").traits
        assert untold == build_method(name).traits
        assert told == {**untold, "task identity at test": True, "task boundaries in training": True}


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_host_that_writes_has_no_heads(architecture: str) -> None:
    with pytest.raises(ModelError, match=r"head=per_task: an (encoder-decoder|decoder-only) host writes its answers"):
        learner_of(host=tiny_host(architecture))


# Runs


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, labels in (("animals", ("yes", "no")), ("fish", ("maybe", "no")), ("worms", ("no", "yes"))):
        write_task(tmp_path / "data", name, labels)
    return tmp_path / "data"


def flags(data: Path, model: Path, output: Path, *settings: str, method: str = "seq_lora") -> list[object]:
    sets = ["optim.epochs=4", "optim.batch_size=4", "optim.learning_rate=0.01", *settings]
    where = ("--data", data, "--model", model, "--output", output)
    chosen = ("--method", method, "--stream", "animals,fish,worms")
    return ["run", *chosen, *where, *[part for one in sets for part in ("--set", one)]]


def test_a_run_from_the_command_line(
    nacre: Call, data: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    model, told = tiny_model("roberta"), tmp_path / "told"
    said = nacre(*flags(data, model, told, "head=per_task"))
    assert said.code == 0, said.err
    sentence = "Task identity at test: told, as in training: each task has a head of its own, over its own labels."
    assert sentence in one_line(said.out)
    record = json.loads((told / "results.json").read_text())
    assert record["matrix"][0] == [0.0, 0.0, 0.0]
    assert record["matrix"][1][1:] == [0.0, 0.0], "without a head there is no answer"
    assert all(score is not None and score > 0 for score in record["matrix"][3])
    assert record["valid_answers"][3] == [1.0, 1.0, 1.0]
    assert record["protocol"]["decoding"] == "the most likely class of the task's own head"
    assert yaml.safe_load((told / "recipe.yaml").read_text())["head"] == "per_task"
    assert "Task identity at test" in (told / "report.html").read_text()
    saved = sorted((told / "tasks").iterdir())[-1]
    assert Learner.load(saved).head == "per_task", "by the model's name, without a word of the head"
    assert "finished already" in nacre(*flags(data, model, told, "head=per_task")).out

    growing = tmp_path / "growing"
    assert nacre(*flags(data, model, growing)).code == 0
    protocol = json.loads((growing / "protocol.json").read_text())["protocol"]
    assert "task identity at test" not in protocol
    assert protocol["decoding"] == "the most likely of all classes learnt so far"
    runs, _ = read_runs([told, growing], training_settings)
    assert "head" not in {**runs[0].settings, **runs[1].settings}, "the protocol says it; older recipes do not"
    said = nacre("compare", told, growing)
    assert_one_line_error(said, "cannot be ranked", "differ in decoding, task identity at test")
    said = nacre(*flags(data, model, told))
    assert_one_line_error(said, "begun with other settings", 'head is "per_task" there and "growing" here')


@pytest.mark.parametrize("method", ["am_lora", "seq_lora+replay", "joint", "independent"])
def test_an_interrupted_run_ends_with_the_same_bits(
    method: str, data: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    def recipe(output: str) -> Recipe:
        return Recipe(
            method=method,
            stream=["animals", "fish", "worms"],
            data=str(data),
            model=str(tiny_model("roberta")),
            head="per_task",
            optim=Optim(learning_rate=1e-2, batch_size=4),
            output=str(tmp_path / output),
        )

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, RowMeasured) and event.number == 1:
            raise Stop

    def silent(*_: object, **__: object) -> None:
        """What happens, told to nobody."""

    straight = run(recipe("straight"), silent)
    if method != "joint":  # which has one stage only
        with pytest.raises(Stop):
            run(recipe("halted"), stop)
    halted = run(recipe("halted"), silent)
    assert halted.matrix == straight.matrix
    assert halted.protocol_hash == straight.protocol_hash
    last = sorted((tmp_path / "straight" / "tasks").iterdir())[-1].name
    for file in ("head.safetensors", "adapter.safetensors", "state.safetensors", "state.json"):
        there, here = (tmp_path / place / "tasks" / last / file for place in ("straight", "halted"))
        assert there.read_bytes() == here.read_bytes()


def test_a_folder_from_before_recipes_named_a_head_goes_on(
    nacre: Call, data: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    given = flags(data, tiny_model("roberta"), tmp_path / "run", "optim.epochs=1")
    assert nacre(*given).code == 0
    file = tmp_path / "run" / "recipe.yaml"
    recipe = yaml.safe_load(file.read_text())
    assert recipe.pop("head") == "growing"
    file.write_text(yaml.safe_dump(recipe))
    assert "finished already" in nacre(*given).out
    assert_one_line_error(nacre(*given, "--set", "head=per_task"), 'head is "growing" there and "per_task" here')


def test_wrong_heads_are_refused_in_one_line(
    nacre: Call, data: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    before = contents(tmp_path)
    said = nacre(*flags(data, tiny_model("t5"), tmp_path / "run", "head=per_task"))
    assert_one_line_error(said, "head=per_task: an encoder-decoder host writes its answers", "'head' at growing")
    said = nacre(*flags(data, tiny_model("roberta"), tmp_path / "run", "head=each"))
    assert_one_line_error(said, "head = 'each'", "'growing' or 'per_task'")
    assert contents(tmp_path) == before


def test_a_plan_says_that_the_task_is_told(nacre: Call, data: Path, tmp_path: Path) -> None:
    given = flags(data, tmp_path / "model", tmp_path / "run")
    told, untold = nacre(*given, "--set", "head=per_task", "--dry-run"), nacre(*given, "--dry-run")
    assert "per_task (the task is given in training and at test)" in one_line(told.out)
    assert "told in training" not in one_line(untold.out)


@pytest.mark.skipif(not os.environ.get("NACRE_DATA"), reason="NACRE_DATA is not set")
def test_real_tasks_with_the_same_labels_have_heads_of_their_own() -> None:
    """The long benchmark's two review tasks share all five label strings, and topics share none with them."""
    found = load_tasks(["amazon", "yelp", "dbpedia"], str(Path(os.environ["NACRE_DATA"]) / "long_sequence"))
    tasks = [task.limited(40, 20) for task in found]
    learner = learnt("seq_lora", tasks, max_source_length=56)
    assert set(tasks[0].labels or ()) == set(tasks[1].labels or ())
    assert len(heads_of(learner).classes) == sum(len(task.labels or ()) for task in tasks) == 24
    for task, answers in zip(tasks, learner.answer(tasks), strict=True):
        assert set(answers) <= set(task.labels or ())
