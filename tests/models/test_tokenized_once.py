"""Inputs are tokenized once, however often they are read, and what is remembered is what would be read anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.tiny import tiny_host, tiny_task
from nacre.learning.learner import Learner
from nacre.models.families import Lengths
from nacre.registry import build_method
from nacre.tasks.task import Row


@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_a_second_evaluation_tokenizes_no_input(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(tiny_host(architecture), build_method("seq_lora", {"dropout": 0.0}))
    task = tiny_task()
    learner.learn(task)
    family, read = learner.host.family, []
    source_ids = family.source_ids
    monkeypatch.setattr(family, "source_ids", lambda text: read.append(text) or source_ids(text))
    first = learner.answer([task])
    inputs = {example.input for example in task.examples("test")}
    assert inputs <= set(read)
    read.clear()
    assert learner.answer([task]) == first
    assert inputs.isdisjoint(read)


def test_lengths_and_texts_are_told_apart() -> None:
    family = tiny_host("t5").family
    task = tiny_task()
    long = replace(task, test=(Row("the big dog sees the sea " * 8, "yes"),)).examples("test")[0]
    short = replace(long, text="the dog")
    found = [family.encode(example, Lengths(source)) for example in (long, short) for source in (20, 512) * 2]
    assert found[:2] == found[2:4]
    assert found[4:6] == found[6:]
    assert [row.truncated for row in found[:2]] == [True, False]
    assert len(found[0].source) <= 20 < len(found[1].source)
    assert found[4] == found[5] != found[1]
    assert list(found[1].source) == family.source_ids(long.input)
