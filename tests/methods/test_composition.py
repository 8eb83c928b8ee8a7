"""Parts combine, act in order, keep their state, and say why they clash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from helpers.tiny import tiny_host, tiny_task
from nacre import registry
from nacre.errors import NacreError, RecipeError, SlotTaken
from nacre.events import Event, RowsEncoded, StepTaken
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method, method
from nacre.methods.am_lora import am_lora
from nacre.methods.inc_lora import inc_lora
from nacre.methods.seq_lora import seq_lora
from nacre.modifiers.l1 import l1
from nacre.parts.part import GradientRule, LearnerView, Memory, Part, Start
from nacre.parts.penalty import GroupL1
from nacre.parts.start import Fresh
from nacre.registry import METHODS, MODIFIERS, Registry, build_method, parameters_of
from nacre.tasks.task import Task
from nacre.tasks.template import Example

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)


@dataclass(frozen=True)
class KeptTexts:
    kept: list[list[str]]


@dataclass(frozen=True)
class Counted:
    steps: int
    sum: torch.Tensor


@dataclass(frozen=True)
class Values:
    by_group: dict[str, list[torch.Tensor]]


@dataclass(frozen=True)
class Copies(Memory):
    """Keeps the first rows of every task."""

    State: ClassVar[type[KeptTexts]] = KeptTexts

    rows: int = 2

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> Sequence[Example]:
        state = learner.remembered(self, KeptTexts) or KeptTexts([])
        return [Example(*texts) for texts in state.kept]

    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        new = [[e.before, e.text, e.after, e.target] for t in tasks for e in t.examples("train")[: self.rows]]
        state = learner.remembered(self, KeptTexts) or KeptTexts([])
        learner.remember(self, KeptTexts(state.kept + new))


@dataclass(frozen=True)
class Zeros(Start):
    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        for group in learner.adapter.parameter_groups():
            for parameter in group.parameters:
                torch.nn.init.zeros_(parameter)


@dataclass(frozen=True)
class Times(GradientRule):
    State: ClassVar[type[Counted]] = Counted

    factor: float
    name: str

    @property
    def key(self) -> str:
        return self.name

    def apply(self, learner: LearnerView) -> None:
        for group in learner.adapter.parameter_groups():
            for parameter in group.parameters:
                parameter.grad.mul_(self.factor)
        state = learner.remembered(self, Counted) or Counted(0, torch.zeros(()))
        more = sum(p.grad.abs().sum() for g in learner.adapter.parameter_groups() for p in g.parameters)
        learner.remember(self, Counted(state.steps + 1, state.sum + more))


@dataclass(frozen=True)
class Halt(GradientRule):
    """Puts the parameters back after the step."""

    State: ClassVar[type[Values]] = Values

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        groups = learner.adapter.parameter_groups()
        learner.remember(self, Values({g.name: [p.detach().clone() for p in g.parameters] for g in groups}))

    def after_step(self, learner: LearnerView) -> None:
        with torch.no_grad():
            for group in learner.adapter.parameter_groups():
                values = learner.remembered(self, Values)
                assert values is not None
                for parameter, value in zip(group.parameters, values.by_group[group.name], strict=True):
                    parameter.copy_(value)


def test_a_second_memory_is_refused_with_both_names() -> None:
    with pytest.raises(SlotTaken, match=r"seq_lora already has a memory \(Copies\(rows=2\)\).*Drop Copies\(rows=5\)"):
        seq_lora().with_memory(Copies()).with_memory(Copies(5))


def test_a_second_start_is_refused() -> None:
    with pytest.raises(SlotTaken, match=r"already has a start \(Zeros\(\)\)"):
        seq_lora().with_start(Zeros()).with_start(Zeros())


def test_two_parts_of_one_key_are_refused() -> None:
    with pytest.raises(SlotTaken, match="2 parts with the key 'l1_selector'"):
        replace(am_lora(), penalties=(GroupL1("selector", 0.1), GroupL1("selector", 0.2)))


def test_the_operand_is_untouched() -> None:
    plain = seq_lora()
    assert plain.with_memory(Copies()).memory == Copies()
    assert plain.memory is None
    assert plain == seq_lora()


def test_memory_rows_are_mixed_in_and_are_saved_with_the_learner(tmp_path: Path) -> None:
    rows: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, RowsEncoded):
            rows.append(event.rows)

    method = seq_lora().with_memory(Copies(3))
    learner = Learner(tiny_host("t5"), method, optim=OPTIM, on_event=watch)
    learner.learn(tiny_task("a"))
    learner.learn(tiny_task("b"))
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"), method=method)
    loaded.on_event = watch
    loaded.learn(tiny_task("c"))
    assert rows == [12, 15, 18]
    assert not method.traits["rehearsal-free"]
    assert seq_lora().traits["rehearsal-free"]


def test_rules_act_in_their_order_and_keep_tensors_in_the_state(tmp_path: Path) -> None:
    first, second = Times(0.0, "first"), Times(3.0, "second")
    method = replace(inc_lora(), gradient_rules=(first, second))
    learner = Learner(tiny_host("t5"), method, optim=OPTIM)
    learner.learn(tiny_task())
    assert learner.state.parts["first"].steps == 3
    assert learner.state.parts["second"].sum == 0  # three times nothing
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("t5"), method=method)
    assert loaded.state.parts["first"].steps == 3
    assert torch.equal(loaded.state.parts["first"].sum, learner.state.parts["first"].sum)


def test_a_rule_may_act_after_the_step() -> None:
    learner = Learner(tiny_host("t5"), replace(inc_lora(), gradient_rules=(Halt(),)), optim=OPTIM)
    learner.learn(tiny_task())
    found = {name: tensor for name, tensor in learner.adapter.tensors().items() if name.endswith("up.weight")}
    assert found
    assert all(tensor.abs().sum() == 0 for tensor in found.values())


def test_a_neutral_rule_vanishes() -> None:
    def learnt(method: Method) -> list[torch.Tensor]:
        learner = Learner(tiny_host("t5"), method, seed=1, optim=OPTIM)
        learner.learn(tiny_task())
        return list(learner.adapter.tensors().values())

    plain, ruled = learnt(inc_lora()), learnt(replace(inc_lora(), gradient_rules=(Times(1.0, "one"),)))
    assert all(torch.equal(left, right) for left, right in zip(plain, ruled, strict=True))


def test_a_start_fills_the_new_slot_only() -> None:
    learner = Learner(tiny_host("t5"), inc_lora().with_start(Zeros()), optim=Optim(batch_size=99))
    learner.learn(tiny_task("a"))
    down = next(tensor for name, tensor in learner.adapter.tensors().items() if name.endswith("down.weight"))
    assert down.abs().sum() == 0, "with A and B at zero no gradient moves either"


def test_hand_made_methods_need_their_value_to_be_loaded(tmp_path: Path) -> None:
    method = Method(title="mine", sources=(), adapter=inc_lora().adapter)
    learner = Learner(tiny_host("t5"), method, optim=OPTIM)
    learner.learn(tiny_task())
    learner.save(tmp_path / "saved")
    with pytest.raises(NacreError, match="put together by hand"):
        Learner.load(tmp_path / "saved", tiny_host("t5"))
    assert Learner.load(tmp_path / "saved", tiny_host("t5"), method=method).state.tasks == ["animals"]


@pytest.mark.parametrize("functions", [METHODS, MODIFIERS], ids=lambda functions: functions.kind)
def test_every_function_is_called_what_its_file_is_called_and_explains_itself(functions: Registry) -> None:
    folder = Path(registry.__file__).parent / functions.package.removeprefix("nacre.")
    stems = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
    assert sorted(functions.names()) == stems
    for name in stems:
        function = functions.function(name)
        assert function.__name__ == name
        assert "Equations:" in (function.__doc__ or "")
        assert "Sources:" in (function.__doc__ or "")
        for parameter in parameters_of(function):
            assert f"{parameter}" in (function.__doc__ or ""), f"{name}'s sheet does not explain {parameter}"


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_knows_its_name(name: str) -> None:
    assert build_method(name).name == name


def test_a_modified_method_can_be_built_again_from_its_name_and_parameters() -> None:
    method = build_method("inc_lora+l1", {"rank": 4, "l1": {"group": "down", "strength": [0.1, 0.2]}})
    assert method.name == "inc_lora+l1"
    assert method.parameters["rank"] == 4
    assert method.parameters["l1"] == {"group": "down", "strength": (0.1, 0.2)}
    assert method == build_method(method.name, method.parameters)
    assert method == l1(inc_lora(rank=4), group="down", strength=(0.1, 0.2))
    assert method.penalties == (GroupL1("down", (0.1, 0.2)),)


def test_a_modifier_of_a_method_without_a_name_gives_none_either() -> None:
    assert l1(replace(inc_lora(), name=""), group="up").name == ""


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("inc_lora+l2", {}, "There is no modifier 'l2'. Did you mean l1"),
        ("inc_lora+", {}, "There is no modifier ''"),
        ("+l1", {}, "There is no method ''"),
        ("inc_lora+l1", {"strength": 1}, "for the modifier, write l1.strength"),
        ("inc_lora+l1", {"l1": {"strenth": 1}}, "Modifier 'l1' has no parameter 'strenth'. Did you mean strength"),
        ("inc_lora+l1", {"l1": 3}, "l1 = 3: a modifier's parameters have names"),
        ("inc_lora+l1", {}, "needs one; here are: down, up"),
        ("am_lora+l1", {}, "2 parts with the key 'l1_selector'"),
        ("inc_lora+l1+l1", {"l1": {"group": "up"}}, "l1"),
        ("inc_lora+l1", {"l1": {"group": "up", "strength": [0.1, -1]}}, "is -1.0; it cannot be negative"),
    ],
)
def test_wrong_combinations_say_why(name: str, parameters: dict[str, object], sentence: str) -> None:
    with pytest.raises(NacreError, match=re.escape(sentence)):
        build_method(name, parameters)


def test_a_list_gives_each_task_its_own_value() -> None:
    weights: list[float] = []
    rates: list[float] = []
    steps: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            weights.append(event.terms["l1_up_weighted"] / max(event.terms["l1_up"], 1e-30))
            rates.append(event.rate)
            steps.append(event.steps)

    method = build_method("inc_lora+l1", {"l1": {"group": "up", "strength": [0.0, 0.5]}})
    optim = Optim(batch_size=12, learning_rate=(1e-2, 1e-3), epochs=(1, 2), log_every=1)
    learner = Learner(tiny_host("t5"), method, optim=optim, on_event=watch)
    for name in ("animals", "birds"):
        learner.learn(tiny_task(name))
    assert weights[0] == 0
    assert weights[-1] == pytest.approx(0.5)
    assert rates == [1e-2, 1e-3, 1e-3]
    assert steps == [1, 2, 2]
    with pytest.raises(RecipeError, match=r"lists 2 value.*this is task 3"):
        learner.learn(tiny_task("fish"))


def test_a_method_remembers_all_its_parameters() -> None:
    method = build_method("am_lora", {"rank": 4, "roles": ["query"]})
    assert method.parameters["rank"] == 4
    assert method.parameters["sparsity"] == 1e-5
    assert build_method(method.name, method.parameters) == method


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"rnk": 4}, "has no parameter 'rnk'. Did you mean rank?"),
        ({"rank": "many"}, "am_lora: rank = 'many'"),
        ({"rank": "4"}, "am_lora: rank = '4': a whole number is expected"),
        ({"rank": 0}, "rank: 0 is not a positive"),
        ({"selectors": "old"}, "am_lora: selectors = 'old'"),
        ({"dropout": 1.0}, r"dropout: 1.0 is not in \[0, 1\)"),
        ({"sparsity": -1}, "cannot be negative"),
        ({"roles": ["questions"]}, "am_lora: roles"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, object], sentence: str) -> None:
    with pytest.raises(NacreError, match=sentence):
        build_method("am_lora", parameters)


def test_unknown_methods_get_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="Did you mean am_lora"):
        build_method("am_lra")


def test_third_parties_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("narrow_lora", f"{__name__}:narrow_lora", METHODS.package)
    monkeypatch.setattr(
        registry, "_entry_points", lambda group: {point.name: point} if group == METHODS.package else {}
    )
    assert "narrow_lora" in METHODS.names()
    learner = Learner(tiny_host("t5"), build_method("narrow_lora", {"rank": 2}), optim=OPTIM)
    learner.learn(tiny_task())
    assert learner.method.name == "narrow_lora"
    assert all(t.shape[0] == 2 for name, t in learner.adapter.tensors().items() if name.endswith("down.weight"))


@method
def narrow_lora(*, rank: int = 1) -> Method:
    """A third party's method."""
    return replace(seq_lora(rank=rank), title="Narrow")


def test_keys_are_class_names() -> None:
    assert Fresh().key == "fresh"
    assert GroupL1("a", 0).key == "l1_a"
    assert isinstance(Fresh(), Part)
