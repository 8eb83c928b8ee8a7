"""AM-LoRA's options, each on a learner: what it changes, and that it changes nothing where it should not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.gated import Gated, GatedSite, PlacedGated
from nacre.errors import NacreError, RecipeError
from nacre.events import StepTaken
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.am_lora import am_lora
from nacre.methods.inc_lora import inc_lora
from nacre.models.owner import ParameterGroup
from nacre.models.roles import find_linears
from nacre.parts.part import Step
from nacre.parts.penalty import GroupL1
from nacre.parts.soft_threshold import SoftThreshold
from nacre.parts.start_offset import StartOffset
from nacre.registry import build_method
from nacre.runs.recipe import read_recipe
from nacre.tasks.published.streams import get_stream

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)
ONE_STEP = Optim(batch_size=12, learning_rate=1e-2, log_every=1)

Options = dict[str, object]


def learner_of(method: Method, architecture: str = "t5", optim: Optim = OPTIM, seed: int = 7) -> Learner:
    return Learner(tiny_host(architecture), method, seed=seed, optim=optim)


def learnt(options: Options, tasks: int = 2, architecture: str = "t5", optim: Optim = OPTIM) -> dict[str, Tensor]:
    learner = learner_of(build_method("am_lora", options), architecture, optim)
    for number in range(tasks):
        learner.learn(tiny_task(f"task {number}"))
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def selectors_of(tensors: dict[str, Tensor]) -> Tensor:
    return torch.stack([tensor for name, tensor in tensors.items() if name.endswith("selector")])


def logits(learner: Learner) -> Tensor:
    rows = learner.encode(tiny_task("task 0").examples("test"))
    batch = learner.host.family.batch(rows)
    with torch.no_grad():
        return learner.host.family.predictions(learner.host.model, batch)[0]


# Where an option cannot matter, nothing but its own name changes.


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize(
    ("neutral", "base"),
    [
        ({"selector_rate": 1.0}, {}),
        ({"start_offset": 0.0, "offset_steps": 3}, {}),
        ({"start_offset": [0.0, 0.0]}, {}),
        ({"keep_gates": 2}, {}),
        ({"selector_input": "unscaled", "alpha": 4.0, "rank": 4}, {"alpha": 4.0, "rank": 4}),
        ({"dropout_on": "new", "dropout": 0.0}, {"dropout": 0.0}),
        ({"sparsity_by": "proximal", "sparsity": 0.0}, {"sparsity": 0.0}),
        ({"sparsity_reduce": "mean", "sparsity": 0.0}, {"sparsity": 0.0}),
        ({"sparsity": [0.1, 0.1]}, {"sparsity": 0.1}),
    ],
    ids=str,
)
def test_neutral_settings_equal_the_default_bit_for_bit(architecture: str, neutral: Options, base: Options) -> None:
    expected, found = learnt(base, architecture=architecture), learnt(neutral, architecture=architecture)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "option", [{"dropout_on": "new"}, {"selector_start": "mean_of_old"}, {"start_offset": 2.0}], ids=str
)
def test_what_concerns_earlier_tasks_begins_with_the_second(option: Options) -> None:
    for tasks, same in ((1, True), (2, False)):
        expected, found = learnt({}, tasks), learnt(option, tasks)
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items()) == same


@pytest.mark.parametrize(
    "option",
    [
        {"activation": "tanh"},
        {"activation": "relu"},
        {"selector_input": "unscaled"},
        {"selector_rate": 0.1},
        {"selector_start": "zeros"},
        {"zero_lora": "learned"},
        {"sparsity": 0.5, "sparsity_reduce": "mean"},
        {"sparsity": 0.5, "sparsity_by": "proximal"},
    ],
    ids=str,
)
def test_every_option_changes_what_is_learnt(option: Options) -> None:
    base = {"sparsity": option["sparsity"]} if "sparsity" in option else {}
    expected, found = learnt(base), learnt(option)
    assert any(not torch.equal(tensor, found[name]) for name, tensor in expected.items())


# Selectors.


@pytest.mark.parametrize("selectors", ["all", "new"])
def test_selectors_begin_where_they_are_told_to(selectors: str) -> None:
    def started(start: str) -> list[Tensor]:
        site = GatedSite(nn.Linear(5, 6), Gated(rank=2, selectors=selectors, selector_start=start))
        found = []
        for task in range(4):
            site.grow()
            site.fresh(task)
            found.append(site.selector.detach().clone())
            perturb(site, seed=task)
        return found

    for number, selector in enumerate(started("zeros")):
        assert selector[-1].abs().sum() == 0
        assert number == 0 or selector[:-1].abs().min() > 0
    kaiming, mean = started("kaiming"), started("mean_of_old")
    assert torch.equal(mean[0], kaiming[0])
    for number in (1, 2, 3):
        assert kaiming[number][-1].abs().max() <= 6**-0.5
        by_hand = sum(mean[number][:-1]) / number
        assert torch.allclose(mean[number][-1], by_hand, rtol=1e-6, atol=1e-7)


def test_the_selectors_rate_is_a_multiple_of_the_others_under_every_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []
    plain = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        rates.append([group["lr"] for group in self.param_groups])
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    reported: list[float] = []
    optim = Optim(batch_size=4, learning_rate=1e-2, log_every=1, schedule="linear")
    learner = learner_of(am_lora(selector_rate=0.25, zero_lora="learned"), optim=optim)
    learner.on_event = lambda event: reported.append(event.rate) if isinstance(event, StepTaken) else None
    learner.learn(tiny_task())
    assert [group.name for group in learner.trainable()] == ["down", "up", "selector", "zero_score"]
    expected = [1e-2 * (1 - step / 3) for step in range(3)]
    assert rates == [pytest.approx([rate, rate, 0.25 * rate, 0.25 * rate]) for rate in expected]
    assert reported == pytest.approx(expected)


def test_the_selectors_rate_moves_them_that_much() -> None:
    """On the first step of the first task B is 0, so only the penalty moves selectors, and Adam's first step has the
    size of its rate."""
    for rate in (1.0, 0.1):
        options = {"sparsity": 1.0, "selector_rate": rate, "dropout": 0.0}
        moved = learnt(options, 1, optim=ONE_STEP)
        start = learnt({**options, "sparsity": 0.0}, 1, optim=ONE_STEP)
        change = (selectors_of(moved) - selectors_of(start)).abs()
        assert torch.allclose(change, torch.full_like(change, rate * 1e-2), rtol=1e-3)


# The zero LoRA.


def test_a_learned_score_begins_as_the_fixed_one_and_is_kept_for_all_tasks() -> None:
    fixed, learned = (
        GatedSite(nn.Linear(5, 6), Gated(rank=2, alpha=2.0, dropout=0.0, zero_lora=zero)) for zero in (True, "learned")
    )
    learned.base = fixed.base
    for site in (fixed, learned):
        site.grow()
        site.fresh(3)
    perturb(fixed, size=1.0)
    with torch.no_grad():
        for name, parameter in fixed.parameters_by_group().items():
            learned.parameters_by_group()[name].copy_(parameter)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(learned(x), fixed(x))
    with torch.no_grad():
        learned.zero_score.fill_(0.75)
    assert (learned(x) - fixed(x)).abs().max() > 1e-2
    learned.grow()
    learned.fresh(4)
    assert learned.zero_score.item() == 0.75


def test_a_learned_score_is_trained_but_not_penalized() -> None:
    """At the first step B is 0 and with it every y, so that no loss reaches z_0; then it moves."""
    options = {"zero_lora": "learned", "sparsity": 1.0}
    one, three = learnt(options, 1, optim=ONE_STEP), learnt(options, 1)
    zeros = [name for name in three if name.endswith("zero_score")]
    assert all(one[name] == 0 for name in zeros)
    assert all(three[name] != 0 for name in zeros)


@pytest.mark.parametrize("options", [{"zero_lora": "learned"}, {"zero_lora": "learned", "selectors": "new"}], ids=str)
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_learned_score_is_saved_exactly(options: Options, architecture: str, tmp_path: Path) -> None:
    learner = learner_of(build_method("am_lora", options), architecture)
    learner.learn(tiny_task("task 0"))
    learner.learn(tiny_task("task 1"))
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture))
    assert loaded.method == learner.method
    assert torch.equal(logits(loaded), logits(learner))
    for one in (learner, loaded):
        one.learn(tiny_task("task 2"))
    found = loaded.adapter.tensors()
    assert all(torch.equal(tensor, found[name]) for name, tensor in learner.adapter.tensors().items())


def test_the_zero_lora_on_the_command_line() -> None:
    """YAML reads off as false."""
    for text, meant in (("true", True), ("on", True), ("false", False), ("off", False), ("learned", "learned")):
        recipe = read_recipe(None, {"method": "am_lora"}, [f"zero_lora={text}"])
        assert recipe.build().adapter.zero_lora is meant or recipe.build().adapter.zero_lora == meant == "learned"


# Sparsity.


def after_step(rule: SoftThreshold, groups: list[ParameterGroup], rate: float, task_number: int = 1) -> None:
    rule.after_step(SimpleNamespace(trainable=lambda: groups, step=Step(0, 1, rate), task_number=task_number))


def test_the_soft_threshold_takes_rate_times_strength_from_its_group() -> None:
    def groups() -> list[ParameterGroup]:
        selectors = [nn.Parameter(torch.tensor(values, dtype=torch.float64)) for values in ([1.0, -0.3], [0.05, -2.0])]
        up = nn.Parameter(torch.ones(3, dtype=torch.float64))
        return [ParameterGroup("up", (up,)), ParameterGroup("selector", tuple(selectors), rate=0.5)]

    def values(found: list[ParameterGroup]) -> list[float]:
        return [value for parameter in found[1].parameters for value in parameter.tolist()]

    found = groups()
    after_step(SoftThreshold("selector", 2.0), found, rate=0.1)  # 0.1 * 0.5 * 2 = 0.1
    assert values(found) == pytest.approx([0.9, -0.2, 0.0, -1.9], abs=1e-15)
    assert values(found)[2] == 0.0
    assert found[0].parameters[0].tolist() == [1.0, 1.0, 1.0]
    found = groups()
    after_step(SoftThreshold("selector", 2.0, "mean"), found, rate=0.1)  # a quarter of it: there are four entries
    assert values(found) == pytest.approx([0.975, -0.275, 0.025, -1.975], abs=1e-15)
    found = groups()
    after_step(SoftThreshold("selector", (0.0, 8.0)), found, rate=0.1)
    assert values(found) == values(groups())
    after_step(SoftThreshold("selector", (0.0, 8.0)), found, rate=0.1, task_number=2)
    assert values(found) == pytest.approx([0.6, 0.0, 0.0, -1.6], abs=1e-15)


@pytest.mark.parametrize("selectors", ["all", "new"])
def test_proximal_sparsity_is_adams_step_and_then_a_shrinkage(selectors: str) -> None:
    """After one step it equals the same step without sparsity, shrunk by hand; some selectors are exactly 0, those
    beyond the threshold are not."""
    options: Options = {"sparsity_by": "proximal", "selector_rate": 0.5, "selectors": selectors}
    plain, sparse = (learnt({**options, "sparsity": size}, 1, optim=ONE_STEP) for size in (0.0, 30.0))
    step, shrunk = selectors_of(plain), selectors_of(sparse)
    amount = 1e-2 * 0.5 * 30.0
    by_hand = step.sign() * (step.abs() - amount).clamp_min(0)
    assert torch.allclose(shrunk, by_hand, rtol=0, atol=1e-7)
    assert 0.2 < (shrunk == 0).float().mean() < 0.9
    assert torch.equal(shrunk == 0, step.abs() <= amount)
    others = [name for name in plain if not name.endswith("selector")]
    assert all(torch.equal(plain[name], sparse[name]) for name in others)


def test_proximal_sparsity_follows_the_schedule() -> None:
    """Over linearly falling rates 1, 2/3, 1/3 the selectors of a task whose Adam steps are tiny lose twice a step's."""
    optim = Optim(batch_size=4, learning_rate=1e-6, schedule="linear")
    options: Options = {"sparsity_by": "proximal", "selector_start": "kaiming"}
    plain, sparse = (selectors_of(learnt({**options, "sparsity": size}, 1, optim=optim)) for size in (0.0, 1e4))
    amount = 1e-6 * 1e4 * (1 + 2 / 3 + 1 / 3)
    by_hand = plain.sign() * (plain.abs() - amount).clamp_min(0)
    assert torch.allclose(sparse, by_hand, rtol=0, atol=1e-5)


def test_a_gradient_never_gives_zeros_and_the_proximal_map_can_give_nothing_else() -> None:
    assert (selectors_of(learnt({"sparsity": 1e3})) != 0).all()
    tensors = learnt({"sparsity": 1e3, "sparsity_by": "proximal"})
    assert (selectors_of(tensors) == 0).all()
    assert any(tensor.abs().sum() > 0 for name, tensor in tensors.items() if name.endswith("up.weight"))


def test_the_mean_divides_by_all_trained_entries() -> None:
    learner = learner_of(am_lora(sparsity=2.0, sparsity_reduce="mean"))
    learner.learn(tiny_task("task 0"))
    learner.learn(tiny_task("task 1"))
    (penalty,) = learner.method.penalties
    entries = [entry for tensor in selectors_of(learner.adapter.tensors()) for entry in tensor.flatten().tolist()]
    assert len(entries) == 12 * 2 * 16
    assert penalty.value(learner).item() == pytest.approx(sum(map(abs, entries)) / len(entries), rel=1e-6)
    assert replace(penalty, reduce="sum").value(learner).item() == pytest.approx(sum(map(abs, entries)), rel=1e-6)


PUBLISHED = {  # AM-LoRA, section 7.2
    "order4": {"mnli": 0, "rte": 0.3, **dict.fromkeys(("cb", "wic", "copa", "qqp", "boolqa"), 0.01)},
    "order5": {
        **dict.fromkeys(("multirc", "boolqa"), 1e-4),
        **dict.fromkeys(("dbpedia", "agnews", "yelp", "amazon", "yahoo"), 0.01),
    },
    "order6": {},
}


@pytest.mark.parametrize("order", PUBLISHED)
def test_the_published_schedules_can_be_written(order: str) -> None:
    by_task = [PUBLISHED[order].get(task, 0.001) for task in get_stream(order).tasks]
    assert set(PUBLISHED[order]) <= set(get_stream(order).tasks)
    text = json.dumps(by_task)
    for way in ("gradient", "proximal"):
        method = read_recipe(None, {"method": "am_lora"}, [f"sparsity={text}", f"sparsity_by={way}"]).build()
        assert method.parameters["sparsity"] == tuple(by_task)
    sheet = " ".join((am_lora.__doc__ or "").split())
    if order != "order6":
        listed = sheet.split(f"{order.replace('order', 'order ')}: [")[1].split("]")[0]
        assert [float(entry) for entry in listed.split(",")] == by_task
    (penalty,) = am_lora(sparsity=tuple(by_task)).penalties
    weights = [penalty.weight(number) for number in range(1, 16)]
    assert weights == by_task


# The offset at a task's start.


def offsets_seen(learner: Learner, task: str) -> list[float]:
    """The offset of every training step's forward pass; all sites agree."""
    assert isinstance(learner.adapter, PlacedGated)
    seen: list[float] = []
    sites = list(learner.adapter.sites.values())

    def note(*_: object) -> None:
        (offset,) = {site.offset for site in sites}
        seen.append(offset)

    handle = sites[0].register_forward_pre_hook(note)
    learner.learn(tiny_task(task))
    handle.remove()
    return seen


def test_the_offset_falls_to_zero_over_its_steps_or_the_tasks() -> None:
    optim = Optim(batch_size=2, learning_rate=1e-3)  # six steps
    learner = learner_of(am_lora(start_offset=3.0, offset_steps=4), optim=optim)
    assert offsets_seen(learner, "task 0") == [0.0] * 6
    assert offsets_seen(learner, "task 1") == pytest.approx([3.0, 2.25, 1.5, 0.75, 0.0, 0.0])
    learner = learner_of(am_lora(start_offset=(9.0, 3.0, 6.0), offset_steps=100), optim=optim)
    assert offsets_seen(learner, "task 0") == [0.0] * 6
    assert offsets_seen(learner, "task 1") == pytest.approx([3.0 * (1 - step / 6) for step in range(6)])
    assert offsets_seen(learner, "task 2") == pytest.approx([6.0 * (1 - step / 6) for step in range(6)])
    assert isinstance(learner.adapter, PlacedGated)
    assert {site.offset for site in learner.adapter.sites.values()} == {0.0}


def test_with_an_offset_opening_a_task_keeps_the_function() -> None:
    def change(offset: float) -> float:
        learner = learner_of(am_lora())
        learner.learn(tiny_task("task 0"))
        perturb(learner.host.model)
        before = logits(learner)
        learner.adapter.grow()
        learner.adapter.fresh(1)
        assert isinstance(learner.adapter, PlacedGated)
        learner.adapter.set_offset(offset)
        return (logits(learner) - before).abs().max().item()

    assert change(0.0) > 1e-2
    assert change(40.0) < 1e-5


def test_a_resumed_learner_with_an_offset_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    learner = learner_of(am_lora(start_offset=2.0, offset_steps=2, sparsity=3.0, sparsity_by="proximal"))
    learner.learn(tiny_task("task 0"))
    learner.learn(tiny_task("task 1"))
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"))
    assert loaded.method == learner.method
    assert torch.equal(logits(loaded), logits(learner))
    for one in (learner, loaded):
        one.learn(tiny_task("task 2"))
    found = loaded.adapter.tensors()
    assert all(torch.equal(tensor, found[name]) for name, tensor in learner.adapter.tensors().items())


# Sites.


def test_cross_attention_can_be_left_out() -> None:
    for architecture, mark, count in (("t5", "EncDecAttention", 8), ("bart", "encoder_attn", 8)):
        model = tiny_host(architecture).model
        without = find_linears(model, ("query", "value"), cross_attention=False)
        assert len(without) == count
        assert not any(mark in name for name in without)
        everything = find_linears(model, ("query", "value"))
        assert set(everything) - set(without) == {name for name in everything if mark in name}
    for architecture in ("llama", "gpt2"):  # where there is none, nothing is left out
        model = tiny_host(architecture).model
        assert find_linears(model, ("key",), cross_attention=False) == find_linears(model, ("key",))
    learner = learner_of(am_lora(cross_attention=False, roles=("key", "value")))
    learner.learn(tiny_task())
    assert isinstance(learner.adapter, PlacedGated)
    assert len(learner.adapter.sites) == 8
    assert all(name.endswith(("SelfAttention.k", "SelfAttention.v")) for name in learner.adapter.sites)


# Mistakes.


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: am_lora(selector_rate=0.0), "selector_rate: 0.0 is not positive"),
        (lambda: am_lora(keep_gates=0), "keep_gates: 0 is not a positive number of tasks"),
        (lambda: am_lora(start_offset=(0.0, -1.0)), "start_offset is -1.0; it cannot be negative"),
        (lambda: am_lora(offset_steps=0), "offset_steps: 0 is not a positive number of steps"),
        (lambda: am_lora(sparsity=-1.0, sparsity_by="proximal"), "soft threshold on 'selector' is -1.0"),
        (lambda: build_method("am_lora", {"zero_lora": "fixed"}), "am_lora: zero_lora = 'fixed'"),
        (lambda: build_method("am_lora", {"activation": "gelu"}), "am_lora: activation = 'gelu'"),
        (
            lambda: learner_of(am_lora(cross_attention=False, modules=("SelfAttention.q",))),
            "cross_attention: false goes with roles",
        ),
        (lambda: inc_lora().with_gradient_rule(StartOffset(1.0, 5)), "only a gated adapter"),
        (lambda: inc_lora().with_gradient_rule(SoftThreshold("selector", 1.0)), "here are: down, up"),
        (lambda: am_lora().with_penalty(GroupL1("zero_score", 1.0)), "here are: down, up, selector"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named(build: Callable[[], object], sentence: str) -> None:
    with pytest.raises(NacreError, match=sentence):
        build()


def test_the_learned_score_is_a_group_of_its_own() -> None:
    method = am_lora(zero_lora="learned").with_penalty(GroupL1("zero_score", 1.0))
    assert method.adapter.groups == ("down", "up", "selector", "zero_score")
    learner = learner_of(method)
    learner.learn(tiny_task())
    assert tuple(group.name for group in learner.trainable()) == method.adapter.groups


def test_a_missing_entry_of_an_offsets_list_is_named() -> None:
    learner = learner_of(am_lora(start_offset=(0.0, 1.0)))
    learner.learn(tiny_task("task 0"))
    learner.learn(tiny_task("task 1"))
    with pytest.raises(RecipeError, match="start_offset lists 2 value"):
        learner.learn(tiny_task("task 2"))


def test_all_options_survive_a_recipe() -> None:
    options: Options = {
        "rank": 2,
        "dropout_on": "new",
        "selectors": "new",
        "selector_start": "mean_of_old",
        "selector_rate": 0.5,
        "selector_input": "unscaled",
        "activation": "relu",
        "zero_lora": "learned",
        "keep_gates": 3,
        "sparsity": [0.0, 0.1],
        "sparsity_by": "proximal",
        "sparsity_reduce": "mean",
        "start_offset": [0.0, 2.0],
        "offset_steps": 7,
        "roles": ["key"],
        "cross_attention": False,
    }
    method = build_method("am_lora", options)
    again = build_method("am_lora", json.loads(json.dumps(dict(method.parameters))))
    assert again == method
    assert [type(rule) for rule in method.gradient_rules] == [SoftThreshold, StartOffset]
    assert method.penalties == ()
