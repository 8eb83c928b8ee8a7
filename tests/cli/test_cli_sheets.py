"""``nacre methods``: sheets of methods, of composed ones and of modifiers."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.command import Call, assert_one_line_error, one_line
from helpers.texts import text_task
from helpers.tiny import tiny_host, tiny_task
from nacre.cli.docstring import sheet_of
from nacre.cli.method_table import grouped
from nacre.errors import DataError
from nacre.learning.learner import Learner
from nacre.method import Method
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask
from nacre.registry import METHODS, MODIFIERS, build_method, parameters_of

EVERYTHING = [(METHODS, name) for name in METHODS.names()] + [(MODIFIERS, name) for name in MODIFIERS.names()]


@pytest.mark.parametrize(("registry", "name"), EVERYTHING, ids=lambda value: str(getattr(value, "kind", value)))
def test_the_docstring_explains_every_parameter(registry, name) -> None:
    function = registry.function(name)
    sheet = sheet_of(function)
    signature = list(inspect.signature(function).parameters)
    assert [key for key, words in sheet.parameters.items() if len(words) > 3] == signature, "all, and in this order"
    assert ("\nAssumed:\n" in sheet.whole) == bool(sheet.assumed)
    assert "Equations:\n" in sheet.text
    assert "Sources:\n" in sheet.text
    # Nothing of the docstring is lost: what is not in the text stands with the parameters or the assumptions.
    kept = {*sheet.text.split(), *" ".join([*sheet.parameters.values(), *sheet.assumed]).split()}
    heads = {"Args:", "Assumed:", "-", *(f"{key}:" for key in signature)}
    assert set(sheet.whole.split()) <= kept | heads


def odd(*, size: int = 1, share: float = 0.5, kind: str = "a", unsaid: int = 0) -> None:
    """What it does.

    In words: that size: matters.

    Equations:
        size = 3

        share: x

    Args:
        size: How large; at
            most size: ten.
        share: Of all, as in
            [0, .5, 1].
        kind: a (no size: here) or b.

    Assumed:
        - That it works.
        - Of kind: b is
          better - by far.

    Note:
        size: is not explained again.

    Sources:
        None.
    """


def test_a_docstring_taken_apart() -> None:
    sheet = sheet_of(odd)
    assert sheet.parameters == {
        "size": "How large; at most size: ten.",
        "share": "Of all, as in [0, .5, 1].",
        "kind": "a (no size: here) or b.",
    }
    assert sheet.assumed == ("That it works.", "Of kind: b is better - by far.")
    assert sheet.text == (
        "What it does.\n\nIn words: that size: matters.\n\nEquations:\n    size = 3\n\n    share: x\n\n"
        "Note:\n    size: is not explained again.\n\nSources:\n    None."
    )
    assert sheet.whole == inspect.getdoc(odd)


def test_nothing_to_take_apart() -> None:
    assert sheet_of(lambda: None).parameters == {}


@pytest.mark.parametrize("name", ["am_lora", "lb_cl", "+migu"])
def test_parameters_and_assumptions_stand_in_the_sheet(nacre: Call, name: str) -> None:
    shown = nacre("methods", name).out
    registry = MODIFIERS if name.startswith("+") else METHODS
    function = registry.function(name.removeprefix("+"))
    sheet, prefix = sheet_of(function), f"{name[1:]}." if name.startswith("+") else ""
    for key, parameter in parameters_of(function).items():
        head = f"  {prefix}{key} = {parameter.default!r}    "
        (start,) = [place for place, line in enumerate(shown.splitlines()) if line.startswith(head)]
        assert shown.splitlines()[start + 1].strip() in sheet.parameters[key]
        assert sheet.parameters[key] in one_line(shown)
    assert sheet.assumed
    assert all(f"- {sentence}" in one_line(shown) for sentence in sheet.assumed)
    assert shown.index("Parameters (") < shown.index("Assumed, where the sources do not say:")
    assert shown.endswith("docs/fidelity.md.\n")


def test_a_sheet_shows_every_slot(nacre: Call) -> None:
    names = {field.name for field in dataclasses.fields(Method)} - {"title", "sources", "name", "parameters"}
    sheet = json.loads(nacre("methods", "ewc", "--json").out)
    assert {slot.replace(" ", "_") for slot in sheet["slots"]} == names
    shown = nacre("methods", "ewc").out
    assert all(f"\n  {slot:<16}" in shown for slot in sheet["slots"])


def test_slots_and_traits(nacre: Call) -> None:
    sheet = json.loads(nacre("methods", "ewc", "--json").out)
    assert sheet["slots"]["adapter"] == "Full()"
    assert [part.partition("(")[0] for part in sheet["slots"]["penalties"]] == ["ElasticWeights"]
    assert (sheet["slots"]["memory"], sheet["slots"]["gradient rules"]) == (None, [])
    assert sheet["traits"] == {
        "continual": True,
        "rehearsal-free": True,
        "task boundaries in training": True,
        "task identity at test": False,
        "fine-tuning": True,
        "pre-training": True,
        "foldable": False,
        "grows with tasks": False,
    }
    shown = one_line(nacre("methods", "lora_replay").out)
    assert "memory Rehearsal(fraction=0.02, per_task=None)" in shown
    assert "rehearsal-free: no task boundaries in training: yes" in shown


@pytest.mark.parametrize(
    ("name", "boundaries", "identity", "rehearsal_free", "grows"),
    [
        ("seq_ft", False, False, True, False),
        ("seq_lora", False, False, True, False),
        ("inc_lora", True, False, True, True),
        ("o_lora", True, False, True, True),
        ("am_lora", True, False, True, True),
        ("lb_cl", True, False, True, True),
        ("ewc", True, False, True, False),
        ("replay", True, False, False, False),
        ("seq_lora+ewc", True, False, True, False),
        ("joint", False, False, False, False),
        ("independent", True, True, True, True),
    ],
)
def test_traits_are_those_of_the_literature(
    name: str, boundaries: bool, identity: bool, rehearsal_free: bool, grows: bool
) -> None:
    traits = build_method(name).traits
    assert traits["task boundaries in training"] is boundaries
    assert traits["task identity at test"] is identity
    assert traits["rehearsal-free"] is rehearsal_free
    assert traits["grows with tasks"] is grows


def test_every_method_is_in_one_group(nacre: Call) -> None:
    entries = json.loads(nacre("methods", "--json").out)["methods"]
    members = [entry["name"] for _, group in grouped(entries) for entry in group]
    assert sorted(members) == sorted(METHODS.names())
    table = nacre("methods", "--format", "markdown").out
    assert "| `ewc` | EWC (elastic weight consolidation) | yes | yes | no | yes | yes | no |" in table.splitlines()
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == members
    shown = nacre("methods").out
    assert [name for name in members if f"\n{name} " in shown] == members


def test_the_table_in_the_readme_is_that_of_the_methods(nacre: Call) -> None:
    """`nacre methods --format markdown` after a change."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("<!-- nacre methods --format markdown -->\n")
    table, end, _ = rest.partition("<!-- end of the table -->")
    assert end
    assert table == nacre("methods", "--format", "markdown").out


@pytest.mark.parametrize(
    "arguments", [("--format", "latex"), ("--format", "markdown", "--json"), ("ewc", "--format", "markdown")]
)
def test_other_tables_are_refused(nacre: Call, arguments: tuple[str, ...]) -> None:
    assert_one_line_error(nacre("methods", *arguments), "markdown is possible")


@dataclasses.dataclass(frozen=True)
class AnswersOnly(Penalty):
    """A part that looks at answers, which unlabeled text lacks."""

    strength: PerTask = 1.0
    learns = frozenset({"answer"})

    def value(self, learner: LearnerView) -> Tensor:
        return torch.zeros(())


def test_a_kind_of_task_that_a_part_does_not_learn_is_refused() -> None:
    method = dataclasses.replace(build_method("seq_lora").with_penalty(AnswersOnly()), name="own")
    assert (method.traits["fine-tuning"], method.traits["pre-training"]) == (True, False)
    learner = Learner(tiny_host("roberta"), method)
    before = learner.snapshot()
    text = text_task("papers")
    with pytest.raises(DataError, match="Task 'papers' is unlabeled text, and own learns none: answers_only needs a"):
        learner.learn(text)
    assert not before.differences(learner.snapshot())
    learner.learn(tiny_task("animals"))


def test_migu_needs_no_boundaries_if_every_task_is_masked() -> None:
    told = build_method("seq_ft+migu", {"migu": {"first_task": False}})
    untold = build_method("seq_ft+migu", {"migu": {"first_task": True}})
    assert told.traits["task boundaries in training"]
    assert not untold.traits["task boundaries in training"]


def test_a_composed_method(nacre: Call) -> None:
    shown = nacre("methods", "seq_lora+migu").out
    base, modifier = shown.split("\n+migu\n")
    assert base.startswith("seq_lora+migu: SinLoRA (sequential LoRA) + migu\n")
    assert "  rank = 8    int\n      Dimensions r of the update." in base
    assert "  migu.threshold = 0.7    float | tuple[float, ...]" in modifier
    assert "gradient rules  MagnitudeMask(threshold=0.7" in modifier
    sheet = json.loads(nacre("methods", "seq_lora+migu", "--json").out)
    assert sheet["name"] == "seq_lora+migu"
    assert sheet["parameters"]["migu"]["threshold"] == 0.7
    assert [entry["name"] for entry in sheet["modifiers"]] == ["migu"]
    assert "Equations:" in sheet["modifiers"][0]["sheet"]


@pytest.mark.parametrize("name", ["migu", "+migu"])
def test_a_modifier_alone(nacre: Call, name: str) -> None:
    shown = nacre("methods", name).out
    assert shown.startswith("+migu, a modifier: --method METHOD+migu\n")
    assert "  migu.threshold = 0.7" in shown
    sheet = json.loads(nacre("methods", name, "--json").out)
    assert sheet["name"] == "+migu"
    assert {"seq_ft", "seq_lora", "inc_lora", "o_lora", "lora_replay"} <= set(sheet["goes with"])
    assert "every task is the first" in sheet["does not go with"]["independent"]
    assert set(sheet["goes with"]) | set(sheet["does not go with"]) == set(METHODS.names())


def test_a_name_that_is_both(nacre: Call) -> None:
    """replay is a method and a modifier: the plain name is the method's."""
    assert nacre("methods", "replay").out.startswith("replay: Replay (fine-tuning with stored rows)\n")
    assert nacre("methods", "+replay").out.startswith("+replay, a modifier: ")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("seq_lora+migo", "There is no modifier 'migo'. Did you mean migu"),
        ("+am_lora", "There is no modifier 'am_lora'"),
        ("seq_lra+migu", "There is no method 'seq_lra'. Did you mean seq_lora"),
        ("am_lora+l1", "2 parts with the key 'l1_selector'"),
        ("migo", "There is no method 'migo'"),
    ],
)
def test_a_wrong_name(nacre: Call, name: str, part: str) -> None:
    assert_one_line_error(nacre("methods", name), part)
