"""Tiny hosts and tasks that every test may use. Nothing here needs a network or files from outside."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("COLUMNS", None)  # lines are as long as their sentences; tests of the screen set its width

import torch

pytest.register_assert_rewrite("helpers")
torch.set_num_threads(1)  # two workers on two cores; more threads only wait for each other

from helpers.command import Call, Outcome
from helpers.tiny import tiny_host, write_tiny_model
from nacre.cli.main import main
from nacre.models.host import Host


@pytest.fixture
def nacre(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """``nacre("run", ...)``: the command in this process. An exception that ``main`` lets through fails the test."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nacre", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capfd.readouterr()
        return Outcome(int(stop.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model("t5")``: a folder with a tiny random model of that architecture and its tokenizer. Words behind
    the architecture are known to it, too."""
    made: dict[tuple[str, ...], Path] = {}

    def folder(architecture: str, *more_words: str) -> Path:
        key = (architecture, *more_words)
        if key not in made:
            place = tmp_path_factory.mktemp("models") / architecture
            made[key] = write_tiny_model(architecture, place, more_words)
        return made[key]

    return folder


@pytest.fixture(params=["t5", "llama"])
def host(request: pytest.FixtureRequest) -> Host:
    """A fresh tiny host of each family."""
    return tiny_host(request.param)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the minutes of a long suite go: the seconds of the slowest files, of all workers together."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    if seconds.total() < 300:
        return
    terminalreporter.section(f"seconds by file, {seconds.total():.0f} in all")
    for file, own in seconds.most_common(60):
        terminalreporter.write_line(f"{own:6.0f} {file}")
