"""Hard streams: which rows each task has, by plain loops over tiny files, and runs in every family of hosts."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

import pytest

from helpers.command import Call
from helpers.release import ROWS, SHORT, write_release
from nacre.errors import DataError
from nacre.evaluation.scoring import normalize
from nacre.events import StageStarted, ignore
from nacre.learning.settings import Optim
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.checking.findings import check_stream
from nacre.tasks.content import task_content
from nacre.tasks.making.bare_prompt import BarePrompt
from nacre.tasks.making.made_task import MadeTask
from nacre.tasks.making.news_agency import AGENCIES, AskedForAgency, agency_of
from nacre.tasks.making.rewording import WORDINGS, RewordedTests
from nacre.tasks.making.some_classes import Deal, SomeClasses
from nacre.tasks.published.catalog import CATALOG, INSTRUCTIONS, known
from nacre.tasks.published.streams import STREAMS, get_stream
from nacre.tasks.reading.sources import load_tasks
from nacre.tasks.reading.stream_file import load_stream
from nacre.tasks.task import SPLITS, Row, Task
from nacre.tasks.template import Template

MADE = ("text_only", "reworded", "conflict", "conflict_text_only", "split_classes", "split_classes_28", "fifty")
LABEL_WORDS = sorted(
    {word for task in CATALOG for label in task.labels for word in re.findall(r"\w+|&", label)} | set(AGENCIES)
)
Model = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def published(folder: Path) -> dict[str, Task]:
    return {task.name: task for task in load_tasks([task.name for task in CATALOG], folder)}


def loaded(stream: str, folder: Path) -> list[Task]:
    return load_stream(stream, str(folder))


def texts(rows: Iterable[Row]) -> list[str]:
    return [row.text for row in rows]


def rows_of(task: Task) -> list[tuple[str, Row]]:
    return [(split, row) for split in SPLITS for row in task.rows(split)]


# All of them.


def test_names() -> None:
    assert set(MADE) == {stream.name for stream in STREAMS.values() if stream.made}
    for name in MADE:
        stream = get_stream(name)
        assert len(set(stream.tasks)) == len(stream.tasks) == len(stream.made)
        for made in stream.made:
            assert known(made.of) is not None
            assert made.name == made.of or known(made.name) is None  # no alias of a published task


@pytest.mark.parametrize("name", MADE)
def test_tasks_are_those_that_are_listed_and_the_same_ones_again(folder: Path, name: str) -> None:
    tasks = loaded(name, folder)
    assert [task.name for task in tasks] == list(get_stream(name).tasks)
    assert [task_content(task) for task in tasks] == [task_content(task) for task in loaded(name, folder)]


def test_the_order_of_lines_changes_no_choice(folder: Path, tmp_path: Path) -> None:
    for task in CATALOG:
        place = tmp_path / task.name
        place.mkdir()
        (place / "task.json").write_text((folder / task.name / "task.json").read_text())
        for split in SPLITS:
            lines = (folder / task.name / f"{split}.jsonl").read_text().splitlines()
            (place / f"{split}.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    for name in ("conflict", "fifty"):
        for task, other in zip(loaded(name, folder), loaded(name, tmp_path), strict=True):
            for split in SPLITS:
                assert list(task.rows(split)) == list(reversed(other.rows(split)))


def test_the_protocol_says_how_a_task_is_made_and_nothing_of_a_published_one(folder: Path) -> None:
    _, topic, _, agency, _ = loaded("conflict", folder)
    balanced = "as many articles of Reuters and of AP as of neither, in every topic"
    assert task_content(topic)["made"] == {"of": "agnews", "by": [balanced]}
    assert task_content(agency)["made"] == {"of": "agnews", "by": [balanced, "asked for the news agency"]}
    assert agency.source["made"]["source"]["files"]["train"]["sha256"]
    for task in (*loaded("order1", folder), *loaded("drift", folder)):
        assert "made" not in task_content(task)


def test_what_was_read_is_named_once(folder: Path, tmp_path: Path) -> None:
    write_release(tmp_path, tasks=[task for task in CATALOG if task.name in ("dbpedia", "yahoo", "agnews")])
    file = tmp_path / "yahoo" / "train.jsonl"
    lines = [{**json.loads(line), "author": "me"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    findings = check_stream(loaded("split_classes", tmp_path), normalize)["findings"]
    (unread,) = [finding for finding in findings if finding["kind"] == "unread"]
    assert unread["tasks"] == ["yahoo"]
    assert [finding["kind"] for finding in check_stream(loaded("split_classes", folder), normalize)["findings"]] == [
        "identity"
    ]


def test_a_copy_of_the_test_rows_is_named_for_the_task_that_was_read(tmp_path: Path) -> None:
    write_release(tmp_path, tasks=[task for task in CATALOG if task.name in ("dbpedia", "amazon", "yahoo", "agnews")])
    for name, backwards in (("yahoo", False), ("amazon", True)):
        lines = (tmp_path / name / "test.jsonl").read_text().splitlines()
        (tmp_path / name / "validation.jsonl").write_text("\n".join(lines[::-1] if backwards else lines) + "\n")

    def sentences(stream: str) -> list[str]:
        findings = check_stream(loaded(stream, tmp_path), normalize)["findings"]
        return [finding["sentence"] for finding in findings if finding["kind"] == "identical"]

    of_yahoo, of_amazon = expected = sentences("order1")
    assert "of 'yahoo' (test.jsonl) are the same file, byte by byte; nacre ignores validation" in of_yahoo
    assert "of 'amazon' (test.jsonl) hold the same rows; nacre ignores validation" in of_amazon
    for stream in ("text_only", "reworded", "conflict"):
        assert sentences(stream) == expected
    assert sentences("split_classes") == [of_yahoo]


# Bare texts, other words.


def test_text_only_has_the_rows_of_order_1_and_nothing_around_them_but_the_cue(
    folder: Path, published: dict[str, Task]
) -> None:
    tasks = loaded("text_only", folder)
    assert [task.name for task in tasks] == ["dbpedia", "amazon", "yahoo", "agnews"]
    for task in tasks:
        assert rows_of(task) == rows_of(published[task.name])
        assert task.labels == published[task.name].labels
        assert task.limited(5, 3).test == published[task.name].limited(5, 3).test
        for split in SPLITS:
            for example, row in zip(task.examples(split), task.rows(split), strict=True):
                assert example.input == f"{row.text}\nAnswer:"
    (identity,) = check_stream(tasks, normalize)["findings"]
    assert identity["sentence"] == "dbpedia, amazon, yahoo, agnews share the whole prompt."


def test_reworded_has_the_training_prompts_of_order_1_and_five_others_at_test(
    folder: Path, published: dict[str, Task]
) -> None:
    for task in loaded("reworded", folder):
        base = published[task.name]
        assert rows_of(task) == rows_of(base)
        assert task.examples("train") == base.examples("train")
        assert task.examples("validation") == base.examples("validation")
        options = f"Possible answers: {', '.join(base.labels or ())} \n"
        expected = {f"{wording}\n{options}" for wording in WORDINGS[base.template.instruction]}
        assert len(expected) == 5
        assert {example.before for example in task.examples("test")} == expected
        assert {example.after for example in task.examples("test")} == {"\nAnswer:"}


def test_validation_rows_in_the_place_of_test_rows_are_asked_in_the_words_of_training(folder: Path) -> None:
    recipe = Recipe(method="seq_lora", stream="reworded", data=str(folder), model="t5-small", measure_on="validation")
    for task, reworded in zip(recipe.tasks(), loaded("reworded", folder), strict=True):
        assert task.examples("test") == reworded.examples("validation")


def test_no_wording_is_another_ones() -> None:
    assert set(WORDINGS) == {INSTRUCTIONS["SC"], INSTRUCTIONS["TC"]}
    wordings = [*WORDINGS, *(wording for own in WORDINGS.values() for wording in own)]
    assert len(set(wordings)) == 12
    assert not any("option" in wording.lower() for own in WORDINGS.values() for wording in own)


def test_an_instruction_of_ones_own_has_no_other_wordings(folder: Path) -> None:
    task = Task("dbpedia", (), (), (), Template("Which kind?"), ("A",))
    with pytest.raises(DataError, match=r"^Task 'dbpedia': there are other wordings .* not for 'Which kind\?'\.$"):
        MadeTask("dbpedia", "dbpedia", (RewordedTests(),)).make(task)


def test_drift_is_two_and_two_tasks_with_one_prompt(folder: Path) -> None:
    tasks = loaded("drift", folder)
    assert [task.name for task in tasks] == ["yelp", "amazon", "imdb", "sst2"]
    frames = [task.template.example("", "", task.labels) for task in tasks]
    assert frames[0] == frames[1] != frames[2] == frames[3]


# Conflict.


@pytest.mark.parametrize(
    ("text", "agency"),
    [
        ("Text:  NEW YORK (Reuters) - Oil fell.", "Reuters"),
        ("Text: Reuters - Oil fell.", "Reuters"),
        ("Title: Oil (AP)\nText: AP - Oil fell.", "AP"),
        ("Text: LONDON (AP) -- Oil fell.", "AP"),
        ("Text: LONDON - Oil fell.", "None"),
        ("Text: LONDON (AFP) - Oil fell.", None),
        ("Text: The MAP of the APs.", "None"),
        ("Text: AP - Oil fell, AFP said.", None),
        ("Text: Oil fell, Reuters reports.", None),
        ("Text: Oil fell, the Associated Press said.", None),
        ("Text: my AP English class", None),
        ("Text: (CBS/AP) Oil fell.", None),
        ("Text: (REUTERS) - Oil fell.", None),
        ("Text: AP - Oil fell, Reuters said.", None),
        ("Text: http://investor.reuters.com", None),
    ],
)
def test_the_rule_for_agencies(text: str, agency: str | None) -> None:
    assert agency_of(text) == agency


@pytest.mark.parametrize("name", ["conflict", "conflict_text_only"])
def test_conflict_asks_the_same_articles_twice(folder: Path, published: dict[str, Task], name: str) -> None:
    first, topic, second, agency, third = loaded(name, folder)
    assert [first.name, second.name, third.name] == ["dbpedia", "amazon", "yahoo"]
    for task in (first, second, third):
        assert rows_of(task) == rows_of(published[task.name])
    base = {row.text: row.target for _, row in rows_of(published["agnews"])}
    for train, test in ((None, None), (7, 5)):
        for split in SPLITS:
            asked, again = (texts(task.limited(train, test).rows(split)) for task in (topic, agency))
            assert asked == again
    for split in SPLITS:
        assert texts(topic.rows(split)) == [
            row.text for row in published["agnews"].rows(split) if row in topic.rows(split)
        ]
        assert all(row.target == base[row.text] for row in topic.rows(split))
        assert all(row.target == agency_of(row.text) for row in agency.rows(split))
        # Of each agency as many as of the rarest one, in every topic: no more could be had.
        table = Counter(zip(*([row.target for row in task.rows(split)] for task in (topic, agency)), strict=True))
        there = Counter((row.target, agency_of(row.text)) for row in published["agnews"].rows(split))
        for label in published["agnews"].labels or ():
            fewest = min(there[label, other] for other in ("Reuters", "AP", "None"))
            assert {table[label, other] for other in ("Reuters", "AP", "None")} == {fewest}
            assert fewest >= 2
    assert agency.labels == ("Reuters", "AP", "None")


def test_the_question_is_in_the_prompt_or_nowhere(folder: Path) -> None:
    for name, asked in (("conflict", True), ("conflict_text_only", False)):
        _, topic, _, agency, _ = loaded(name, folder)
        prompts = [task.examples("test")[0] for task in (topic, agency)]
        assert (prompts[0].input != prompts[1].input) == asked
        assert prompts[0].text == prompts[1].text
    *_, agency, _ = loaded("conflict", folder)
    question = "What is the news agency of the following paragraph? Choose one from the option."
    assert agency.examples("test")[0].before == f"{question}\nOption: Reuters, AP, None \n"


def test_a_check_of_conflict_finds_the_two_tasks_and_no_leak(folder: Path) -> None:
    findings = check_stream(loaded("conflict", folder), normalize)["findings"]
    overlaps = [finding for finding in findings if finding["kind"] == "overlap"]
    assert [finding["tasks"] for finding in overlaps] == [["agnews_topic", "agnews_agency"]] * 3
    assert not [finding for finding in findings if finding["kind"] in ("leak", "identical")]


def test_news_without_agencies_is_refused(folder: Path, tmp_path: Path) -> None:
    write_release(tmp_path, tasks=[task for task in CATALOG if task.name in ("dbpedia", "amazon", "yahoo", "agnews")])
    file = tmp_path / "agnews" / "test.jsonl"
    file.write_text(file.read_text().replace("(Reuters) -", "").replace("AP -", ""))
    with pytest.raises(DataError) as caught:
        loaded("conflict", tmp_path)
    assert str(caught.value) == (
        "Task 'agnews_topic': no topic of the test rows has articles of Reuters, of AP and of neither, by their "
        "datelines."
    )


def test_the_agency_is_asked_only_where_it_is_known() -> None:
    rows = (Row("AP - a", "x"), Row("b, Reuters said", "x", ("y",)), Row("c", "x", ("y",)))
    task = AskedForAgency().apply(Task("t", rows, rows, rows, Template(), ("x",)))
    assert task.train == (Row("AP - a", "AP"), Row("c", "None"))


# Classes.


@pytest.mark.parametrize(("name", "size"), [("split_classes", 2), ("split_classes_28", 1)])
def test_split_classes_parts_the_rows_by_class(folder: Path, published: dict[str, Task], name: str, size: int) -> None:
    tasks = loaded(name, folder)
    assert len(tasks) == 28 / size
    expected = [
        (of, (published[of].labels or ())[start : start + size])
        for of in ("dbpedia", "yahoo", "agnews")
        for start in range(0, len(published[of].labels or ()), size)
    ]
    assert [(task.source["made"]["of"], task.labels) for task in tasks] == expected
    for task, (of, labels) in zip(tasks, expected, strict=True):
        assert rows_of(task) == [(split, row) for split, row in rows_of(published[of]) if row.target in labels]
        assert task.examples("test")[0].input == f"{task.test[0].text}\nAnswer:"


def test_a_check_says_what_one_label_means(folder: Path) -> None:
    findings = check_stream(loaded("split_classes_28", folder), normalize)["findings"]
    (one,) = [finding for finding in findings if finding["kind"] == "labels"]
    assert one["count"] == 28
    assert one["sentence"].startswith("28 of 28 tasks have one label ('dbpedia_class_1', ")
    assert one["sentence"].endswith("(decode=labels, head=per_task) is right whatever the text.")


def test_fifty_parts_all_rows_and_has_no_text_twice(folder: Path, published: dict[str, Task]) -> None:
    tasks = loaded("fifty", folder)
    assert len(tasks) == 50
    made = [(task.source["made"]["of"] if "made" in task.source else task.name, task) for task in tasks]
    for task in CATALOG:
        parts = [row for of, part in made if of == task.name for row in rows_of(part)]
        assert len(parts) == len(rows_of(published[task.name]))
        assert set(parts) == set(rows_of(published[task.name]))
    of_text = Counter(row.text for task in tasks for _, row in rows_of(task))
    assert set(of_text.values()) == {1}


def test_the_tasks_of_fifty(folder: Path, published: dict[str, Task]) -> None:
    every = {of: set(combinations(published[of].labels or (), 2)) for of in ("agnews", "amazon", "yelp", "mnli")}
    for of in ("dbpedia", "yahoo"):
        labels = published[of].labels or ()
        every[of] = {(labels[index], labels[index + 1]) for index in range(0, len(labels), 2)}
    tasks = loaded("fifty", folder)
    pairs = [task for task in tasks if "made" in task.source]
    assert {(task.source["made"]["of"], task.labels) for task in pairs} == {
        (of, pair) for of, own in every.items() for pair in own
    }
    whole = [task for task in tasks if "made" not in task.source]
    assert [task_content(task) for task in whole] == [
        task_content(published[task.name]) for task in CATALOG if task.name not in every
    ]
    for task in pairs:
        base = published[task.source["made"]["of"]].template.instruction
        assert task.examples("test")[0].before == f"{base}\nOption: {', '.join(task.labels or ())} \n"
    # A task of each published one in turn.
    turns = [task.source["made"]["of"] if "made" in task.source else task.name for task in tasks]
    assert turns[:15] == [task.name for task in CATALOG]
    assert turns[15:21] == [of for of in turns[:15] if of in every]


def test_rows_of_one_text_stay_together() -> None:
    first, second = (Deal("x", part, 2) for part in range(2))
    for number in range(20):
        rows = [Row(text, "x") for text in (f"the cat {number}", f"The  cat, {number}!")]
        assert [first.has(row) for row in rows] in ([True, True], [False, False])
        assert all(first.has(row) != second.has(row) for row in rows)
        assert not first.has(Row(rows[0].text, "y"))


def test_a_class_that_the_rows_do_not_have_is_refused() -> None:
    task = Task("mine", (), (), (), Template(), ("a", "b"))
    with pytest.raises(DataError, match=r"^Task 'part' is made of the label 'c', which .* lacks \(a, b\)\.$"):
        MadeTask("part", "mine", (SomeClasses((Deal("a"), Deal("c"))),)).make(task)


def test_texts_without_labels_are_refused() -> None:
    task = Task("mine", (), (), (), Template())
    with pytest.raises(
        DataError, match=r"^Task 'part' is made of 'mine', .* here they are texts without a label set\.$"
    ):
        MadeTask("part", "mine", (BarePrompt(),)).make(task)


# The command line.


def test_a_stream_is_listed_with_its_making(nacre: Call) -> None:
    said = nacre("streams", "conflict").out
    assert "agnews_agency: agnews; as many articles" in said
    (stream,) = json.loads(nacre("streams", "conflict", "--json").out)
    assert list(stream["made"]) == stream["tasks"]
    assert stream["made"]["agnews_topic"].startswith("agnews; ")
    (stream,) = json.loads(nacre("streams", "order1", "--json").out)
    assert "made" not in stream


def test_a_leak_in_the_rows_is_found_where_it_goes(nacre: Call, tmp_path: Path) -> None:
    write_release(tmp_path, tasks=[task for task in CATALOG if task.name in ("dbpedia", "yahoo", "agnews")])
    train, test = (tmp_path / "yahoo" / f"{split}.jsonl" for split in ("train", "test"))
    train.write_text(train.read_text() + test.read_text().splitlines()[4] + "\n")
    said = nacre("check", tmp_path, "--stream", "split_classes", "--strict", "--json")
    assert said.code == 1
    leaks = [finding for finding in json.loads(said.out)["findings"] if finding["kind"] == "leak"]
    assert [(leak["tasks"], leak["count"]) for leak in leaks] == [(["yahoo_classes_5_6"], 1)]


def test_a_dry_run_counts_the_rows(nacre: Call, folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    said = nacre(
        *("run", "--method", "seq_lora", "--stream", "split_classes", "--data", folder, "--model", tiny_model("t5")),
        *("--output", tmp_path / "run", "--dry-run", "--json"),
    )
    assert said.code == 0, said.err
    plan = json.loads(said.out)
    assert [stage["tasks"] for stage in plan["stages"]] == [[name] for name in get_stream("split_classes").tasks]
    assert {stage["rows"] for stage in plan["stages"]} == {2 * ROWS["train"]}


@pytest.mark.parametrize(
    ("stream", "architecture"),
    [
        *((name, architecture) for name in MADE[:4] for architecture in ("t5", "llama", "roberta")),
        *(("split_classes_28", architecture) for architecture in ("t5", "llama", "roberta")),
        ("split_classes", "llama"),
        ("drift", "roberta"),
        ("fifty", "t5"),
    ],
)
def test_runs(stream: str, architecture: str, folder: Path, tmp_path: Path, tiny_model: Model) -> None:
    data = folder
    if stream in MADE[:4]:  # label sets that leave room in 64 tokens
        data = write_release(tmp_path / "data", labels=SHORT)
    recipe = Recipe(
        method="nearest_mean" if stream == "fifty" else "seq_lora",
        stream=stream,
        data=str(data),
        model=str(tiny_model(architecture, *LABEL_WORDS)),
        output=str(tmp_path / "run"),
        limit_train=4,
        limit_test=2,
        matrix="last",
        optim=Optim(batch_size=4, max_source_length=64, max_target_length=6),
    )
    record = run(recipe, ignore)
    assert record.tasks == list(get_stream(stream).tasks)
    assert all(score is not None and 0 <= score <= 1 for score in record.matrix[-1])
    bases = [made.of for made in get_stream(stream).made] or record.tasks
    assert [task.get("made", {}).get("of", task["name"]) for task in record.protocol["tasks"]] == bases


def test_a_run_that_lost_its_last_task_goes_on_with_the_same_rows(
    folder: Path, tmp_path: Path, tiny_model: Model
) -> None:
    recipe = Recipe(
        method="seq_lora",
        stream="conflict_text_only",
        data=str(folder),
        model=str(tiny_model("roberta")),
        output=str(tmp_path / "run"),
        limit_train=8,
        limit_test=6,
        optim=Optim(batch_size=4, max_source_length=64),
    )
    first = run(recipe, ignore)
    shutil.rmtree(tmp_path / "run" / "tasks" / "05-yahoo")
    for written in ("results.json", "report.html"):
        (tmp_path / "run" / written).unlink()
    events: list[object] = []
    again = run(recipe, events.append)
    assert again.matrix == first.matrix
    assert again.protocol == first.protocol
    assert [event.name for event in events if isinstance(event, StageStarted)] == ["yahoo"]
