"""DEMIX: which earlier adapter a domain begins with, and whose adapter answers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.texts import text_host, text_task
from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.bottleneck import PlacedBottleneck
from nacre.adapters.route import Route
from nacre.errors import DataError, ModelError, RecipeError
from nacre.events import Event, TrainingPrepared
from nacre.functional.losses import token_loss_sum
from nacre.functional.mixture import mixed_by_posterior
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.methods.seq_lora import seq_lora
from nacre.parts.expert_mixture import ExpertMixture
from nacre.parts.given_task import GivenTask
from nacre.parts.nearest_expert import ExpertsTried, NearestExpert
from nacre.registry import build_method
from nacre.tasks.task import Task

TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8, max_source_length=16)
HALF = {"reduction": 2}


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(architecture: str, tasks: list[Task], texts: bool = False, epochs: int = 1, **settings: object) -> Learner:
    host = text_host(architecture) if texts else tiny_host(architecture)
    optim = OPTIM.model_copy(update={"epochs": epochs})
    learner = Learner(host, build_method("demix", {**HALF, **settings}), seed=5, optim=optim)
    for task in tasks:
        learner.learn(task)
    return learner


def tried(learner: Learner) -> ExpertsTried:
    found = learner.state.parts["nearest_expert"]
    assert isinstance(found, ExpertsTried)
    return found


def slots_of(learner: Learner) -> list[dict[str, Tensor]]:
    """Every task's adapter at every site."""
    assert isinstance(learner.adapter, PlacedBottleneck)
    slots: list[dict[str, Tensor]] = [{} for _ in range(learner.adapter.tasks)]
    for name, site in learner.adapter.sites.items():
        own = site.slots
        newest = (own.down.weight, own.down.bias, own.up.weight.T, own.up.bias)
        past = (own.past_down, own.past_down_bias, own.past_up, own.past_up_bias)
        for kind, (stack, last) in enumerate(zip(past, newest, strict=True)):
            for number, tensor in enumerate([*stack, last]):
                slots[number][f"{name} {kind}"] = tensor.detach().clone()
    return slots


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# The choice


@pytest.mark.parametrize(
    ("architecture", "texts"), [("t5", False), ("llama", False), ("llama", True), ("roberta", True)]
)
def test_the_start_is_the_adapter_with_the_least_perplexity(architecture: str, texts: bool) -> None:
    """Against brute force: row by row, each adapter alone in the place of a shared one, in a learner of its own."""
    tasks = [text_task(name) for name in ("farm", "fields", "hills")] if texts else TASKS
    learner = learned(architecture, tasks[:2], texts, epochs=4)
    candidates = slots_of(learner)
    begun: list[dict[str, Tensor]] = []

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            begun.append(slots_of(learner)[-1])

    head = {name: tensor.clone() for name, tensor in learner.host.family.head.tensors().items()} if (
        learner.host.family.head) else {}  # fmt: skip
    learner.on_event = watch
    learner.learn(tasks[2])

    host = text_host(architecture) if texts else tiny_host(architecture)
    alone = Learner(host, build_method("adapter", HALF), seed=5, optim=OPTIM)
    alone.adapter.grow()
    assert isinstance(alone.adapter, PlacedBottleneck)
    if head:
        alone.host.family.head.load(head, learner.host.family.head.values())  # type: ignore[union-attr]
    rows = [
        row.with_fresh_masks(5, "nearest_expert", 3, number)
        for number, row in enumerate(alone.encode(tasks[2].examples("train")))
    ]
    losses = []
    for candidate in candidates:
        for name, site in alone.adapter.sites.items():
            own = site.slots
            places = (own.down.weight.data, own.down.bias.data, own.up.weight.data.T, own.up.bias.data)
            for kind, place in enumerate(places):
                place.copy_(candidate[f"{name} {kind}"])
        with torch.no_grad():
            total = sum(
                float(token_loss_sum(*alone.host.family.predictions(alone.host.model, alone.host.family.batch([row]))))
                for row in rows
            )
        losses.append(total / sum(row.num_target_tokens for row in rows))
    found = tried(learner)
    assert found.losses[-1] == pytest.approx(losses, rel=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-4
    assert found.chosen[-1] == losses.index(min(losses))
    assert same(begun[0], candidates[found.chosen[-1]]), "a copy, bit for bit"
    assert all(same(slot, before) for slot, before in zip(slots_of(learner), candidates, strict=False))


def test_a_domain_that_is_another_again_begins_with_that_ones_adapter() -> None:
    for first, second in (("farm", "fields"), ("fields", "farm")):
        learner = learned("llama", [text_task(first), text_task(second)], True, epochs=20)
        again = text_task("farm")
        learner.learn(Task(f"again-{again.name}", *(again.rows(split) for split in ("train", "validation", "test")),
                           again.template, metric=again.metric, kind="text"))  # fmt: skip
        assert tried(learner).chosen == [0, 0 if first == "farm" else 1]


def test_the_choice_reads_the_first_rows_only() -> None:
    task = TASKS[2]
    few = learned("llama", TASKS[:2], sample=4)
    few.learn(task)
    cut = Task(task.name, task.train[:4], task.validation, task.test, task.template, task.labels)
    all_of_few = learned("llama", TASKS[:2])
    all_of_few.learn(cut)
    assert tried(few).losses[-1] == tried(all_of_few).losses[-1]
    assert tried(few).losses[-1] != tried(learned("llama", TASKS)).losses[-1]


# One domain, and whose adapter answers


def test_one_domain_is_a_plain_adapter_bit_for_bit(architecture: str) -> None:
    one = learned(architecture, TASKS[:1])
    plain = Learner(tiny_host(architecture), build_method("adapter", HALF), seed=5, optim=OPTIM)
    plain.learn(TASKS[0])
    assert same(slots_of(one)[0], slots_of(plain)[0])
    assert one.answer(TASKS[:1]) == plain.answer(TASKS[:1])


def read(learner: Learner, names: list[str]) -> Tensor:
    """The last states of one row under tasks' names, read together: generative hosts' logits, else the encoder's."""
    family = learner.host.family
    row = family.encode(TASKS[0].examples("test")[0], learner.lengths)
    batch = family.batch([row] * len(names))
    named = type(batch)(batch.tensors, tuple(names))
    with torch.no_grad():
        if family.is_generative:
            return family.predictions(learner.host.model, named)[0]
        with family.routed(named):
            inputs = {name: named[name] for name in ("input_ids", "attention_mask")}
            states: Tensor = learner.host.body(**inputs).last_hidden_state
            return states


def test_the_task_decides_which_adapter_answers(architecture: str) -> None:
    """As just learned, whatever was learned since and whatever stands beside it; other names answer otherwise."""
    learner = learned(architecture, [], start="near_identity")
    just_learned = {}
    for task in TASKS:
        learner.learn(task)
        just_learned[task.name] = read(learner, [task.name])[0]
    together = read(learner, ["birds", "fish", "animals", "never learned"])
    for place, name in enumerate(("birds", "fish", "animals", "fish")):
        assert torch.allclose(together[place], just_learned[name], atol=1e-5)
        assert torch.allclose(read(learner, [name])[0], just_learned[name], atol=1e-5)
    assert not torch.allclose(just_learned["animals"], just_learned["birds"], atol=1e-3)
    assert learner.traits["task identity at test"]
    assert learner.traits["grows with tasks"]
    with pytest.raises(DataError, match="given_task must be given the task of every input at test"):
        learner.predict("the big dog")


def test_earlier_tasks_keep_their_answers_whoever_asks(architecture: str) -> None:
    learner = learned(architecture, TASKS[:2])
    shuffled = Task("birds", *(TASKS[0].rows(split) for split in ("train", "validation", "test")), TASKS[0].template,
                    TASKS[0].labels)  # fmt: skip
    before = learner.answer([TASKS[0], shuffled])
    with learner.under(Route(torch.tensor([[1.0, 0.0]]))):
        pass
    learner.learn(TASKS[2])
    assert learner.answer([TASKS[0], shuffled]) == before or architecture == "roberta", "its head goes on being trained"


# Mixed by their posterior


def test_the_mixture_is_the_equation_token_by_token() -> None:
    """Naive, in float64; over a whole row it is the mean of the experts' likelihoods. Other tokens are skipped."""
    generator = torch.Generator().manual_seed(0)
    each = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64).log_softmax(-1)
    tokens = torch.randint(7, (2, 5), generator=generator)
    counted = torch.tensor([[True] * 5, [False, True, True, False, True]])
    found = mixed_by_posterior(each, tokens, counted)
    for row in range(2):
        likelihood = [1.0, 1.0, 1.0]
        total = 0.0
        for place in range(5):
            posterior = [value / sum(likelihood) for value in likelihood]
            for word in range(7):
                mixed = sum(posterior[k] * math.exp(float(each[row, k, place, word])) for k in range(3))
                assert float(found[row, place, word]) == pytest.approx(math.log(mixed), abs=1e-12)
            if counted[row, place]:
                token = int(tokens[row, place])
                total += float(found[row, place, token])
                likelihood = [value * math.exp(float(each[row, k, place, token])) for k, value in enumerate(likelihood)]
        assert total == pytest.approx(math.log(sum(likelihood) / 3), abs=1e-12)
    same_experts = each[:, :1].repeat(1, 3, 1, 1)
    assert (mixed_by_posterior(same_experts, tokens, counted) - each[:, 0]).abs().max() <= 1e-12


def test_texts_are_scored_by_the_mixture_whatever_task_they_are_of() -> None:
    """Against each expert alone, row by row: a row's likelihood is the mean of theirs."""
    tasks = [text_task(name) for name in ("farm", "fields", "hills")]
    mixture = learned("llama", tasks, True, epochs=4, answer_by="mixture")
    given = learned("llama", tasks, True, epochs=4)
    assert same(slots_of(mixture)[1], slots_of(given)[1]), "training is the same"
    likelihoods = []
    for row in given.encode(tasks[0].examples("test")):
        each = []
        for task in tasks:
            with given.as_task(task.name), torch.no_grad():
                each.append(-float(given.loss_sum([row])))
        likelihoods.append(float(torch.tensor(each, dtype=torch.float64).logsumexp(0)) - math.log(3))
    tokens = sum(mixture.measure_text(tasks[0]).tokens)
    assert mixture.measure_text(tasks[0]).perplexity == pytest.approx(math.exp(-sum(likelihoods) / tokens), rel=1e-4)
    renamed = replace(tasks[0], name="nobody's")
    assert mixture.measure_text(renamed) == mixture.measure_text(tasks[0])
    assert given.measure_text(renamed) != given.measure_text(tasks[0])
    assert not mixture.traits["task identity at test"]
    assert mixture.measure_text(tasks[0]).perplexity < given.measure_text(renamed).perplexity


def test_one_expert_alone_is_no_mixture() -> None:
    task = text_task("farm")
    one, plain = (learned("llama", [task], True, answer_by=answer_by) for answer_by in ("mixture", "task"))
    assert one.measure_text(task) == plain.measure_text(task)


def test_the_mixture_needs_texts_read_from_left_to_right() -> None:
    method = build_method("demix", {"answer_by": "mixture"})
    with pytest.raises(DataError, match="Task 'animals' is a task with answers, and demix learns none"):
        Learner(tiny_host("llama"), method, optim=OPTIM).learn(TASKS[0])
    with pytest.raises(ModelError, match="'tiny-roberta' is encoder-only: take answer_by=task"):
        Learner(text_host(), method, optim=OPTIM).learn(text_task())
    learner = learned("llama", [text_task("farm")], True, answer_by="mixture")
    with pytest.raises(DataError, match="score unlabeled text, and choose among no labels"):
        learner.answer([TASKS[0]])
    with pytest.raises(RecipeError, match="it mixes slots, one for each task; demix has them"):
        seq_lora().with_readout(ExpertMixture())


# Limits


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="it chooses among the bottleneck adapters of earlier tasks"):
        seq_lora().with_start(NearestExpert())
    with pytest.raises(RecipeError, match="it chooses among what each task has of its own, and all share one set"):
        seq_lora().with_routing(GivenTask())
    with pytest.raises(RecipeError, match="sample: 0 is not a positive number of training rows"):
        build_method("demix", {"sample": 0})
