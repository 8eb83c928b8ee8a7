"""What a route may say besides weights: which classes are open, and what a batch term sees of it; and when a routing
knows the rows' tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from helpers.texts import text_host, text_task
from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.bottleneck import Bottleneck
from nacre.adapters.full import Full
from nacre.adapters.gated import Gated
from nacre.adapters.gated_host import GatedHost
from nacre.adapters.low_rank import LowRank
from nacre.adapters.prompt import Prompt
from nacre.adapters.route import Route
from nacre.adapters.site import put_beside, take_from_beside
from nacre.adapters.svd import Svd
from nacre.adapters.unit_gates import HardGates
from nacre.errors import DataError, ModelError, RecipeError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup, stop_training
from nacre.parts.given_task import GivenTask
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch, Reading, Routing
from nacre.per_task import PerTask
from nacre.registry import build_method
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, accumulation=2, max_target_length=8)
TASKS = [tiny_task("animals"), tiny_task("birds", labels=("maybe", "no"))]


@torch.enable_grad()
def learned(method: Method, architecture: str, optim: Optim = OPTIM) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=optim)
    for task in TASKS:
        learner.learn(task)
    return learner


@torch.no_grad()
def test_closed_classes_answer_no_row() -> None:
    """In training, in free answers and among labels; afterwards all are open again."""
    learner = learned(inc_lora(), "roberta")
    rows = learner.encode(TASKS[0].examples("test"))[:3]
    family = learner.host.family
    assert family.head is not None
    assert family.head.labels.classes == ["yes", "no", "maybe"]
    free, _ = learner.predictions(rows)
    opened = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    with learner.under(Route(classes=opened)):
        closed, _ = learner.predictions(rows)
        written = learner.host.write(rows, 1)
        label_set = family.label_set(TASKS[0].examples("test")[0], ["no", "yes"], learner.lengths)
        chosen = learner.host.classify(rows, label_set)
    assert torch.equal(closed, free.masked_fill(~opened, -math.inf))
    assert written[0] == "yes"
    assert written[1] == ("no" if free[1, 1] > free[1, 2] else "maybe")
    assert written[2] == ""
    assert chosen == [1, 0, None]
    assert torch.equal(learner.predictions(rows)[0], free)


def test_closed_classes_of_a_head_for_each_task() -> None:
    learner = Learner(tiny_host("roberta"), inc_lora(), seed=5, optim=OPTIM, head="per_task")
    for task in TASKS:
        learner.learn(task)
    rows = learner.encode(TASKS[0].examples("test"))[:1]
    with torch.no_grad(), learner.under(Route(classes=torch.tensor([[False, True, True, True]]))):
        closed, _ = learner.predictions(rows)
    assert closed.isinf().tolist() == [[True, False, True, True]]


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
@pytest.mark.parametrize("adapter", [LowRank(2, 4.0), Bottleneck(4, slots="per_task")])
def test_rows_of_one_batch_have_slots_of_their_own(adapter: Any, architecture: str) -> None:
    """In one pass, in free answers with a cache and among labels: each row as if it were alone, or the bare host's."""
    learner = learned(Method(title="A slot a task", sources=(), adapter=adapter), architecture)
    for seed, group in enumerate(learner.adapter.parameter_groups()):
        for parameter in group.parameters:
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    rows = learner.encode(TASKS[0].examples("test"))[:5]
    slots = torch.tensor([1, 0, -1, 0, 1])
    family = learner.host.family
    label_set = family.label_set(TASKS[0].examples("test")[0], ["no", "yes"], learner.lengths)

    @torch.no_grad()
    def read(rows: list[Encoded]) -> tuple[Tensor, list[str], list[int | None]]:
        logits, labels = learner.predictions(rows)
        if labels.ndim > 1:
            logits = torch.stack([own[mask != -100][0] for own, mask in zip(logits, labels, strict=True)])
        return logits, learner.host.write(rows, 4), learner.host.classify(rows, label_set)

    with learner.under(Route(slots=slots)):
        together = read(rows)
    for number, slot in enumerate(slots):
        with learner.under(Route(slots=slot[None])):
            alone = read([rows[number]])
        torch.testing.assert_close(together[0][number], alone[0][0], rtol=1e-4, atol=1e-5)
        assert (together[1][number], together[2][number]) == (alone[1][0], alone[2][0])
    with learner.bypassed():
        bare = read(rows)
    assert torch.equal(together[0][2], bare[0][2])
    assert (together[1][2], together[2][2]) == (bare[1][2], bare[2][2])
    assert not torch.allclose(together[0][:2], bare[0][:2], atol=1e-3)


def test_given_its_task_a_row_has_that_tasks_lora_alone() -> None:
    """The newest one, too: earlier ones are not added to it."""
    learner = learned(inc_lora().with_routing(GivenTask()), "llama")
    rows = [row for task in TASKS for row in learner.encode(task.examples("test"))[:2]]
    with torch.no_grad():
        found, _ = learner.predictions(rows)
        with learner.under(Route(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))):
            expected, _ = learner.predictions(rows)
        with learner.under(Route(torch.ones(4, 2))):
            summed, _ = learner.predictions(rows)
        newest, _ = learner.predictions(rows[2:])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(newest, found[2:, -newest.shape[1] :], rtol=1e-4, atol=1e-5)
    assert (found[2:] - summed[2:]).abs().max() > 1e-3


@dataclass(frozen=True)
class Scored(Routing):
    """Half of every slot, and the number of a batch's tokens as what was compared."""

    seen: list[tuple[str, ...]] = field(default_factory=list)
    asks: bool = False

    @property
    def needs_task_at_test(self) -> bool:
        return self.asks

    def route(self, learner: LearnerView, reading: Reading) -> Route:
        self.seen.append(tuple(reading.tasks))
        mask = reading.inputs["attention_mask"]
        weights = torch.full((len(mask), learner.adapter.tasks), 0.5)
        return Route(weights, scores=mask.sum(1).float())


@dataclass(frozen=True)
class Scores(BatchTerm):
    """Holds each micro-batch's route against the micro-batch."""

    strength: PerTask = 1.0
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        learner.predictions(batch.rows[:1])  # another reading, by another route
        assert batch.route is not None
        assert batch.route.scores is not None
        self.found.append((batch.route.scores, batch.tensors["attention_mask"].sum(1).float()))
        return batch.route.scores.sum() * 0


def test_a_batch_term_sees_the_route_of_its_own_batch() -> None:
    term = Scores()
    learned(inc_lora().with_routing(Scored()).with_batch_term(term), "t5")
    assert len(term.found) > 4
    assert all(torch.equal(scores, tokens) for scores, tokens in term.found)


def test_a_batch_term_sees_no_route_where_there_is_none() -> None:
    term = Scores()
    with pytest.raises(AssertionError):
        learned(inc_lora().with_batch_term(term), "t5")


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "roberta"])
def test_a_text_is_measured_without_its_task_unless_the_routing_needs_it(architecture: str, asks: bool) -> None:
    """Its own tokens are its labels, and yet it is no training batch."""
    routing = Scored(asks=asks)
    method = inc_lora().with_routing(routing)
    host = text_host() if architecture == "roberta" else tiny_host(architecture)
    assert method.traits["task identity at test"] == asks
    learner = Learner(host, method, seed=5, optim=OPTIM.model_copy(update={"max_source_length": 16}))
    task = text_task("farm")
    learner.learn(task)
    assert {name for names in routing.seen for name in names} == {"farm"}
    routing.seen.clear()
    learner.measure_text(task)
    assert {name for names in routing.seen for name in names} == ({"farm"} if asks else {""})


def test_a_routing_that_needs_the_task_is_refused_answers_without_it() -> None:
    learner = learned(inc_lora().with_routing(Scored(asks=True)), "t5")
    with pytest.raises(DataError, match="scored must be given the task of every input"):
        learner.predict(["Is it an animal ?"])


# Prompts whose weighted sum stands in front of an input


def weighted(**settings: int) -> Method:
    adapter = Prompt(tokens=3, slots="per_task", weighted=True, **settings)
    return Method(title="Weighted prompts", sources=(), adapter=adapter)


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_weighted_sum_of_prompts_is_one_prompt(architecture: str) -> None:
    """Against a learner whose one prompt is that sum, with the weights' gradients; one-hot rows to the bit."""
    learner = learned(weighted(), architecture, OPTIM.model_copy(update={"learning_rate": 0.3}))
    assert not learner.traits["task identity at test"]
    rows = learner.encode(TASKS[0].examples("test"))[:3]
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0], [2.0, -1.0]], requires_grad=True)
    (table,) = learner.adapter.tensors().values()
    with learner.under(Route(weights)):
        found, labels = learner.predictions(rows)
        written = learner.host.write(rows, 3)
    found.float().square().nan_to_num().sum().backward()
    assert weights.grad is not None
    assert (weights.grad.abs() > 0).all()
    for number, (row, own) in enumerate(zip(rows, weights.detach(), strict=True)):
        alone = torch.einsum("t,tld->ld", own, table)
        (name,) = learner.adapter.tensors()
        by_itself = Learner(tiny_host(architecture), weighted(), seed=5, optim=OPTIM)
        by_itself.adapter.load({name: alone[None]}, {"slots": 1})
        if by_itself.host.family.head is not None and learner.host.family.head is not None:
            head = learner.host.family.head
            by_itself.host.family.head.load(head.tensors(), head.values())
        with torch.no_grad():
            expected, own_labels = by_itself.predictions([row])
        kept = found[number] if labels.ndim == 1 else found[number][labels[number] != -100]
        torch.testing.assert_close(kept, expected[0] if own_labels.ndim == 1 else expected[0][own_labels[0] != -100])
        assert by_itself.host.write([row], 3) == [written[number]]
    prompts = learner.adapter.prompts  # type: ignore[attr-defined]
    prompts.weights = torch.tensor([[1.0, 0.0]])
    ids = torch.arange(3)[None] + prompts.vocabulary
    assert torch.equal(prompts(ids)[0], table[0])
    prompts.weights = None
    assert torch.equal(prompts(ids)[0], table[1])  # without a route the newest


def test_weights_that_prompts_cannot_follow_are_refused() -> None:
    learner = learned(weighted(), "t5")
    with pytest.raises(ModelError, match=r"numbers \[rows, 2\]"), learner.under(Route(torch.ones(2, 3))):
        pass
    chosen = Route(prompts=torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ModelError, match="it cannot choose single rows"), learner.under(chosen):
        pass
    rows = learner.encode(TASKS[0].examples("test"))[:2]
    with pytest.raises(ModelError, match="for 3 rows, and 2 are read"), learner.under(Route(torch.ones(3, 2))):
        learner.predictions(rows)
    for settings in ({"slots": "shared"}, {"slots": "per_task", "concatenate": True}):
        with pytest.raises(RecipeError, match="a sum of the tasks' prompts needs slots=per_task"):
            Prompt(tokens=3, weighted=True, **settings)  # type: ignore[arg-type]


def test_slots_can_be_weighted_exactly_where_use_follows_weights() -> None:
    adapters = {
        LowRank(2, 4.0): True,
        LowRank(2, 4.0, slots="shared"): False,
        LowRank(2, 4.0, slots="shared", gates=HardGates()): True,
        Svd(2, None): True,
        Gated(2, 4.0): False,
        Full(): False,
        Bottleneck(4): False,
        GatedHost(): True,
        Bottleneck(4, slots="per_task"): True,
        Bottleneck(4, gates=HardGates()): True,
        Prompt(tokens=3): False,
        Prompt(tokens=3, slots="per_task"): False,
        Prompt(tokens=3, slots="per_task", weighted=True): True,
    }
    for adapter, follows in adapters.items():
        assert adapter.weighable == follows
        placed = adapter.place(tiny_host("llama").body)
        placed.grow()
        with nullcontext() if follows else pytest.raises(ModelError), placed.use(Route(torch.ones(2, 1))):
            pass


# Trained tensors beside the adapter's


class Held(nn.Module):
    """One trained number in the host."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = [model]  # not a submodule
        self.number = nn.Parameter(torch.zeros(1), requires_grad=False)
        put_beside(model, self)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("number", (self.number,))]

    def tensors(self) -> dict[str, Tensor]:
        return {"number": self.number.detach()}

    def values(self) -> dict[str, int]:
        return {}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], values: dict[str, int]) -> None:
        self.number.copy_(tensors["number"]) if tensors else self.number.zero_()

    def freeze(self) -> None:
        stop_training(self.parameter_groups())

    def remove(self) -> None:
        take_from_beside(self.model[0])


@dataclass(frozen=True)
class ByNumber(Routing):
    groups: ClassVar[tuple[str, ...]] = ("number",)

    def place(self, host: Host, adapter: object) -> Held:
        return Held(host.body)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        learner.owners["routing"].parameter_groups()[0].parameters[0].requires_grad_(True)

    def route(self, learner: LearnerView, reading: Reading) -> Route:
        number = learner.owners["routing"].parameter_groups()[0].parameters[0]
        return Route((1 + number).expand(len(reading.inputs["input_ids"]), learner.adapter.tasks))


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_what_stands_beside_the_adapter_is_the_models_but_not_the_pretrained_models(architecture: str) -> None:
    host = tiny_host(architecture)
    names, fingerprint = list(host.body.state_dict()), host.fingerprint
    learner = Learner(host, inc_lora().with_routing(ByNumber()), seed=5, optim=OPTIM)
    learner.learn(TASKS[0])
    number = learner.owners["routing"].tensors()["number"]
    assert number.abs() > 0
    assert any(parameter.data_ptr() == number.data_ptr() for parameter in host.model.parameters())
    assert learner.pretrained == fingerprint
    learner.remove()
    assert list(host.body.state_dict()) == names
    take_from_beside(host.body)  # nothing is there, and nothing happens


def test_a_route_tells_each_rows_likeliest_slot() -> None:
    named = torch.tensor([1, -1, 0])
    assert torch.equal(Route(slots=named).likeliest_slots, named)
    assert Route(torch.tensor([[0.2, 0.8], [0.6, 0.4]])).likeliest_slots.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "chooses"),
    [
        ("any_ssr", True),
        ("epi", True),
        ("seq_lora+hat", True),
        ("inc_lora+gaussian_routing", True),
        ("am_lora+gaussian_routing", False),  # it moves gates
        ("latent_lora", False),
        ("mocl", False),
        ("l2p", False),
    ],
)
def test_which_routings_answer_a_row_as_one_task(name: str, chooses: bool) -> None:
    method = build_method(name)
    assert method.routing is not None
    assert method.routing.chooses_task(method.adapter) == chooses
