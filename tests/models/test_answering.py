"""No answer is asked for twice, and batches shrink where the device's memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.tiny import tiny_host, tiny_task, write_task
from nacre.evaluation.decoding import Decoding
from nacre.events import Event, StageStarted, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.task import Row, Task

NAMES = ("animals", "plants", "tools")


class Stop(Exception):
    """What stands for a crash inside a run."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(task, the weights it was answered with), whenever a learner answers."""
    seen: list[tuple[str, int]] = []
    answer = Learner.answer

    def noted(learner: Learner, tasks: Sequence[Task]) -> list[list[str]]:
        seen.extend((task.name, _state(learner.host)) for task in tasks)
        return answer(learner, tasks)

    monkeypatch.setattr(Learner, "answer", noted)
    return seen


def _state(host: Host) -> int:
    tensors = [tensor.detach().flatten().float() for tensor in host.model.state_dict().values()]
    return hash(torch.cat(tensors).numpy().tobytes())


@pytest.mark.parametrize("method", ["seq_lora", "am_lora", "independent", "joint"])
def test_a_run_answers_each_task_once_in_each_state(
    method: str, asked: list[tuple[str, int]], tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    for name in NAMES:
        write_task(tmp_path / "data", name)
    recipe = Recipe(
        method=method,
        stream=list(NAMES),
        data=str(tmp_path / "data"),
        model=str(tiny_model("t5")),
        output=str(tmp_path / "run"),
        optim=Optim(learning_rate=0.01, batch_size=4),
    )

    def stop(event: Event) -> None:
        if isinstance(event, StageStarted) and event.number == 3:
            raise Stop

    if method != "joint":  # which has one stage only
        with pytest.raises(Stop):
            run(recipe, stop)
        assert len(asked) >= 5
    run(recipe, ignore)
    assert {task for task, _ in asked} == set(NAMES)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("decode", ["free", "labels"])
def test_batches_shrink_until_they_fit(decode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(tiny_host("t5"), build_method("seq_lora", {}), decoding=Decoding(batch_size=6, decode=decode))
    task, what = tiny_task(), {"free": "write", "labels": "choose"}[decode]
    wanted, sizes = learner.answer([task]), []
    way = getattr(learner.host, what)

    def small(rows: Sequence[Encoded], *rest: object) -> object:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return way(rows, *rest)

    monkeypatch.setattr(learner.host, what, small)
    assert learner.answer([task]) == wanted
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("error", "rows"), [("CUDA out of memory.", 1), ("shapes do not match", 6)])
def test_other_errors_and_a_row_that_does_not_fit_are_told(
    error: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(tiny_host("t5"), build_method("seq_lora", {}), decoding=Decoding(batch_size=6))
    sizes = []

    def broken(chosen: Sequence[Encoded], *rest: object) -> object:
        sizes.append(len(chosen))
        raise RuntimeError(error)

    monkeypatch.setattr(learner.host, "write", broken)
    with pytest.raises(RuntimeError, match=error):
        learner.answer([tiny_task()])
    assert sizes[-1] == rows


@pytest.mark.parametrize("decode", ["free", "labels"])
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_batches_are_cut_where_that_saves_padding(
    architecture: str, decode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(tiny_task(), test=tuple(Row("the dog " * (1 + 4 * (n % 2)), "yes") for n in range(6)))
    found = {}
    for split_padding in (None, 0):
        decoding = Decoding(decode=decode, split_padding=split_padding)
        optim = Optim(max_target_length=4)
        learner = Learner(tiny_host(architecture), build_method("seq_lora", {}), optim=optim, decoding=decoding)
        seen, prompts = [], learner.host.family.prompts
        monkeypatch.setattr(
            learner.host.family, "prompts", lambda rows, p=prompts, s=seen: s.append(len(rows)) or p(rows)
        )
        found[split_padding] = learner.answer([task]), seen
    assert found[None][0] == found[0][0]
    assert (found[None][1], found[0][1]) == ([6], [3, 3])
