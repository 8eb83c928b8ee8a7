"""EWC: whose Fisher it is, what is remembered, what the penalty is, and when it vanishes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import RecipeError
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.elastic_weights import ElasticWeights
from nacre.registry import build_method
from nacre.seeds import derive

OPTIM = Optim(batch_size=4, learning_rate=1e-3, log_every=1)
TASKS = [tiny_task(name, rows=6) for name in ("animals", "birds", "fish")]


def started(name: str, architecture: str, dtype: torch.dtype = torch.float64, **parameters: Any) -> Learner:
    """A learner in the middle of its first task, off its start."""
    learner = Learner(tiny_host(architecture, dtype), build_method(name, parameters), seed=7, optim=OPTIM)
    learner.adapter.grow()
    learner.adapter.fresh(0)
    perturb(learner.host.model)
    return learner


def learnt(name: str, tasks: int, architecture: str = "t5", optim: Optim = OPTIM, **parameters: Any) -> Learner:
    learner = Learner(tiny_host(architecture), build_method(name, parameters), seed=7, optim=optim)
    for task in TASKS[:tasks]:
        learner.learn(task)
    return learner


def tensors(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name]
        for name, value in left.items()
    )


def memory(learner: Learner) -> dict[str, Any]:
    """What is remembered, in one dict: fisher/NAME and anchor/NAME; with more tasks than one, 1/fisher/NAME ..."""
    state = learner.state.parts["elastic_weights"]
    prefix = (lambda number: f"{number}/") if is_separate(learner) else (lambda number: "")
    return {"examples": state.examples} | {
        f"{prefix(number)}{kind}/{name}": tensor
        for kind, stored in (("fisher", state.fisher), ("anchor", state.anchor))
        for number, by_name in enumerate(stored, start=1)
        for name, tensor in by_name.items()
    }


def is_separate(learner: Learner) -> bool:
    return any(isinstance(part, ElasticWeights) and part.mode == "separate" for part in learner.method.penalties)


def public(name: str) -> str:
    """Where a factor lies inside its site is no part of its name."""
    return name.replace(".slots.", ".")


def naive_fisher(learner: Learner, labels: str) -> dict[str, Tensor]:
    """One row after the other through the host as it is, no dropout, token by token, each gradient squared."""
    host = learner.host
    host.model.eval()
    named = {public(name): p for name, p in host.model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    generator = torch.Generator().manual_seed(derive(7, "elastic_weights", "labels", 1))
    rows = [host.family.encode(example, learner.lengths) for example in TASKS[0].examples("train")]
    for row in rows:
        source, target = torch.tensor([row.source]), list(row.target)
        if host.family.name == "encoder-decoder":
            behind = torch.tensor([[0, *target[:-1]]])  # T5 starts with its padding token
            logits = host.model(input_ids=source, decoder_input_ids=behind).logits[0]
        else:
            whole = torch.tensor([[*row.source, *target]])
            logits = host.model(input_ids=whole).logits[0, len(row.source) - 1 : -1]
        if labels == "sampled":
            shares = logits.detach().softmax(-1)
            target = torch.multinomial(shares, 1, generator=generator).flatten().tolist()
        host.model.zero_grad()
        sum(logits[place].log_softmax(-1)[token] for place, token in enumerate(target)).backward()
        for name, parameter in named.items():
            if parameter.grad is not None:
                total[name] += parameter.grad**2 / len(rows)
    host.model.zero_grad()
    return total


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("labels", ["gold", "sampled"])
@pytest.mark.parametrize("name", ["seq_lora+ewc", "ewc"])
def test_fisher_is_the_mean_of_squared_gradients_of_single_rows(name: str, architecture: str, labels: str) -> None:
    own = {"labels": labels, "strength": 1.0}
    learner = started(name, architecture, **({"ewc": own} if "+" in name else own))
    learner.host.model.train()  # as after the last step; dropout must not be in it
    learner.method.penalties[0].end(learner, TASKS[:1])
    found, expected = memory(learner), naive_fisher(learner, labels)
    named = {public(name): p for name, p in learner.host.model.named_parameters()}
    assert found["examples"] == [6]
    assert {name for name in found if name.startswith("fisher/")} == {f"fisher/{name}" for name in expected}
    assert sum(tensor.sum() for tensor in expected.values()) > 1e-6
    for parameter, tensor in expected.items():
        assert (found[f"fisher/{parameter}"] - tensor).norm() <= 1e-10 * max(1.0, tensor.norm())
        assert torch.equal(found[f"anchor/{parameter}"], named[parameter])
    assert all(parameter.grad is None for parameter in learner.host.model.parameters())


@pytest.mark.parametrize("name", ["l2p+ewc", "lfpt5+ewc"])
def test_fisher_of_prompts_is_the_mean_of_squared_gradients_too(name: str) -> None:
    settings = {"pool": 4, "prompt_length": 2, "select": 2} if name == "l2p+ewc" else {"prompt_length": 3, "draws": 2}
    learner = learnt(name, 1, **settings)
    [prompts] = learner.adapter.parameter_groups()[0].parameters
    prompts.requires_grad_(True)
    expected = torch.zeros_like(prompts)
    for row in learner.encode(TASKS[0].examples("train")):
        expected += torch.autograd.grad(learner.loss_sum([row]), prompts)[0] ** 2 / 6
    found = memory(learner)
    [fisher], [anchor] = ([found[key] for key in found if key.startswith(kind)] for kind in ("fisher/", "anchor/"))
    assert expected.sum() > 0
    torch.testing.assert_close(fisher, expected)
    assert torch.equal(anchor, prompts)


def test_fisher_does_not_depend_on_the_batch_size() -> None:
    found = []
    for size in (1, 4, 99):
        learner = started("seq_lora+ewc", "t5")
        learner.optim = Optim(batch_size=size, accumulation=min(size, 2))
        learner.method.penalties[0].end(learner, TASKS[:1])
        found.append(memory(learner))
    assert all(equal(found[0], other) for other in found[1:])


def test_fisher_of_a_sample_of_the_rows() -> None:
    """At most ``samples`` rows, the same ones for the same seed, without a row twice."""

    def rows(seed: int, samples: int) -> list[str]:
        learner = started("seq_lora+ewc", "t5", ewc={"samples": samples})
        learner.state.seed = seed
        encode, seen = learner.encode, []
        learner.encode = lambda examples: seen.extend(e.text for e in examples) or encode(examples)  # type: ignore
        learner.method.penalties[0].end(learner, TASKS[:1])
        assert memory(learner)["examples"] == [len(seen)]
        return seen

    texts = [row.text for row in TASKS[0].train]
    assert rows(0, 1024) == rows(1, 6) == texts
    chosen = {tuple(rows(seed, 4)) for seed in range(4)}
    assert len(chosen) > 1
    assert all(len(set(sample)) == 4 and set(sample) < set(texts) for sample in chosen)
    assert rows(2, 4) == rows(2, 4)


@pytest.mark.parametrize("mode", ["online", "separate"])
def test_the_penalty_is_that_of_what_is_remembered(mode: str) -> None:
    learner = Learner(tiny_host("t5", torch.float64), build_method("ewc", {"mode": mode}), optim=OPTIM)
    for task in TASKS[:2]:
        learner.learn(task)
    learner.adapter.grow()
    generator = torch.Generator().manual_seed(0)
    expected, slopes = 0.0, {}
    pairs = ["1/", "2/"] if mode == "separate" else [""]
    with torch.no_grad():
        for name, parameter in learner.host.model.named_parameters():
            parameter += torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            slopes[name] = torch.zeros_like(parameter)
            for pair in pairs:
                away = parameter - memory(learner)[f"{pair}anchor/{name}"]
                fisher = memory(learner)[f"{pair}fisher/{name}"]
                expected += sum(f / 2 * d**2 for f, d in zip(fisher.flatten().tolist(), away.flatten().tolist()))  # noqa: B905
                slopes[name] += fisher * away
    value = learner.method.penalties[0].value(learner)
    value.backward()
    assert math.isclose(value.item(), expected, rel_tol=1e-10)
    for name, parameter in learner.host.model.named_parameters():
        assert (parameter.grad - slopes[name]).norm() <= 1e-10 * max(1.0, slopes[name].norm())


def test_online_and_separate_remember_the_same_fishers() -> None:
    """With strength 0 both take the same path, so that F = decay F_1 + F_2 can be checked."""
    separate = memory(learnt("ewc", 2, strength=0.0, mode="separate"))
    for decay in (1.0, 0.25, 0.0):
        learner = learnt("ewc", 2, strength=0.0, decay=decay)
        online = memory(learner)
        assert online["examples"] == separate["examples"] == [6, 6]
        for name, parameter in tensors(learner).items():
            expected = decay * separate[f"1/fisher/{name}"] + separate[f"2/fisher/{name}"]
            assert torch.equal(online[f"fisher/{name}"], expected)
            assert torch.equal(online[f"anchor/{name}"], parameter)
            assert torch.equal(separate[f"2/anchor/{name}"], parameter)
        assert any(not torch.equal(separate[f"1/anchor/{name}"], p) for name, p in tensors(learner).items())


def test_a_normalized_fisher_has_mean_one_and_the_same_shape() -> None:
    plain, normal = memory(learnt("ewc", 1)), memory(learnt("ewc", 1, normalize=True))
    fishers = [name for name in plain if name.startswith("fisher/")]
    entries = torch.cat([normal[name].flatten() for name in fishers]).double()
    assert math.isclose(entries.mean().item(), 1.0, rel_tol=1e-5)
    mean = torch.cat([plain[name].flatten() for name in fishers]).double().mean()
    assert all(torch.allclose(normal[name].double() * mean, plain[name].double(), rtol=1e-5) for name in fishers)


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("mode", ["online", "separate"])
def test_strength_zero_is_sequential_fine_tuning_bit_for_bit(architecture: str, mode: str) -> None:
    found = tensors(learnt("ewc", 3, architecture, strength=0.0, mode=mode))
    assert equal(found, tensors(learnt("seq_ft", 3, architecture)))


def test_strength_zero_is_sequential_lora_bit_for_bit() -> None:
    found = tensors(learnt("seq_lora+ewc", 3, ewc={"strength": 0.0, "labels": "sampled"}))
    assert equal(found, tensors(learnt("seq_lora", 3)))


def test_the_first_task_is_free() -> None:
    assert equal(tensors(learnt("ewc", 1, strength=1e6)), tensors(learnt("seq_ft", 1)))
    free_start = tensors(learnt("ewc", 2, strength=(1e6, 0.0)))
    assert equal(free_start, tensors(learnt("seq_ft", 2)))


def test_the_modifier_is_the_method() -> None:
    settings = {"strength": 3.0, "mode": "separate", "samples": 4, "labels": "sampled", "normalize": True}
    own, added = learnt("ewc", 2, **settings), learnt("seq_ft+ewc", 2, ewc=settings)
    assert equal(tensors(own), tensors(added))
    assert equal(memory(own), memory(added))
    assert build_method("seq_ft+ewc", {"ewc": {"decay": 0.5}}).penalties == (ElasticWeights(400.0, decay=0.5),)


@pytest.mark.parametrize("mode", ["online", "separate"])
def test_what_earlier_tasks_depend_on_is_held(mode: str) -> None:
    """The distance in the Fisher's own measure shrinks; the task loss alone would let it grow."""

    def moved(strength: float) -> float:
        optim = Optim(batch_size=3, learning_rate=1e-3, epochs=4)
        learner = learnt("ewc", 1, optim=optim, strength=strength, mode=mode)
        before = tensors(learner)
        pair = "1/" if mode == "separate" else ""
        fisher = {name: memory(learner)[f"{pair}fisher/{name}"].clone() for name in before}
        learner.learn(TASKS[1])
        after = tensors(learner)
        return sum((fisher[name] * (after[name] - before[name]) ** 2).sum().item() for name in before)

    assert moved(400.0) < 0.5 * moved(0.0)


@pytest.mark.parametrize("name", ["ewc", "seq_lora+ewc"])
@pytest.mark.parametrize("mode", ["online", "separate"])
def test_saved_and_loaded_it_remembers_the_same_and_goes_on_the_same(name: str, mode: str, tmp_path: Path) -> None:
    settings = {"mode": mode, "labels": "sampled"}
    learner = learnt(name, 2, **(settings if name == "ewc" else {"ewc": settings}))
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"))
    assert equal(memory(loaded), memory(learner))
    for each in (loaded, learner):
        each.learn(TASKS[2])
    assert equal(tensors(loaded), tensors(learner))
    assert equal(memory(loaded), memory(learner))
    assert len(memory(learner)["examples"]) == 3


def test_replayed_rows_have_no_part_in_a_tasks_fisher() -> None:
    learner = learnt("ewc+replay", 2, replay={"per_task": 3})
    assert memory(learner)["examples"] == [6, 6]
    assert len(learner.state.parts["rehearsal"].kept) == 2


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("inc_lora+ewc", {}, "freezes each task's and opens new ones .* seq_ft and seq_lora train the same"),
        ("o_lora+ewc", {}, "freezes each task's"),
        ("am_lora+ewc", {}, "freezes each task's"),
        ("joint+ewc", {}, "nothing to hold in joint, where no task is learned on top of an earlier one"),
        ("independent+ewc", {}, "nothing to hold in independent"),
        ("ewc", {"samples": 0}, "samples: 0 is not a positive number"),
        ("ewc", {"decay": 1.5}, r"decay: 1.5 is not in \[0, 1\]"),
        ("ewc", {"mode": "separate", "decay": 0.5}, "decay: 0.5 has no meaning with mode 'separate'"),
        ("ewc", {"strength": -1.0}, "cannot be negative"),
        ("ewc", {"mode": "onlin"}, "ewc: mode = 'onlin'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(name: str, parameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        build_method(name, parameters)
