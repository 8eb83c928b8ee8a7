"""What every method must keep on every family: one table, no excuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nacre.errors import TrainingError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.registry import METHODS, build_method
from nacre.tasks.task import Task
from tiny import outputs, stir, tiny_host, tiny_task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish", "worms", "bees")]

# Orthogonal training needs room: in the tiny hosts' maps of eight rows, five tasks would find none.
ROOM: dict[str, object] = {"rank": 2, "roles": ["query", "output"]}

# Every method as it is, and every option that changes what is trained or kept.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in METHODS.names()},
    "lb_cl": ("lb_cl", ROOM),
    "am_lora-new": ("am_lora", {"selectors": "new"}),
    "am_lora-no-zero": ("am_lora", {"zero_lora": False}),
    "am_lora-learned-zero": ("am_lora", {"zero_lora": "learned", "activation": "tanh", "selector_rate": 2.0}),
    "am_lora-learned-zero-new": (
        "am_lora",
        {"zero_lora": "learned", "selectors": "new", "selector_input": "unscaled"},
    ),
    "am_lora-offset": ("am_lora", {"start_offset": 1.0, "offset_steps": 2, "selector_start": "mean_of_old"}),
    "am_lora-keep-gates": ("am_lora", {"keep_gates": 1}),
    "am_lora-proximal": (
        "am_lora",
        {"sparsity": 0.01, "sparsity_by": "proximal", "sparsity_reduce": "mean", "dropout_on": "new"},
    ),
    "am_lora-relu-zeros": (
        "am_lora",
        {
            "activation": "relu",
            "selector_start": "zeros",
            "cross_attention": False,
            "roles": ["query", "key", "value"],
        },
    ),
    "am_lora+orthogonality": ("am_lora+orthogonality", {"orthogonality": {"side": "output"}}),
    "o_lora-all": ("o_lora", {"norm": "squared", "side": "both", "reduce": "mean", "shrinkage": 0.1}),
    "ewc-separate": ("ewc", {"mode": "separate", "labels": "sampled", "normalize": True}),
    "seq_lora+ewc+replay": ("seq_lora+ewc+replay", {"replay": {"per_task": 3}}),
    "inc_lora+replay": ("inc_lora+replay", {"replay": {"fraction": 0.5}}),
    "am_lora+sensitivity_init": ("am_lora+sensitivity_init", {}),
    "am_lora+migu": ("am_lora+migu", {}),
    "lb_cl-update": (
        "lb_cl",
        {**ROOM, "on": "update", "sigma": "zero", "match": "sigma_sorted", "align": "align"},
    ),
    "lb_cl-literal": ("lb_cl", {**ROOM, "space": "sum", "estimate": "sample", "top_layers": 1}),
    "l_cl": ("lb_cl", {"variant": "l_cl", **ROOM, "sigma": "ones", "orthonormalize": "qr"}),
    "b_cl": ("lb_cl", {"variant": "b_cl", **ROOM, "space": "vectors"}),
    "nlnb_cl": ("lb_cl", {"variant": "nlnb_cl", "orthonormality_form": "paper"}),
    "inc_lora+orthogonal_gradient": (
        "inc_lora+orthogonal_gradient",
        {**ROOM, "orthogonal_gradient": {"on": "both"}},
    ),
    "inc_lora+copy_init": ("inc_lora+copy_init", {"copy_init": {"layers": 1}}),
    "seq_ft+migu": ("seq_ft+migu", {}),
    "seq_ft+migu-update": ("seq_ft+migu", {"migu": {"mask": "update", "first_task": True}}),
    "seq_ft+migu-clusters": ("seq_ft+migu", {"migu": {"clusters": 4}}),
    "seq_lora+migu": ("seq_lora+migu", {}),
    "inc_lora+migu-update": ("inc_lora+migu", {"migu": {"mask": "update", "first_task": True}}),
    "inc_lora+migu-clusters": ("inc_lora+migu", {"migu": {"clusters": 4, "cluster_by": "magnitude"}}),
    "inc_lora+migu-random": ("inc_lora+migu", {"migu": {"by": "random", "first_task": True}}),
    "joint-lora": ("joint", {"train": "lora"}),
    "independent-lora": ("independent", {"train": "lora"}),
    "inc_lora-all-roles": (
        "inc_lora",
        {"roles": ["query", "key", "value", "output", "ffn_in", "ffn_gate", "ffn_out"], "rank": 2},
    ),
}


@pytest.fixture(params=VARIANTS)
def method(request: pytest.FixtureRequest) -> Method:
    name, parameters = VARIANTS[request.param]
    return build_method(name, parameters)


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stages(method: Method, count: int = 3) -> list[tuple[Task, ...]]:
    found = [stage.tasks for stage in method.curriculum.stages(TASKS[:count])]
    return found if method.curriculum.continues else found[:1]


def logits(learner: Learner) -> Tensor:
    family = learner.host.family
    rows = [family.encode(example, learner.lengths) for example in TASKS[0].examples("test")]
    return outputs(learner.host, family.batch(rows) if family.writes else family.prompts(rows))


def state_of(learner: Learner) -> dict[str, Tensor]:
    head = {f"head.{name}": tensor.clone() for name, tensor in learner.host.family.tensors().items()}
    return head | {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def same_state(one: Learner, other: Learner) -> bool:
    """Whether two learners remember the same, tensors of the parts to the bit."""

    def same(left: object, right: object) -> bool:
        if isinstance(left, Tensor) and isinstance(right, Tensor):
            return left.dtype == right.dtype and torch.equal(left, right)
        return left == right

    flat, other_flat = (
        {(key, name): value for key, part in learner.state.parts.items() for name, value in part.items()}
        for learner in (one, other)
    )
    return (
        (one.state.seed, one.state.tasks) == (other.state.seed, other.state.tasks)
        and flat.keys() == other_flat.keys()
        and all(same(value, other_flat[place]) for place, value in flat.items())
    )


def test_placing_changes_nothing_and_removing_restores_every_bit(method: Method, architecture: str) -> None:
    host = tiny_host(architecture)
    names, pristine = list(host.model.state_dict()), {k: v.clone() for k, v in host.model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in host.model.named_parameters()}
    learner = Learner(host, method, optim=OPTIM)
    bare = tiny_host(architecture)
    assert torch.equal(logits(learner), logits(Learner(bare, build_method("seq_ft"), optim=OPTIM)))
    for tasks in stages(method):
        learner.learn(*tasks)
    learner.remove()
    assert list(host.model.state_dict()) == names
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in host.model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in host.model.named_parameters()} == flags


def test_everything_trainable_is_in_the_optimizer_gets_a_gradient_and_moves(method: Method, architecture: str) -> None:
    learner = Learner(tiny_host(architecture), method, optim=OPTIM)
    for number, tasks in enumerate(stages(method)):
        moved: dict[int, bool] = {}
        before: list[Tensor] = []

        def watch(kind: str, moved: dict[int, bool] = moved, before: list[Tensor] = before, **_: object) -> None:
            owned = [p for group in learner.trainable() for p in group.parameters]
            if kind == "trainable":
                stir(learner.host.model)  # off the start, where A gets no gradient because B is zero
                before.extend(p.detach().clone() for p in owned)
            if kind == "step":
                for place, parameter in enumerate(owned):
                    assert parameter.grad is not None
                    moved[place] = moved.get(place, False) or bool(parameter.grad.abs().sum() > 0)

        learner.report = watch
        learner.learn(*tasks)
        owned = [p for group in learner.trainable() for p in group.parameters]
        assert all(moved.values()), f"stage {number}"
        assert all(not torch.equal(p, old) for p, old in zip(owned, before, strict=True))
        assert {id(p) for p in learner.host.model.parameters()} >= {id(p) for p in owned}
        assert not any(p.requires_grad for p in learner.host.model.parameters()), "nothing is trainable between tasks"


def test_only_what_the_adapter_owns_is_trainable_while_learning(method: Method, architecture: str) -> None:
    learner = Learner(tiny_host(architecture), method, optim=OPTIM)

    def watch(kind: str, **_: object) -> None:
        if kind == "step":
            owned = {id(p) for group in learner.trainable() for p in group.parameters}
            assert {id(p) for p in learner.host.model.parameters() if p.requires_grad} == owned

    learner.report = watch
    learner.learn(*stages(method)[0])


def test_the_past_is_frozen_bit_for_bit(method: Method, architecture: str) -> None:
    if not (method.adapter.grows and method.curriculum.continues):
        pytest.skip("the method trains on what earlier tasks use")
    learner = Learner(tiny_host(architecture), method, optim=OPTIM)
    learnt: list[dict[str, Tensor]] = []
    for (task,) in stages(method, 5):
        learner.learn(task)
        now = state_of(learner)
        learnt.append(now)
        for number, earlier in enumerate(learnt[:-1]):
            for name, tensor in earlier.items():
                if ".past_" in name:
                    assert torch.equal(now[name][: len(tensor)], tensor)
                site = name.removesuffix(".down.weight").removesuffix(".up.weight")
                if name.endswith("down.weight"):
                    assert torch.equal(now[f"{site}.past_down"][number], tensor)
                if name.endswith("up.weight"):
                    assert torch.equal(now[f"{site}.past_up"][number], tensor.T)
                if name.endswith("selector") and method.parameters["selectors"] == "new":
                    assert torch.equal(now[name][: len(tensor)], tensor)
    pristine = tiny_host(architecture).body.state_dict()
    current = learner.host.body.state_dict()
    assert all(
        torch.equal(current[name.replace(".base", "")], value) for name, value in pristine.items() if name in current
    )


def test_saved_and_loaded_gives_equal_logits_and_the_same_future(
    method: Method, architecture: str, tmp_path: Path
) -> None:
    learner = Learner(tiny_host(architecture), method, seed=3, optim=OPTIM)
    portions = stages(method, 3)
    for tasks in portions[:2]:
        learner.learn(*tasks)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture))
    assert loaded.method == method
    assert same_state(loaded, learner)
    assert state_of(loaded).keys() == state_of(learner).keys()
    assert all(torch.equal(tensor, state_of(learner)[name]) for name, tensor in state_of(loaded).items())
    assert torch.equal(logits(loaded), logits(learner))
    assert loaded.answer(TASKS[:2]) == learner.answer(TASKS[:2])
    for tasks in portions[2:]:
        learner.learn(*tasks)
        loaded.learn(*tasks)
        assert same_state(loaded, learner)
        assert all(torch.equal(tensor, state_of(learner)[name]) for name, tensor in state_of(loaded).items())


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_random_state(
    method: Method, architecture: str
) -> None:
    def learnt(seed: int) -> dict[str, Tensor]:
        learner = Learner(tiny_host(architecture), method, seed=seed, optim=OPTIM)
        learner.learn(*stages(method)[0])
        return state_of(learner)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = learnt(1)
    assert torch.equal(torch.rand(3), expected)
    again, other = learnt(1), learnt(2)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items() if not name.startswith("head."))


def test_learning_learns(method: Method, architecture: str) -> None:
    """The loss of the last steps is below that of the first: a method that trains nothing would not pass."""
    losses: list[float] = []

    def watch(kind: str, **values: float) -> None:
        if kind == "step":
            losses.append(values["loss"])

    # An encoder has to gather the answer in its first token, which takes more and smaller steps.
    rate, epochs = (1e-2, 30) if architecture == "roberta" else (3e-2, 10)
    optim = Optim(batch_size=6, learning_rate=rate, log_every=1, epochs=epochs)
    learner = Learner(tiny_host(architecture), method, optim=optim, report=watch)
    learner.learn(*stages(method)[0])
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


def test_curricula_that_start_afresh_refuse_a_second_portion(method: Method) -> None:
    learner = Learner(tiny_host("t5"), method, optim=OPTIM)
    if method.curriculum.continues:
        with pytest.raises(TrainingError, match="one task at a time"):
            learner.learn(TASKS[0], TASKS[1])
        return
    learner.learn(*stages(method)[0])
    with pytest.raises(TrainingError, match="make a new Learner"):
        learner.learn(TASKS[1])


def test_predictions_to_finished_prompts_are_the_answers_to_their_examples(architecture: str) -> None:
    optim = Optim(batch_size=4, learning_rate=3e-2, epochs=4, max_target_length=5)
    learner = Learner(tiny_host(architecture), build_method("inc_lora"), optim=optim)
    learner.learn(TASKS[0])
    prompts = [example.input for example in TASKS[0].examples("test")]
    predicted = learner.predict(prompts)
    assert any(predicted)
    # Free text may run longer than a label may: an answer is where it begins.
    assert all(full.startswith(short) for full, short in zip(predicted, learner.answer(TASKS[:1])[0], strict=True))
