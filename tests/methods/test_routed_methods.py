"""What every routed method must keep: an answer is its row's alone, the bare host is asked once a row, tasks are known
where the sheet says, and one task is its adapter alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.contract import state_of
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.latent import Latent
from nacre.adapters.low_rank import LowRank
from nacre.adapters.prompt import PlacedPrompt, Prompt
from nacre.evaluation.decoding import Decoding
from nacre.events import Event, TrainingPrepared
from nacre.learning import router
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.models.families import Encoded
from nacre.registry import build_method
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=3e-2, log_every=1, max_target_length=8, max_grad_norm=None)
TASKS = [
    tiny_task("animals"),
    tiny_task("birds", labels=("red", "green")),
    tiny_task("fish", labels=("maybe", "no", "blue")),
]

ROUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "epi": ("epi", {}),
    "epi-prompt": ("epi", {"slot": "prompt", "prompt_length": 3}),
    "any_ssr": ("any_ssr", {"blocks": 1, "dimension": 32}),
    "gain_lora": ("gain_lora", {"energy": 0.6, "gate_width": 12, "alpha": 128.0}),
    "latent_lora": ("latent_lora", {"rank": 4, "alpha": 64.0, "epsilon": 0.1, "scale": "relative"}),
    "sapt_lora": ("sapt_lora", {"inputs": "real", "fraction": 0.3}),
    "mocl": ("mocl", {}),
    "mocl-predicted": ("mocl", {"composes": "predicted", "query_pooling": "last"}),
    "mocl-prompt": ("mocl", {"slot": "prompt", "prompt_length": 3, "composes": "all"}),
}

ASKING = {**ROUTED, "l2p": ("l2p", {"pool": 5, "prompt_length": 2, "select": 2})}
"""Whoever asks the bare host; L2P has no slots of tasks, and tests of its own hold the rest of it."""


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=ROUTED)
def method(request: pytest.FixtureRequest) -> Method:
    return build_method(*ASKING[request.param])


def learned(
    method: Method,
    architecture: str,
    tasks: Sequence[Task] = TASKS,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Learner:
    """With everything moved off its start, so that the slots differ."""
    learner = Learner(tiny_host(architecture, dtype), method, seed=5, optim=OPTIM, **settings)
    for number, task in enumerate(tasks):
        learner.on_event = _perturbing(learner, number)
        learner.learn(task)
    return learner


def _perturbing(learner: Learner, number: int) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=number)
            generator = torch.Generator().manual_seed(number)
            moved = [learner.adapter] if isinstance(learner.adapter, PlacedPrompt) else []
            if number and learner.method.name == "sapt_lora":  # else a tiny host's words look alike to the attention
                moved += [learner.adapter, learner.owners["routing"]]
            for owner in moved:
                for group in owner.parameter_groups():
                    for tensor in group.parameters:
                        with torch.no_grad():
                            tensor.add_(torch.randn(tensor.shape, generator=generator))

    return watch


def routes_of(learner: Learner, rows: Sequence[Encoded]) -> Tensor:
    """The weights [B, t] that the rows get at test, read as one batch."""
    seen: list[Tensor] = []
    choose = router.LearnerRouter.route

    def watching(self: router.LearnerRouter, batch: Any) -> Any:
        context = choose(self, batch)

        class Watched:
            def __enter__(self) -> None:
                context.__enter__()
                assert learner.router is not None
                assert learner.router.newest is not None
                weights = learner.router.newest.as_weights(learner.adapter.tasks)
                assert weights is not None
                seen.append(weights.detach())

            def __exit__(self, *error: Any) -> Any:
                return context.__exit__(*error)

        return Watched()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router.LearnerRouter, "route", watching)
        learner.host.write(rows, 1)
    return torch.cat(seen)


def test_a_row_is_routed_and_answered_as_if_it_were_alone(method: Method, architecture: str) -> None:
    """Whatever its batch, its place in it and its padding."""
    learner = learned(method, architecture)
    rows = [row for task in TASKS for row in learner.encode(task.examples("test"))]
    together, written = routes_of(learner, rows), learner.host.write(rows, 4)
    backwards = learner.host.write(rows[::-1], 4)[::-1]
    alone = torch.cat([routes_of(learner, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(routes_of(learner, rows[::-1]).flip(0), together, rtol=1e-4, atol=1e-5)
    assert len({len(row.source) for row in rows}) > 1
    assert written == backwards == [learner.host.write([row], 4)[0] for row in rows]
    assert (together - together[0]).abs().max() > 1e-3
    # A tiny host of random weights writes the same whatever the prompt.
    assert isinstance(learner.adapter, PlacedPrompt) or len(set(written)) > 1


def test_batches_of_one_and_of_many_are_answered_alike(method: Method, architecture: str) -> None:
    found = [
        learned(method, architecture, decoding=Decoding(batch_size=size, split_padding=split)).answer(TASKS)
        for size, split in ((1, None), (8, None), (8, 1))
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("method", ASKING, indirect=True)
def test_the_bare_host_reads_each_row_once_and_not_while_decoding(
    method: Method, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted at the stack that reads: once bare for the query, and as often as without a routing otherwise."""
    learner = learned(method, architecture)
    asked: list[int] = []
    pooled = router.pooled_states

    def counting(host: Any, inputs: Any, states: Any) -> Tensor:
        found = pooled(host, inputs, states)
        asked.append(len(found))
        return found

    monkeypatch.setattr(router, "pooled_states", counting)
    rows = learner.encode(TASKS[1].examples("test"))
    bare: list[bool] = []
    host = learner.host
    reader: Any = host.body.get_encoder() if host.family.name == "encoder-decoder" else host.body.base_model
    hook = reader.register_forward_pre_hook(lambda *_: bare.append(_is_bare(learner)))
    host.write(rows, 5)
    assert asked == [len(rows)]
    assert sum(bare) <= 1
    if host.family.name != "decoder-only":
        assert bare.count(False) == 1
    else:
        assert 1 <= bare.count(False) <= 5  # the prompt and, from the cache, every further token
    asked.clear()
    label_set = host.family.label_set(TASKS[1].examples("test")[0], ["red", "green"], learner.lengths)
    host.classify(rows, label_set)
    assert sum(asked) == len(rows)
    hook.remove()


def _is_bare(learner: Learner) -> bool:
    if isinstance(learner.adapter, PlacedPrompt):
        return learner.adapter.prompts.is_bypassed
    return all(site.is_bypassed for site in learner.adapter.sites.values())  # type: ignore[attr-defined]


def test_a_shuffled_task_identity_changes_answers_exactly_where_the_sheet_says(
    method: Method, architecture: str
) -> None:
    learner = learned(method, architecture)
    family = learner.host.family
    rows = learner.encode([example for task in TASKS for example in task.examples("test")])
    names = [task.name for task in TASKS]
    true = routes_of(learner, rows)
    shuffled = [_of(row, names[(names.index(row.task) + 1) % 3]) for row in rows]
    changed = not torch.equal(routes_of(learner, shuffled), true)
    assert changed == learner.traits["task identity at test"]
    if not changed:
        assert learner.host.write(shuffled, 4) == learner.host.write(rows, 4)
        assert torch.equal(routes_of(learner, [_of(row, "") for row in rows]), true)
    assert family.router is not None


def _of(row: Encoded, task: str) -> Encoded:
    return Encoded(row.source, row.target, row.truncated, task=task)


def test_one_task_is_the_adapter_alone(method: Method, architecture: str) -> None:
    """In float64, to rounding: the routed path adds the same numbers in another order."""
    adapter = method.adapter
    if method.name == "gain_lora":
        pytest.skip("its adapter times its gate, see test_gain_lora")
    if isinstance(adapter, Prompt):
        plain = Method(title="Prompt tuning", sources=(), adapter=Prompt(tokens=adapter.tokens))
    elif isinstance(adapter, Latent):
        plain = Method("LoRA-XS", (), adapter)
    else:
        above = adapter.above if isinstance(adapter, LowRank) else 0
        plain = Method("LoRA", (), LowRank(dropout=0.0, slots="shared", above=above))
        method = build_method(method.name, {**method.parameters, "dropout": 0.0})
    ours, theirs = (learned(each, architecture, TASKS[:1], torch.float64) for each in (method, plain))
    one, other = state_of(ours), state_of(theirs)
    for name, tensor in other.items():
        torch.testing.assert_close(one[name].view_as(tensor), tensor, rtol=1e-8, atol=1e-8)
    assert ours.answer(TASKS[:1]) == theirs.answer(TASKS[:1])


def test_earlier_slots_do_not_move(method: Method, architecture: str) -> None:
    learner = learned(method, architecture, TASKS[:1])
    before = state_of(learner)
    for number, task in enumerate(TASKS[1:], start=1):
        learner.on_event = _perturbing(learner, number)
        learner.learn(task)
    after = state_of(learner)
    for name, tensor in before.items():
        if name.endswith("down.weight"):
            assert torch.equal(after[f"{name.removesuffix('.down.weight')}.past_down"][0], tensor)
        elif name.endswith("up.weight"):
            assert torch.equal(after[f"{name.removesuffix('.up.weight')}.past_up"][0], tensor.T)
        elif name.endswith((".prompts", ".keys")):
            assert torch.equal(after[name][: len(tensor)], tensor)
