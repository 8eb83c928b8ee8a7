"""Settings that nobody can mean: each is refused when it is set, in a sentence that says what would be right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.errors import NacreError
from nacre.evaluation.decoding import Decoding
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.am_lora import am_lora
from nacre.methods.seq_lora import seq_lora
from nacre.modifiers.migu import migu
from nacre.registry import METHODS, MODIFIERS, build_method, parameters_of
from nacre.runs.probes.end_tasks import FineTuning
from nacre.runs.recipe import Recipe, read_recipe

INF, NAN = float("inf"), float("nan")

IN_PYTHON: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown": (lambda: Optim(lr=1e-3), "Optim: there is no key 'lr'. Known: accumulation, batch_size"),
    "near": (lambda: Optim(epoch=1), "Optim: there is no key 'epoch'. Did you mean epochs"),
    "string for a whole number": (lambda: Optim(batch_size="8"), "batch_size = '8': a whole number is expected."),
    "string for a number": (lambda: Optim(weight_decay="0"), "Optim: weight_decay = '0': a number is expected."),
    "true for a number": (lambda: Optim(learning_rate=True), "Optim: learning_rate = True: a number is expected."),
    "fraction": (lambda: Optim(batch_size=1.5), "Optim: batch_size = 1.5: a whole number is expected."),
    "no clipping": (
        lambda: Optim(max_grad_norm=INF),
        "Optim: max_grad_norm = inf: a finite number is expected; write null (None in Python) for: not at all.",
    ),
    "infinite rate": (lambda: Optim(learning_rate=INF), "Optim: learning_rate = inf: a finite number is expected"),
    "rate that is none": (lambda: Optim(learning_rate=NAN), "learning_rate = nan: a finite number is expected"),
    "infinite decay": (lambda: Optim(weight_decay=INF), "Optim: weight_decay = inf: a finite number is expected."),
    "no rates": (lambda: Optim(learning_rate=[]), "Optim: learning_rate = []: it must not be empty."),
    "a wrong rate of several": (lambda: Optim(learning_rate=[0.1, "x"]), "learning_rate.1 = 'x': a number"),
    "an infinite rate of several": (lambda: Optim(learning_rate=[0.1, INF]), "learning_rate.1 = inf: a finite"),
    "three betas": (lambda: Optim(betas=(0.9, 0.99, 0.9)), "at most 2 values are expected."),
    "too large": (lambda: Optim(warmup=1), "Optim: warmup = 1: it must be less than 1.0."),
    "too small": (lambda: Optim(batch_size=0), "Optim: batch_size = 0: it must be at least 1."),
    "other word": (lambda: Optim(schedule="cosin"), "'constant', 'linear' or 'cosine' is expected."),
    "decoding": (lambda: Decoding(decode="greedy"), "Decoding: decode = 'greedy': 'free' or 'labels' is expected."),
    "probe": (lambda: FineTuning(learning_rate=NAN), "FineTuning: learning_rate = nan: a finite number"),
    "recipe": (lambda: Recipe(method="seq_lora", seed="1"), "Recipe: seed = '1': a whole number is expected."),
    "no method": (lambda: Recipe(), "Recipe: 'method' is missing."),
    "inside a recipe": (
        lambda: Recipe(method="seq_lora", optim={"batch_size": "8"}),
        "Recipe: optim.batch_size = '8': a whole number is expected.",
    ),
    "method, string": (lambda: seq_lora(rank="8"), "seq_lora: rank = '8': a whole number is expected."),
    "method, true": (lambda: seq_lora(rank=True), "seq_lora: rank = True: a whole number is expected."),
    "method, nan": (lambda: seq_lora(alpha=NAN), "seq_lora: alpha = nan: a finite number is expected."),
    "method, beyond 32 bits": (lambda: seq_lora(alpha=1e300), "a number is expected that 32 bits can hold."),
    "method, one role": (lambda: seq_lora(roles="query"), "seq_lora: roles = 'query': a list is expected."),
    "method, per task": (lambda: am_lora(sparsity=[0.001, INF]), "am_lora: sparsity = [0.001, inf]: a finite number"),
    "method, by position": (lambda: seq_lora(8), "seq_lora: too many positional arguments; it takes rank, alpha"),
    "modifier": (lambda: migu(seq_lora(), threshold="x"), "migu: threshold = 'x': a number is expected."),
    "modifier, nan": (lambda: migu(seq_lora(), threshold=NAN), "migu: threshold = nan: a finite number"),
    "by name": (lambda: build_method("seq_lora", {"rank": "8"}), "seq_lora: rank = '8': a whole number is expected."),
    "modifier by name": (
        lambda: build_method("seq_lora+migu", {"migu": {"threshold": "x"}}),
        "migu: threshold = 'x': a number is expected.",
    ),
    "modifier without names": (lambda: build_method("seq_lora+migu", {"migu": 3}), "migu = 3: a modifier's parameters"),
    "long name": (lambda: build_method("m" * 10_000), "There is no method 'mmm"),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PYTHON)
def test_refused_in_python(name: str) -> None:
    make, says = IN_PYTHON[name]
    with pytest.raises(NacreError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "pydantic" not in str(caught.value)


ON_THE_COMMAND_LINE = {
    "optim.gradient_checkpointing=1": "there is no key 'optim.gradient_checkpointing'.",
    "optim.fingerprint=1": "there is no key 'optim.fingerprint'.",
    "end_tasks.point=1": "there is no key 'end_tasks.point'.",
    "evaluation.tuple=1": "there is no key 'evaluation.tuple'.",
    "optim.max_grad_norm=.inf": "optim.max_grad_norm = inf: a finite number is expected; write null (None in Python)",
    "optim.max_grad_norm=inf": "optim.max_grad_norm = inf: a finite number is expected; write null",
    "optim.max_grad_norm=.NaN": "optim.max_grad_norm = nan: a finite number is expected; write null",
    "optim.learning_rate=-.inf": "optim.learning_rate = -inf: a finite number is expected",
    "optim.learning_rate='1'": "optim.learning_rate = '1': a number is expected.",
    "optim.learning_rate=[]": "optim.learning_rate = []: it must not be empty.",
    "optim.learning_rate=[1e-3, x]": "optim.learning_rate.1 = 'x': a number is expected.",
    "optim.learning_rate=2020-01-01": "2020-01-01 is read as a date",
    "optim.epochs=[1, 0]": "optim.epochs.1 = 0: it must be at least 1.",
    "optim.batch_size=99999999999999999999": "the number 99999999999999999999 is too large",
    "optim.betas={a: b}": "optim.betas = {'a': 'b'}: a list is expected.",
    "optim=3": "optim = 3: a group of keys and values is expected.",
    "optim=[1]": "optim = [1]: a group of keys and values is expected.",
    "evaluation.max_new_tokens=.nan": "evaluation.max_new_tokens = nan: a whole number is expected.",
    "end_tasks.seeds=[1, x]": "end_tasks.seeds.1 = 'x': a whole number is expected.",
    "end_tasks.weight_decay=.inf": "end_tasks.weight_decay = inf: a finite number is expected.",
    "seed=1.5": "seed = 1.5: a whole number is expected.",
    "seed=-1": "seed = -1: it must be at least 0.",
    "seed=yes": "seed = True: a whole number is expected.",
    "seed=[1]": "seed = [1]: a whole number is expected.",
    "model_dropout=.nan": "model_dropout = nan: a finite number is expected",
    "stream=[1]": "stream.0 = 1: a string is expected.",
    "identity=all": "identity = 'all': 'none', 'task' or 'full' is expected.",
    "model=''": "model = '': it must not be empty.",
    "data=''": "data = '': it must not be empty.",
    "output=''": "output = '': it must not be empty.",
    "output=3": "output = 3: a string is expected.",
    "set=3": "set = 3: a group of keys and values is expected.",
    "rank=2020-13-45": "2020-13-45 is read as a date",
    "rank=" + "9" * 5000: "is not a number that can be used",
    "rank=" + "[" * 5000: "nested more than 50 deep",
    "rank=&a [*a]": "stands inside of what it names",
    "rank={a: 1, a: 2}": "the key 'a' stands twice",
    "rank=!!set {a}": "a set cannot be used here",
    "rank=\ud800": "half a character",
    "rank=[4": "the value is not valid YAML",
    "=4": "write KEY=VALUE",
    "rank": "write KEY=VALUE",
    "r" * 100_000 + "": "write KEY=VALUE",
    ".".join("a" * 1000) + "=1": "no key has so many parts",
    "optim.betas.x.y=3": "optim.betas = {'x': {'y': 3}}: a list is expected.",
    "seed.x=3": "seed = {'x': 3}: a whole number is expected.",
}


@pytest.mark.parametrize(
    "setting", ON_THE_COMMAND_LINE, ids=lambda setting: setting[:30].encode("ascii", "replace").decode()
)
def test_refused_on_the_command_line(setting: str) -> None:
    with pytest.raises(NacreError) as caught:
        read_recipe(None, {"method": "seq_lora"}, [setting])
    assert ON_THE_COMMAND_LINE[setting] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def parameters() -> list[tuple[str, str, Any]]:
    """Every parameter of every method and modifier that nacre has, with its type."""
    found = []
    for registry, prefix in ((METHODS, ""), (MODIFIERS, "seq_lora+")):
        for name in registry.names():
            function = registry.function(name)
            found += [(prefix + name, key, get_type_hints(function)[key]) for key in parameters_of(function)]
    return found


HOSTILE = [
    INF,
    -INF,
    NAN,
    "8",
    "\ud800",
    True,
    None,
    [],
    {},
    {"a": 1},
    [[1]],
    b"1",
    10**400,
    2.5e300,
    object(),
    "x" * 9999,
]


@pytest.mark.parametrize(("method", "key", "annotation"), parameters())
def test_no_parameter_takes_what_it_cannot_use(method: str, key: str, annotation: Any) -> None:
    """What is accepted is kept as it was given, and no number is infinite."""
    base, _, modifier = method.partition("+")
    for value in HOSTILE:
        built, message = built_or_refused(method, {modifier: {key: value}} if modifier else {key: value})
        if built is None:
            assert len(message) < 700
            assert key in message or modifier in message or base in message
        else:
            kept = (built.parameters[modifier] if modifier else built.parameters)[key]
            assert kept == (tuple(value) if isinstance(value, list) else value)
            assert isinstance(kept, bool) == isinstance(value, bool)
            assert not isinstance(kept, float)


def built_or_refused(method: str, given: dict[str, Any]) -> tuple[Method | None, str]:
    try:
        return build_method(method, given), ""
    except NacreError as error:
        return None, str(error)


def test_numbers_with_exponents_are_numbers_in_files(tmp_path: Any) -> None:
    """YAML 1.1 reads 1e-3 as a string."""
    file = tmp_path / "recipe.yaml"
    file.write_text("method: am_lora\noptim: {learning_rate: [1e-3, 2E-4]}\nset: {sparsity: 5e-2}\n")
    recipe = read_recipe(file, {}, ["alpha=1e1"])
    assert recipe.optim.learning_rate == (1e-3, 2e-4)
    assert recipe.build().parameters["sparsity"] == 0.05
    assert recipe.build().parameters["alpha"] == 10.0


KEYS = st.sampled_from([*Recipe.model_fields, *(f"optim.{key}" for key in Optim.model_fields), "rank", "roles", "x.y"])
VALUES = st.text(max_size=12) | st.sampled_from(
    ["1", "-1", ".inf", "nan", "1e400", "[1, 2]", "{a: 1}", "''", "null", "yes", "x", "1.5"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.builds("{}={}".format, KEYS, VALUES), max_size=3))
def test_any_setting_is_taken_or_refused(given_settings: list[str]) -> None:
    with suppress(NacreError):
        recipe = read_recipe(None, {"method": "seq_lora"}, given_settings)
        recipe.build()
        recipe.yaml()
