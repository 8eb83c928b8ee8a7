"""Hugging Face datasets, from a dataset folder on this machine: nothing here uses the network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nacre.errors import DataError, NacreError
from nacre.tasks.reading.sources import find_tasks, load_tasks

CARD = """---
configs:
- config_name: mood
  data_files:
  - {{split: train, path: mood/train.jsonl}}
  - {{split: {validation}, path: mood/dev.jsonl}}
  - {{split: test, path: mood/test.jsonl}}
  features:
  - {{name: text, dtype: string}}
  - name: label
    dtype:
      class_label: {{names: {{"0": sad, "1": happy}}}}
- config_name: boolq
  data_files:
  - {{split: train, path: boolq/train.jsonl}}
  - {{split: test, path: boolq/test.jsonl}}
- config_name: trainless
  data_files:
  - {{split: test, path: boolq/test.jsonl}}
---
"""


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    for name, labels in {"mood": (0, 1), "boolq": ("False", "True")}.items():
        (folder / name).mkdir(parents=True)
        for split, count in {"train": 20, "dev": 3, "test": 4}.items():
            rows = [{"text": f"{split} {number}", "label": labels[number % 2]} for number in range(count)]
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(CARD.format(validation="dev"))
    return folder


def test_configurations_are_tasks(dataset):
    assert find_tasks(f"hub:{dataset}") == ["boolqa", "mood", "trainless"]
    mood, boolqa = load_tasks(["mood", "boolqa"], f"hub:{dataset}")
    assert mood.labels == ("sad", "happy")  # the order of the classes
    assert [row.target for row in mood.test] == ["sad", "happy", "sad", "happy"]
    assert (len(mood.train), len(mood.validation)) == (20, 3)
    assert mood.template.options
    assert mood.source["layout"] == "hub"
    assert mood.source["files"]["validation"]["hub"]["split"] == "dev"
    assert len(mood.source["files"]["train"]["sha256"]) == 64
    assert boolqa.labels == ("True", "False")  # the catalog's order
    assert boolqa.source["carved"] == {"from": "train", "seed": 0, "rows": 2}


def test_a_card_sends_to_a_dataset(dataset, tmp_path):
    folder = tmp_path / "data" / "feelings"
    folder.mkdir(parents=True)
    card = {"hub": {"name": str(dataset), "config": "mood"}, "labels": ["happy", "sad"], "instruction": "Which mood?"}
    (folder / "task.json").write_text(json.dumps(card))
    (task,) = load_tasks(["feelings"], tmp_path / "data")
    assert task.examples("test")[0].input == "Which mood?\nOption: happy, sad \ntest 0\nAnswer:"
    dataset.rename(folder / "rows")  # a dataset folder shipped with the task
    (folder / "task.json").write_text(json.dumps({"hub": {"name": "rows", "config": "mood"}}))
    assert load_tasks(["feelings"], tmp_path / "data")[0].labels == ("sad", "happy")


def test_what_is_wrong_is_named(dataset):
    address = f"hub:{dataset}"
    with pytest.raises(DataError, match=r"no configuration for task 'moode'\. Did you mean mood\?"):
        load_tasks(["moode"], address)
    with pytest.raises(DataError, match="trainless: there is no train split"):
        load_tasks(["trainless"], address)
    with pytest.raises(DataError, match="hub:NAME@REVISION"):
        load_tasks(["mood"], "hub:")
    rows = '{"text": "x", "label": 1}\n{"text": "y", "label": -1}\n'
    (dataset / "mood" / "test.jsonl").write_text(rows)
    with pytest.raises(DataError, match=r"mood, split test, row 2: field 'label' must be .* not null"):
        load_tasks(["mood"], address)


def test_unreachable_dataset(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(name: str, **_: object) -> None:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nand more lines")

    monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
    with pytest.raises(DataError) as caught:
        load_tasks(["mood"], "hub:nobody/set@v1")
    assert str(caught.value) == (
        "hub:nobody/set@v1 cannot be loaded: Couldn't reach 'nobody/set' on the Hub, and it has not been downloaded "
        "before. Run once with a network: "
        """python -c "import datasets; datasets.load_dataset('nobody/set', revision='v1')"."""
    )


def test_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(NacreError, match=r"needs the package 'datasets'.*pip install 'nacre\[data\]'"):
        load_tasks(["mood"], "hub:anything")
