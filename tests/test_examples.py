"""Every script of examples/ runs, offline, and says what it promises."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import nacre
from nacre.methods.am_lora import am_lora
from nacre.modifiers.migu import migu

FOLDER = Path(__file__).resolve().parents[1] / "examples"
LAST_LINE = {
    "01_two_tasks.py": "o_lora: topic",
    "02_own_data.py": "The loaded learner gives the same answer:",
    "03_own_method.py": "{'topic':",
    "04_migu_in_trainer.py": "rows changed in 5 steps",
}


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.py")) == list(LAST_LINE)


@pytest.mark.parametrize("name", LAST_LINE)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert LAST_LINE[name] in capsys.readouterr().out.splitlines()[-1]


def test_a_method_by_name_is_the_method_that_its_functions_build() -> None:
    by_name = nacre.build_method("am_lora+migu", {"rank": 4, "migu": {"threshold": 0.5}})
    assert by_name == migu(am_lora(rank=4), threshold=0.5)


def test_every_public_name_is_there() -> None:
    assert list(nacre.__all__) == sorted(nacre.__all__)
    assert all(hasattr(nacre, name) for name in nacre.__all__)
