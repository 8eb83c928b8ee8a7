"""Saved learners: what `save` replaces, and what `load` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.tiny import tiny_host, tiny_task
from nacre.errors import CheckpointError
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.methods.inc_lora import inc_lora
from nacre.methods.seq_lora import seq_lora


def learned(**settings: int) -> Learner:
    learner = Learner(tiny_host("t5"), inc_lora(rank=2), **settings)
    learner.learn(tiny_task("animals"))
    return learner


def test_save_replaces_learners_only(tmp_path: Path) -> None:
    learner = learned()
    mine = tmp_path / "mine"
    mine.mkdir()
    learner.save(mine)  # empty folders are welcome
    learner.save(mine)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    for name in ("file", "folder"):
        with pytest.raises(CheckpointError, match="is not a saved learner"):
            learner.save(tmp_path / name)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "thesis.tex").read_text() == "precious"


def test_a_learner_that_made_way_is_found(tmp_path: Path) -> None:
    """As a killed process leaves it, where names cannot be exchanged."""
    learned().save(tmp_path / "mine")
    (tmp_path / "mine").rename(tmp_path / ".mine.99999999.former.partial")
    assert Learner.load(tmp_path / "mine", tiny_host("t5")).state.tasks == ["animals"]


def test_restore_takes_a_learner_of_its_own_kind_only() -> None:
    snapshot = learned(seed=1).snapshot()
    with pytest.raises(CheckpointError, match="seed 1, and this learner has seed 0"):
        Learner(tiny_host("t5"), inc_lora(rank=2)).restore(snapshot)
    with pytest.raises(CheckpointError, match="rank is 2 there and 4 here"):
        Learner(tiny_host("t5"), inc_lora(rank=4), seed=1).restore(snapshot)
    with pytest.raises(CheckpointError, match='name is "inc_lora" there and "seq_lora" here'):
        Learner(tiny_host("t5"), seq_lora(rank=2), seed=1).restore(snapshot)
    Learner(tiny_host("t5"), inc_lora(rank=2), seed=1).restore(snapshot)


def test_saved_files_are_for_whoever_may_read_new_files(tmp_path: Path) -> None:
    learned().save(tmp_path / "mine")
    (tmp_path / "new").touch()
    rights = {oct(file.stat().st_mode) for file in [tmp_path / "new", *(tmp_path / "mine").iterdir()]}
    assert len(rights) == 1
    assert checkpoint.read(tmp_path / "mine").tasks == ("animals",)
