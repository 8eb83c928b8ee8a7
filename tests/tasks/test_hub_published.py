"""The published tasks from the Hub, read from folders that have the real datasets' columns, class names and splits.

``datasets`` takes a folder for a dataset's name where there is one, so that what runs is what would run on the Hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.command import Call, assert_one_line_error
from nacre.errors import DataError
from nacre.tasks.published.catalog import CATALOG, known
from nacre.tasks.published.hub_sources import HUB_SOURCES, MOST_TESTED, most_rows
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.sources import find_tasks, load_tasks

datasets = pytest.importorskip("datasets")

STRING = {"dtype": "string"}
NUMBER = {"dtype": "int32"}


def classes(*names: str) -> dict[str, Any]:
    return {"dtype": {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}}}


DBPEDIA = (
    "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation", "Building",
    "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork",
)  # fmt: skip
YAHOO = (
    "Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet", "Sports",
    "Business & Finance", "Entertainment & Music", "Family & Relationships", "Politics & Government",
)  # fmt: skip
NLI = ("entailment", "neutral", "contradiction")
TWO = ("False", "True")
GLUE = ("train", "validation", "test")
AMAZON = "yassiracharki/Amazon_Reviews_for_Sentiment_Analysis_fine_grained_5_classes"

# Of each task: dataset, configuration, splits, features in their order, a row without its label, the text that the
# release has of such a row, and the released label of each label id, in the order of the ids.
SCHEMAS: dict[str, tuple[str, str, tuple[str, ...], dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = {
    "dbpedia": (
        "fancyzhx/dbpedia_14", "dbpedia_14", ("train", "test"),
        {"label": classes(*DBPEDIA), "title": STRING, "content": STRING},
        {"title": "Keremcem", "content": " Kerem Cem is a Turkish singer {and} actor."},
        "Title: Keremcem\nText:  Kerem Cem is a Turkish singer {and} actor.\n",
        ("Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation",
         "Building", "Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work"),
    ),
    "amazon": (
        AMAZON, "default", ("train", "test"),
        {"class_index": {"dtype": "int64"}, "review_title": STRING, "review_text": STRING},
        {"review_title": "not what you see", "review_text": "This carrier is NOT the one."},
        "Title: not what you see\nText: This carrier is NOT the one.\n",
        ("very negative", "negative", "neutral", "positive", "very positive"),
    ),
    "yahoo": (
        "community-datasets/yahoo_answers_topics", "yahoo_answers_topics", ("train", "test"),
        {"id": NUMBER, "topic": classes(*YAHOO), "question_title": STRING, "question_content": STRING,
         "best_answer": STRING},
        {"id": 3, "question_title": "What is the name?", "question_content": "", "best_answer": "Triclops."},
        "What is the name?  Triclops.",
        YAHOO,
    ),
    "agnews": (
        "fancyzhx/ag_news", "default", ("train", "test"),
        {"text": STRING, "label": classes("World", "Sports", "Business", "Sci/Tech")},
        {"text": "Intel readies chips Intel is expected to"}, "Text: Intel readies chips Intel is expected to\n",
        ("World", "Sports", "Business", "Science or Technology"),
    ),
    "yelp": (
        "Yelp/yelp_review_full", "yelp_review_full", ("train", "test"),
        {"label": classes("1 star", "2 star", "3 stars", "4 stars", "5 stars"), "text": STRING},
        {"text": "awesome.  each dish"}, "Text: awesome.  each dish\n",
        ("very negative", "negative", "neutral", "positive", "very positive"),
    ),
    "mnli": (
        "nyu-mll/glue", "mnli", ("train", "validation_matched", "validation_mismatched", "test_matched"),
        {"premise": STRING, "hypothesis": STRING, "label": classes(*NLI), "idx": NUMBER},
        {"premise": "You are not rude.", "hypothesis": "You think.", "idx": 1},
        "sentence 1: You are not rude.\nsentence 2: You think.",
        NLI,
    ),
    "qqp": (
        "nyu-mll/glue", "qqp", GLUE,
        {"question1": STRING, "question2": STRING, "label": classes("not_duplicate", "duplicate"), "idx": NUMBER},
        {"question1": "Does God exist?", "question2": "Is there a God?", "idx": 1},
        "first sentence: Does God exist?\nsecond sentence: Is there a God?",
        ("False", "True"),
    ),
    "rte": (
        "nyu-mll/glue", "rte", GLUE,
        {"sentence1": STRING, "sentence2": STRING, "label": classes("entailment", "not_entailment"), "idx": NUMBER},
        {"sentence1": "It rains.", "sentence2": "It is wet.", "idx": 1},
        "sentence 1: It rains.\nsentence 2: It is wet.",
        ("entailment", "contradiction"),
    ),
    "sst2": (
        "nyu-mll/glue", "sst2", GLUE,
        {"sentence": STRING, "label": classes("negative", "positive"), "idx": NUMBER},
        {"sentence": "the intoxicating fumes ", "idx": 1}, "Text: the intoxicating fumes ", ("Bad", "Good"),
    ),
    "wic": (
        "aps/super_glue", "wic", GLUE,
        {"word": STRING, "sentence1": STRING, "sentence2": STRING, "start1": NUMBER, "start2": NUMBER, "end1": NUMBER,
         "end2": NUMBER, "idx": NUMBER, "label": classes(*TWO)},
        {"word": "call", "sentence1": "There was a call.", "sentence2": "His call on a customer.", "start1": 12,
         "start2": 4, "end1": 16, "end2": 8, "idx": 1},
        "word: call\nThere was a call.\nHis call on a customer.",
        TWO,
    ),
    "cb": (
        "aps/super_glue", "cb", GLUE,
        {"premise": STRING, "hypothesis": STRING, "idx": NUMBER,
         "label": classes("entailment", "contradiction", "neutral")},
        {"premise": "Biddy knew they had no way of paying.", "hypothesis": "they could not pay", "idx": 1},
        "sentence 1: Biddy knew they had no way of paying.\nsentence 2: they could not pay",
        ("entailment", "contradiction", "neutral"),
    ),
    "copa": (
        "aps/super_glue", "copa", GLUE,
        {"premise": STRING, "choice1": STRING, "choice2": STRING, "question": STRING, "idx": NUMBER,
         "label": classes("choice1", "choice2")},
        {"premise": "The flashlight was dead.", "choice1": "I took it apart.", "choice2": "I replaced the batteries.",
         "question": "effect", "idx": 1},
        'Which sentence is the effect of "The flashlight was dead."? Choose one between A and B.\n'
        "A: I took it apart.\nB: I replaced the batteries.",
        ("A", "B"),
    ),
    "boolqa": (
        "aps/super_glue", "boolq", GLUE,
        {"question": STRING, "passage": STRING, "idx": NUMBER, "label": classes(*TWO)},
        {"question": "was the color orange named after the fruit", "passage": "Orange (colour) -- The", "idx": 1},
        "question: was the color orange named after the fruit\npassage: Orange (colour) -- The",
        TWO,
    ),
    "multirc": (
        "aps/super_glue", "multirc", GLUE,
        {"paragraph": STRING, "question": STRING, "answer": STRING,
         "idx": {"struct": [{"name": name, "dtype": "int32"} for name in ("paragraph", "question", "answer")]},
         "label": classes(*TWO)},
        {"paragraph": "A river slows down. ", "question": "When is a delta formed?", "answer": "When it is still",
         "idx": {"paragraph": 0, "question": 1, "answer": 2}},
        "paragraph: A river slows down. \nquestion: When is a delta formed?\ncandidate answer: When it is still",
        TWO,
    ),
    "imdb": (
        "stanfordnlp/imdb", "plain_text", ("train", "test", "unsupervised"),
        {"text": STRING, "label": classes("neg", "pos")},
        {"text": "Nothing in this film<br />interested me."}, "Nothing in this film<br />interested me.",
        ("Bad", "Good"),
    ),
}  # fmt: skip

LABEL = {"amazon": "class_index", "yahoo": "topic"}
SECRET = ("test", "test_matched", "unsupervised")
COLUMN = {  # the column that holds most of the text
    "dbpedia": "content", "amazon": "review_text", "yahoo": "best_answer", "agnews": "text", "yelp": "text",
    "mnli": "hypothesis", "qqp": "question2", "rte": "sentence2", "sst2": "sentence", "wic": "sentence2",
    "cb": "hypothesis", "copa": "premise", "boolqa": "passage", "multirc": "answer", "imdb": "text",
}  # fmt: skip


def copy_of_the_hub(folder: Path, names: tuple[str, ...], rounds: int = 2) -> None:
    """The datasets of these tasks: a row of each class, so many times, in each split that has labels."""
    configs: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        dataset, config, splits, features, row, _, labels = SCHEMAS[name]
        place = folder / dataset / config
        place.mkdir(parents=True)
        secret = () if {*splits} == {"train", "test"} else SECRET
        secret = (*secret[1:],) if name == "imdb" else secret
        for split in splits:
            lines = []
            for number in range(rounds * len(labels)):
                text = f"{row[COLUMN[name]]}{f' {split} {number}' if number >= len(labels) or split != 'train' else ''}"
                label = number % len(labels) + (name == "amazon") if split not in secret else -1
                values = {**row, COLUMN[name]: text, LABEL.get(name, "label"): label}
                lines.append(json.dumps({column: values[column] for column in features}) + "\n")
            (place / f"{split}.jsonl").write_text("".join(lines))
        configs.setdefault(dataset, []).append(
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{config}/{split}.jsonl"} for split in splits],
                "features": [{"name": column, **kind} for column, kind in features.items()],
            }
        )
    for dataset, found in configs.items():
        (folder / dataset / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': found}, sort_keys=False)}---\n")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the datasets' names are looked up."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "hub").mkdir()
    monkeypatch.chdir(tmp_path / "hub")
    return tmp_path / "hub"


def test_every_published_task_has_a_source_and_a_test() -> None:
    assert list(HUB_SOURCES) == [task.name for task in CATALOG]
    assert set(SCHEMAS) == set(HUB_SOURCES) == set(COLUMN)
    for name, source in HUB_SOURCES.items():
        assert (source.name, source.config) == SCHEMAS[name][:2]
        assert source.revision is None if name == "amazon" else len(source.revision or "") == 40


@pytest.mark.parametrize("name", SCHEMAS)
def test_rows_and_labels_of_the_real_schema(hub: Path, name: str) -> None:
    copy_of_the_hub(hub, (name,))
    _, config, splits, _, row, text, labels = SCHEMAS[name]
    (task,) = load_tasks([name], "hub:published")
    published = known(name)
    assert published is not None
    assert task.labels == published.labels
    assert task.template.instruction == published.instruction
    # Rows held out for validation are in the order of train.
    train = sorted((*task.train, *task.validation), key=lambda one: int(one.place.removeprefix("train, row ")))
    assert [one.target for one in train] == [*labels, *labels]
    assert [one.text for one in train[: len(labels)]] == [text] * len(labels)
    assert len(task.test) == 2 * len(labels)
    tested = "test" if "validation" not in splits else "validation"
    tested = "validation_matched" if name == "mnli" else tested
    assert task.test[0].text == text.replace(row[COLUMN[name]], f"{row[COLUMN[name]]} {tested} 0")
    assert [one.target for one in task.test] == [*labels, *labels]
    origin = task.source["files"]["test"]
    source = HUB_SOURCES[name]
    assert origin["hub"] == {"name": source.name, "config": config, "revision": source.revision, "split": tested}
    assert "drawn from" not in origin
    assert str(hub) not in json.dumps(dict(task.source))


def test_a_stream_of_the_hub(hub: Path) -> None:
    names = get_stream("order1").tasks
    copy_of_the_hub(hub, names)
    assert [task.name for task in load_tasks(names, "hub:published")] == list(names)
    assert find_tasks("hub:published") == sorted(task.name for task in CATALOG)
    assert load_tasks(["ag_news"], "hub:published")[0].name == "agnews"


def test_as_many_rows_are_drawn_as_the_release_has(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_of_the_hub(hub, ("sst2", "rte"), rounds=30)
    dbpedia, cb = known("dbpedia"), known("cb")
    assert dbpedia is not None
    assert cb is not None
    assert most_rows(dbpedia) == {"train": 14_000, "test": MOST_TESTED}
    assert most_rows(cb)["train"] == 3_000
    monkeypatch.setattr("nacre.tasks.published.hub_sources.PER_LABEL", 20)
    monkeypatch.setattr("nacre.tasks.published.hub_sources.MOST_TESTED", 15)
    (first,), (again,), (other,) = (load_tasks([name], "hub:published") for name in ("sst2", "sst2", "rte"))
    assert (len(first.train) + len(first.validation), len(first.test)) == (40, 15)
    assert first.source["files"]["train"]["drawn from"] == 60
    assert (first.train, first.test) == (again.train, again.test)
    numbers = [[int(row.place.removeprefix("validation, row ")) for row in task.test] for task in (first, other)]
    assert all(found == sorted(set(found)) for found in numbers)
    assert numbers[0] != numbers[1]
    assert set(numbers[0]) != set(range(1, 16))  # not the first ones
    for row, number in zip(first.test, numbers[0], strict=True):
        assert row.text.endswith(f"validation {number - 1}")


def test_what_is_wrong_with_a_dataset_is_named(hub: Path) -> None:
    with pytest.raises(DataError, match=r"hub:published has no task 'dbpedai'\. Did you mean dbpedia"):
        load_tasks(["dbpedai"], "hub:published")
    with pytest.raises(DataError, match=r"hub:published has no task 'FOMC'"):
        load_tasks(["FOMC"], "hub:published")
    copy_of_the_hub(hub, ("sst2", "cb"))
    card = hub / "nyu-mll/glue/README.md"
    card.write_text(card.read_text().replace("name: sentence", "name: text"))
    for file in (hub / "nyu-mll/glue/sst2").iterdir():
        file.write_text(file.read_text().replace('"sentence"', '"text"'))
    with pytest.raises(DataError, match=r"hub:nyu-mll/glue@bcd.*, sst2: there is no column 'sentence'"):
        load_tasks(["sst2"], "hub:published")
    rows = (hub / "aps/super_glue/cb/validation.jsonl").read_text().replace('"label": 2', '"label": -1', 1)
    (hub / "aps/super_glue/cb/validation.jsonl").write_text(rows)
    with pytest.raises(DataError, match=r"cb, split validation, row 3: field 'label' must be .* not null"):
        load_tasks(["cb"], "hub:published")


def test_a_leak_on_the_hub_is_found(nacre: Call, hub: Path) -> None:
    copy_of_the_hub(hub, ("cb",))
    place = hub / "aps/super_glue/cb"
    with (place / "validation.jsonl").open("a") as file:
        file.write((place / "train.jsonl").read_text().splitlines()[4] + "\n")
    said = nacre("check", "hub:published", "--stream", "cb", "--json")
    assert said.code == 0, said.err
    [leak] = [finding for finding in json.loads(said.out)["findings"] if finding["kind"] == "leak"]
    assert leak["rows"] == [["validation, row 7", "train, row 5"]]


def test_offline_without_a_cache(nacre: Call, hub: Path) -> None:
    """The tests are offline (conftest.py), and nothing lies in this folder."""
    said = nacre("check", "hub:published", "--stream", "dbpedia")
    assert_one_line_error(
        said,
        "hub:fancyzhx/dbpedia_14@9abd46cf7fc8b4c64290f26993c540b92aa145ac cannot be loaded: Couldn't reach",
        'has not been downloaded before. Run once with a network: python -c "import datasets; datasets.load_dataset('
        "'fancyzhx/dbpedia_14', 'dbpedia_14', revision='9abd46cf7fc8b4c64290f26993c540b92aa145ac')\".",
    )
    command = said.err.split('python -c "')[1].removesuffix('".\n')
    compile(command, "command", "exec")  # it can be copied as it stands
    assert_one_line_error(nacre("check", "hub:someone/something"), "datasets.load_dataset('someone/something')\"")
