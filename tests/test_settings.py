"""Settings that nobody can mean: each is refused when it is set, in a sentence that says what would be right."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.errors import NacreError
from nacre.evaluation.decoding import Decoding
from nacre.learning.settings import Optim
from nacre.measuring.probes.end_tasks import FineTuning
from nacre.method import Method
from nacre.methods.am_lora import am_lora
from nacre.methods.seq_lora import seq_lora
from nacre.modifiers.migu import migu
from nacre.registry import METHODS, MODIFIERS, build_method, parameters_of
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
    "optim.checkpointing=1": "there is no key 'optim.checkpointing'.",
    "optim.fingerprint=1": "there is no key 'optim.fingerprint'.",
    "end_tasks.point=1": "there is no key 'end_tasks.point'.",
    "evaluation.tuple=1": "there is no key 'evaluation.tuple'.",
    "optim.max_grad_norm=.inf": "optim.max_grad_norm = inf: a finite number is expected; write null (None in Python)",
    "optim.max_grad_norm=inf": "optim.max_grad_norm = inf: a finite number is expected; write null",
    "optim.max_grad_norm=.NaN": "optim.max_grad_norm = nan: a finite number is expected; write null",
    "optim.learning_rate=-.inf": "optim.learning_rate = -inf: a finite number is expected",
    "optim.learning_rate=4e18": "optim.learning_rate = 4e+18: it must be at most 1000.0.",
    "end_tasks.learning_rate=1e9": "end_tasks.learning_rate = 1000000000.0: it must be at most 1000.0.",
    "evaluation.max_new_tokens=4611686018427387904": "it must be at most 65536.",
    "base_ability.max_new_tokens=4611686018427387904": "it must be at most 65536.",
    "optim.learning_rate='1'": "optim.learning_rate = '1': a number is expected.",
    "optim.learning_rate=[]": "optim.learning_rate = []: it must not be empty.",
    "optim.learning_rate=[1e-3, x]": "optim.learning_rate.1 = 'x': a number is expected.",
    "optim.learning_rate=2020-01-01": "2020-01-01 is read as a date",
    "optim.epochs=[1, 0]": "optim.epochs.1 = 0: it must be at least 1.",
    "optim.batch_size=99999999999999999999": "the number 99999999999999999999 is too large",
    "optim.pad_to_multiple_of=4611686018427387904": "it must be at most 65536.",
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


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
RECIPES: dict[str, tuple[str | bytes, str]] = {
    "two methods": ("method: seq_lora\nseed: 1\nmethod: ewc\n", "line 3: the key 'method' stands twice"),
    "two rates": ("method: ewc\noptim:\n  epochs: 1\n  epochs: 2\n", "line 4: the key 'epochs' stands twice"),
    "a bomb in set": (f"method: seq_lora\nset:\n  {BOMB.replace(chr(10), chr(10) + '  ')}\n", "behind aliases"),
    "a bomb in optim": (f"method: seq_lora\noptim:\n  {BOMB.replace(chr(10), chr(10) + '  ')}\n", "behind aliases"),
    "a bomb as the seed": (f"{BOMB}seed: *a8\nmethod: seq_lora\n", "counting those behind aliases"),
    "a small bomb": (f"{BOMB[: BOMB.index('a4')]}stream: *a3\nmethod: seq_lora\n", "a string is expected"),
    "deep": ("[" * 10_000, "nested more than 50 deep"),
    "date": ("method: 2020-01-01\n", "is read as a date; put it in quotes"),
    "impossible date": ("method: 2020-13-45\n", "is read as a date; put it in quotes"),
    "digits": (f"seed: {'9' * 5000}\n", "is not a number that can be used"),
    "set": ("method: !!set {a}\n", "a set cannot be used here"),
    "Python object": ("method: !!python/object/apply:os.system [ls]\n", "a value with the tag"),
    "NaN": ("method: seq_lora\nset: {alpha: .nan}\n", "seq_lora: alpha = nan: a finite number is expected."),
    "infinite rate": ("method: seq_lora\noptim: {learning_rate: .inf}\n", "optim.learning_rate = inf: a finite number"),
    "no clipping": ("method: seq_lora\noptim: {max_grad_norm: .inf}\n", "write null (None in Python) for: not at all"),
    "string": ("method: seq_lora\noptim: {batch_size: '8'}\n", "optim.batch_size = '8': a whole number is expected."),
    "truth value": ("method: seq_lora\nseed: yes\n", "seed = True: a whole number is expected."),
    "unknown key": ("method: seq_lora\nsed: 1\n", "there is no key 'sed'. Did you mean"),
    "long unknown key": (f"method: seq_lora\n? {'k' * 100_000}\n: 1\n", "there is no key 'kkk"),
    "unknown parameter": ("method: seq_lora\nset: {rnk: 1}\n", "has no parameter 'rnk'. Did you mean rank"),
    "long method": (f"method: {'m' * 100_000}\n", "There is no method 'mmm"),
    "long stream": (f"method: seq_lora\nstream: {'s' * 100_000}\n", "There is no stream 'sss"),
    "list of a list": ("method: seq_lora\nstream: [[a]]\n", "stream.0 = ['a']: a string is expected."),
    "NUL": ('method: seq_lora\nmodel: "a\\0b"\n', "holds the character NUL"),
    "surrogate": ('method: seq_lora\noutput: "\\ud800"\n', "found invalid Unicode character escape code"),
    "nobody's home": ("method: seq_lora\ndata: ~nobodyhere\nstream: [a]\n", "there is no home folder of that name"),
    "long output": (f"method: seq_lora\noutput: {'o' * 300}\n", "is longer than a file system allows"),
    "unset variable": ("method: seq_lora\ndata: $NOT_SET_HERE/x\n", "the environment variable NOT_SET_HERE is not set"),
    "list": ("- method: seq_lora\n", "must hold keys and values"),
    "text": ("seq_lora", "must hold keys and values"),
    "empty": ("", "must hold keys and values"),
    "Latin-1": (b"method: caf\xe9\n", "it is not UTF-8 (byte 11)"),
    "zeros": (b"\0" * 1000, "is not valid YAML"),
    "10 MB": ("method: seq_lora\n" + "# x\n" * 2_500_000, "has more than 2,000,000 characters"),
    "a page": ("<!DOCTYPE html>\n<html></html>\n", "must hold keys and values"),
    "a git-lfs pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "must hold keys and values"),
}  # fmt: skip


def prepare(file: Path) -> None:
    """All that is done with a recipe before data and a model are looked at."""
    recipe = read_recipe(file, {}, [])
    recipe.build()
    assert recipe.task_names
    recipe.resolved()


@pytest.mark.parametrize("name", RECIPES)
def test_a_malformed_recipe(tmp_path: Path, name: str) -> None:
    content, says = RECIPES[name]
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    begun = time.process_time()
    with pytest.raises(NacreError) as caught:
        prepare(file)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert time.process_time() - begun < 5


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
