"""What a page reads beside a run's record: losses from events, answers from predictions; old and damaged files too."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nacre.errors import CheckpointError
from nacre.evaluation.matrix import DEFINITIONS, run_metrics
from nacre.manifest import write_manifest
from nacre.records.run import RunRecord, Seconds
from nacre.records.view import MOST_POINTS, SHOWN, LossCurve, view_of

RECORD = RunRecord(
    method="seq_lora", title="x", parameters={}, stream="own", tasks=["a", "b"], model="m", seed=0,
    metric="exact_match", matrix=[[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]], valid_answers=[[None, None]] * 3,
    **run_metrics([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]], [2, 2]), trainable_parameters=1,
    trainable_parameters_per_task=[1, 1], stored_parameters=1, seconds=Seconds(train=[1.0] * 2, evaluate=[1.0] * 3),
    peak_rss_bytes=1, protocol={}, protocol_hash="", definitions=DEFINITIONS,
)  # fmt: skip


def step(number: int, loss: object) -> dict[str, object]:
    return {"event": "step", "step": number, "loss": loss}


STAGE = {"event": "stage", "number": 1, "stages": 2, "name": "a"}
EVALUATE = {"event": "evaluate", "row": 1, "tasks": 2}


@pytest.mark.parametrize(
    ("events", "curves"),
    [
        ([STAGE, step(1, 2.0), step(4, 1.5), EVALUATE], [LossCurve("a", 4, ((1, 2.0), (4, 1.5)))]),
        # A stage that was interrupted is learned again from its first step.
        ([STAGE, step(1, 9.0), step(2, 8.0), STAGE, step(1, 2.0)], [LossCurve("a", 1, ((1, 2.0),))]),
        # Copies that a probe fine-tunes take steps of their own.
        ([STAGE, step(1, 2.0), EVALUATE, {"event": "end_task"}, step(1, 7.0)], [LossCurve("a", 1, ((1, 2.0),))]),
        ([STAGE, step(1, float("nan")), step(2, float("inf")), step(3, 1.0)], [LossCurve("a", 3, ((3, 1.0),))]),
        ([STAGE, step(1, None), {"event": "step"}, step(2, "x")], []),
        ([step(1, 2.0)], []),
        (["half a li", 7, [], STAGE, step(1, 2.0)], [LossCurve("a", 1, ((1, 2.0),))]),
        ([], []),
    ],
)
def test_losses(tmp_path: Path, events: Sequence[Any], curves: list[LossCurve]) -> None:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    assert list(view_of(tmp_path, RECORD).losses) == curves


def test_many_readings_are_thinned_and_the_last_one_stays(tmp_path: Path) -> None:
    events = [STAGE, *(step(number, number / 7) for number in range(1, 5001))]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    (curve,) = view_of(tmp_path, RECORD).losses
    assert len(curve.readings) <= MOST_POINTS + 1
    assert (curve.steps, curve.readings[0], curve.readings[-1]) == (5000, (1, 1 / 7), (5000, 5000 / 7))


def write(run: Path, lines: Sequence[dict[str, object]], task: str = "a") -> Path:
    folder = run / "tasks" / "02-b" / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"01-{task}.jsonl.gz"
    file.write_bytes(gzip.compress("".join(f"{json.dumps(line)}\n" for line in lines).encode()))
    write_manifest(folder.parent)
    return file


def line(number: int, right: bool, **more: object) -> dict[str, object]:
    return {"answer": f"answer {number}", "target": f"target {number}", "right": right, **more}


def test_the_first_rows_of_both_ends_are_samples(tmp_path: Path) -> None:
    write(tmp_path, [line(number, number % 3 == 0, input=f"text {number}") for number in range(20)])
    (samples,) = view_of(tmp_path, RECORD).samples
    assert [answer.answer for answer in samples.worst] == ["answer 1", "answer 2", "answer 4"]
    assert [answer.answer for answer in samples.best] == ["answer 0", "answer 3", "answer 6"]
    assert samples.best[0].input == "text 0"
    assert len(samples.worst) == SHOWN


@pytest.mark.parametrize(("right", "ends"), [(True, (0, 2)), (False, (2, 0))])
def test_all_right_has_no_wrong_answer(tmp_path: Path, right: bool, ends: tuple[int, int]) -> None:
    write(tmp_path, [line(1, right), line(2, right)])
    (samples,) = view_of(tmp_path, RECORD).samples
    assert (len(samples.worst), len(samples.best)) == ends
    assert {answer.input for answer in (*samples.worst, *samples.best)} == {None}  # written before inputs were


def test_scores_between_0_and_1_are_ordered(tmp_path: Path) -> None:
    scores = (0.5, 0.1, 0.9, 0.2, 0.8)
    write(tmp_path, [line(number, False, score=score) for number, score in enumerate(scores)])
    (samples,) = view_of(tmp_path, RECORD).samples
    assert [answer.score for answer in samples.worst] == [0.1, 0.2]
    assert [answer.score for answer in samples.best] == [0.9, 0.8, 0.5]


def test_unlabeled_text_has_no_answers(tmp_path: Path) -> None:
    write(tmp_path, [{"right": 3, "tokens": 9}])
    assert view_of(tmp_path, RECORD).samples == ()


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"[]\n", mtime=0), gzip.compress(b'{"answer": "a"}\n', mtime=0), b""]
)
def test_damaged_predictions_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path, [])
    file.write_bytes(content)
    write_manifest(file.parents[1])
    with pytest.raises(CheckpointError, match=r"01-a\.jsonl\.gz is damaged"):
        view_of(tmp_path, RECORD)


def test_changed_predictions_are_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, [line(1, True)])
    file.write_bytes(gzip.compress(json.dumps(line(1, False)).encode()))
    with pytest.raises(CheckpointError, match=r"01-a\.jsonl\.gz"):
        view_of(tmp_path, RECORD)
