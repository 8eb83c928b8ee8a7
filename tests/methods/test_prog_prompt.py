"""Progressive Prompts: earlier answers stay to the bit, the order of prompts matters, and so does the task."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.tiny import tiny_host, tiny_task
from nacre.adapters.prompt import PlacedPrompt, Prompt
from nacre.errors import DataError, RecipeError
from nacre.events import Event, TrainingPrepared
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.prog_prompt import prog_prompt
from nacre.models.named import HeadKind

OPTIM = Optim(batch_size=4, learning_rate=0.3, log_every=1, max_target_length=8)
HEADS: dict[str, HeadKind] = {"t5": "growing", "llama": "growing", "roberta": "per_task"}
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learner_of(method: Method, architecture: str, *, on_event=None) -> Learner:
    return Learner(tiny_host(architecture), method, seed=3, optim=OPTIM, on_event=on_event, head=HEADS[architecture])


def logits(learner: Learner, task: int = 0) -> Tensor:
    """Of the target tokens, with the tasks' own prompts."""
    found, labels = learner.predictions(learner.encode(TASKS[task].examples("test")))
    return found[labels != IGNORED]


def placed(learner: Learner) -> PlacedPrompt:
    assert isinstance(learner.adapter, PlacedPrompt)
    return learner.adapter


@pytest.mark.parametrize("bottleneck", [None, 5])
def test_earlier_answers_stay_to_the_bit(architecture: str, bottleneck: int | None) -> None:
    learner = learner_of(prog_prompt(prompt_length=2, bottleneck=bottleneck), architecture)
    learner.learn(TASKS[0])
    before = logits(learner)
    learner.learn(TASKS[1])
    learner.learn(TASKS[2])
    after = logits(learner)
    if architecture == "roberta":  # other tasks' classes came later: the head's one product is wider, and rounds anew
        assert torch.allclose(after[:, : before.shape[1]], before, rtol=0, atol=1e-6)
    else:
        assert torch.equal(after, before)


def test_the_first_task_is_prompt_tuning(architecture: str) -> None:
    plain = Method(title="Prompt tuning", sources=(), adapter=Prompt(tokens=2))
    one, other = learner_of(prog_prompt(prompt_length=2), architecture), learner_of(plain, architecture)
    for learner in (one, other):
        learner.learn(TASKS[0])
    assert torch.equal(placed(one).prompts.table(), placed(other).prompts.table())
    assert torch.equal(logits(one), logits(other))


def test_the_order_of_prompts_matters(architecture: str) -> None:
    learner = learner_of(prog_prompt(prompt_length=2), architecture)
    for task in TASKS:
        learner.learn(task)
    before, prompts = logits(learner, 2), placed(learner).prompts
    assert prompts.newest is not None
    newest, oldest = prompts.newest.detach().clone(), prompts.past[0].clone()
    prompts.newest.data, prompts.past[0] = oldest, newest
    assert not torch.allclose(logits(learner, 2), before, atol=1e-6)


def test_the_task_given_at_test_decides(architecture: str) -> None:
    learner = learner_of(prog_prompt(prompt_length=2), architecture)
    assert learner.method.traits["task identity at test"]
    for task in TASKS:
        learner.learn(task)
    right = logits(learner)
    number = dict(zip(("animals", "birds", "fish"), ("birds", "fish", "animals"), strict=True))
    rows = learner.encode([replace(e, task=number[e.task]) for e in TASKS[0].examples("test")])
    if learner.host.family.head is None:  # a head's classes are looked up by the task, too
        found, labels = learner.predictions(rows)
        assert not torch.allclose(found[labels != IGNORED], right, atol=1e-6)
    with pytest.raises(DataError, match="must be given the task"):
        learner.predict(["a dog"])


def test_the_bottleneck_is_trained_and_leaves_its_prompt(architecture: str) -> None:
    seen: list[Tensor] = []
    sizes: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            prompts = placed(learner).prompts
            assert prompts.residual is not None
            assert prompts.newest is not None
            inner, _, outer = prompts.residual
            rows = prompts.newest.double()
            weights = [p.detach().double() for p in (inner.weight, inner.bias, outer.weight, outer.bias)]
            by_hand = rows + F.relu(rows @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
            assert torch.allclose(prompts.table()[-1].double(), by_hand, atol=1e-6)
            seen.append(prompts.table()[-1].detach().clone())
            sizes.append(sum(group.size for group in learner.trainable() if group.name == "prompt"))

    learner = learner_of(prog_prompt(prompt_length=2, bottleneck=5), architecture, on_event=watch)
    learner.learn(TASKS[0])
    prompts = placed(learner).prompts
    d = prompts.past.shape[-1]
    assert sizes == [2 * d + 5 * d + 5 + 5 * d + d]
    assert prompts.residual is None
    assert prompts.newest is not None
    assert torch.equal(prompts.table()[-1], prompts.newest)
    assert not torch.equal(prompts.newest, seen[0])


def test_an_mlp_needs_a_prompt_for_each_task() -> None:
    with pytest.raises(RecipeError, match="bottleneck: 5 is no width"):
        Prompt(tokens=2, bottleneck=5)
    with pytest.raises(RecipeError, match="bottleneck: 0 is no width"):
        prog_prompt(bottleneck=0)
