"""What is answered before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Call
from helpers.tiny import write_task
from nacre.cli import written_sheets
from nacre.cli.sheets import list_document, method_document
from nacre.cli.written_sheets import all_sheets, written_sheet
from nacre.errors import RecipeError
from nacre.registry import METHODS, MODIFIERS, Registry, build_method, check_spelling

HEAVY = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "sklearn")
SCRIPT = f"""
import json, sys
from nacre.cli.main import main
sys.argv = ["nacre", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit as end:
    code = end.code or 0
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps([code, heavy, len(sys.modules)]), file=sys.stderr)
"""


def answered(*arguments: str, cwd: Path) -> tuple[int, list[str], int, str]:
    """The exit code, the heavy modules that were imported, how many were in all, and what was printed."""
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)], capture_output=True, text=True, cwd=cwd, check=True
    )
    *said, last = found.stderr.splitlines()
    return *json.loads(last), found.stdout + "\n".join(said)


def test_waiting_threads_of_torch_sleep(tmp_path: Path) -> None:
    """Two runs on the same cores took five times as long when threads that waited kept their core busy."""
    script = SCRIPT + "\nimport torch"
    said = {}
    for policy in (None, "ACTIVE"):
        own = {} if policy is None else {"OMP_WAIT_POLICY": policy}
        clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        found = subprocess.run(
            [sys.executable, "-c", script, '["--version"]'],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
            env={**clean, **own, "OMP_DISPLAY_ENV": "TRUE"},
        )
        said[policy] = set(re.findall(r"OMP_WAIT_POLICY\s*=\s*'(\w+)'", found.stderr))
    assert said == {None: {"PASSIVE"}, "ACTIVE": {"ACTIVE"}}, "what the user set is kept"


LIGHT: dict[str, tuple[int, str]] = {
    "--help": (0, "Continual learning"),
    "--version": (0, "nacre 0"),
    "methods": (0, "am_lora"),
    "methods --json": (0, '"rehearsal-free"'),
    "methods am_lora": (0, "Traits:"),
    "methods +migu": (0, "Goes with, as they are:"),
    "methods seq_lra": (2, "There is no method 'seq_lra'. Did you mean seq_lora"),
    "methods seq_lora+hat+migu+hat": (2, "The modifier 'hat' stands twice in the method's name"),
    "methods seq_lora+migo": (2, "There is no modifier 'migo'. Did you mean migu"),
    "streams": (0, "order1"),
    "run": (2, "A run needs a method"),
    "run --help": (0, "--method"),
    "run nowhere.yaml": (2, "nowhere.yaml"),
    "run bad.yaml": (2, "there is no key 'optim.rate'"),
    "run --method seqlora": (2, "There is no method 'seqlora'. Did you mean seq_lora"),
    "run --method seqlora --dry-run": (2, "There is no method 'seqlora'. Did you mean seq_lora"),
    "run --method seq_lora+migo": (2, "There is no modifier 'migo'. Did you mean migu"),
    "run --method seq_lora --set rnk=4": (2, "has no parameter 'rnk'. Did you mean rank"),
    "run --method seq_lora --set rnk=4 --dry-run": (2, "has no parameter 'rnk'. Did you mean rank"),
    "run --method seq_lora --set seeds=4": (2, "has no parameter 'seeds'. Did you mean seed"),
    "run --method seq_lora+migu --set threshold=0.5": (2, "for the modifier, write migu.threshold"),
    "run --method seq_lora+migu --set migu=0.5": (2, "a modifier's parameters have names"),
    "run --method seq_lora --set rank=four": (2, "rank = 'four'"),
    "run --method am_lora --set sparsity=[a]": (2, "sparsity = ['a']"),
    "run --method am_lora --set selectors=old": (2, "'all' or 'new'"),
    "run --method seq_lora --set optim.batch_sise=4": (2, "Did you mean batch_size"),
    "run --method seq_lora --set optim.batch_size=none": (2, "optim.batch_size = 'none'"),
    "run --method seq_lora --set base_ability.tasks=[humaneva]": (2, "base_ability.tasks"),
    "run --method seq_lora --stream order9": (2, "There is no stream 'order9'"),
    "run --method seq_lora --stream tasc --data data": (2, "There is no stream 'tasc'"),
    "run --method seq_lora --stream nowhere.yaml": (2, "nowhere.yaml"),
}


@pytest.mark.parametrize("command", LIGHT)
def test_it_is_answered_without_torch(command: str, tmp_path: Path) -> None:
    """Start-up is importing: a bound on modules says what a bound on seconds would, on a busy machine, too."""
    write_task(tmp_path / "data", "task")
    (tmp_path / "bad.yaml").write_text("method: seq_lora\noptim: {rate: 1}\n")
    code, heavy, modules, said = answered(*command.split(), cwd=tmp_path)
    expected, part = LIGHT[command]
    assert (code, heavy) == (expected, [])
    assert modules < 600
    assert part in " ".join(said.split())
    assert {file.name for file in tmp_path.iterdir()} == {"bad.yaml", "data"}


def test_sheets_are_written_down_as_they_are_built() -> None:
    """`python -m nacre.cli.written_sheets` after a change."""
    assert json.loads(written_sheets.FILE.read_text(encoding="utf-8")) == all_sheets()
    for name in METHODS.own_names():
        assert method_document(name)["parameters"] == build_method(name).parameters, "tuples are tuples again"


def test_a_sheet_that_is_no_longer_true_is_built_anew(monkeypatch: pytest.MonkeyPatch, nacre: Call) -> None:
    entries: Any = json.loads(written_sheets.FILE.read_text(encoding="utf-8"))
    for kind in entries.values():
        for entry in kind.values():
            entry["sheet"]["title"] = entry["sheet"]["text"] = "Old"
    monkeypatch.setattr(written_sheets, "_entries", lambda: entries)
    assert method_document("am_lora")["title"] == "Old"
    entries["method"]["am_lora"]["source"] = "another"
    entries["method"].pop("ewc")
    assert written_sheet(METHODS, "am_lora") is None
    assert method_document("am_lora")["title"] == build_method("am_lora").title
    titles = {entry["name"]: entry["title"] for entry in list_document()["methods"]}
    assert (titles["ewc"], titles["seq_ft"]) == (build_method("ewc").title, "Old")
    assert "Old" in nacre("methods", "+migu").out
    entries["modifier"]["migu"]["sheet"]["goes with"].pop()  # a method came later
    assert "Old" not in nacre("methods", "+migu").out


ODD = [
    ("seq_lora", {"rank": 4, "roles": ["query"]}),
    ("seq_lora+migu", {"rank": 4, "migu": {"threshold": [0.5, 0.7]}}),
    ("am_lora", {"zero_lora": "learned", "activation": "relu", "keep_gates": None}),
]


@pytest.mark.parametrize(("name", "parameters"), ODD)
def test_what_is_right_is_not_refused(name: str, parameters: dict[str, Any]) -> None:
    check_spelling(name, parameters)


@pytest.mark.parametrize("registry", [METHODS, MODIFIERS], ids=lambda registry: registry.kind)
def test_written_types_are_the_real_ones(registry: Registry) -> None:
    from nacre.registry import _hints

    known = 0
    for name in registry.own_names():
        written, real = registry.written_hints(name), _hints(registry, name)
        assert written is not None
        assert list(written) == list(real)
        for key, hint in written.items():
            known += hint is not Any
            assert hint is Any or hint == real[key], (name, key)
    assert known > 15


def test_third_parties_are_left_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "_third_parties", lambda self: {"somebodys": None})
    check_spelling("somebodys+migu", {"anything": 1, "migu": {"threshold": 0.5}})
    with pytest.raises(RecipeError, match="threshold = 'x'"):
        check_spelling("somebodys+migu", {"migu": {"threshold": "x"}})


def test_a_method_is_built_without_what_shards_hosts(tmp_path: Path) -> None:
    """It took as long again as everything else that a dry run imports."""
    script = "import sys, nacre.registry; nacre.registry.build_method('am_lora+migu', {}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    loaded = set(done.stdout.split())
    assert "nacre.models.sharding" in loaded
    assert not {"torch.distributed.tensor", "torch.distributed.fsdp"} & loaded
