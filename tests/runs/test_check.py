"""``nacre check``: planted leaks, repeats, labels and long texts are found, by name; clean data has none."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.command import Call, assert_one_line_error, one_line
from helpers.tiny import tiny_host, tiny_task, write_task
from nacre.evaluation.scoring import normalize
from nacre.tasks.checking.finding import FINDING_KINDS
from nacre.tasks.checking.findings import check_stream, label_findings
from nacre.tasks.checking.overlap import Texts, content, forms
from nacre.tasks.checking.prompts import prompts
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

Lines = list[dict[str, str]]

HINT = "The metric exact_string compares letter by letter."

WORDS = "amber birch cloud delta ember frost grove heron inlet jetty".split()


def lines(split: str, count: int) -> Lines:
    """Rows of which no two have the same words."""
    return [
        {"text": f"{split} {WORDS[n % 10]} and {WORDS[n // 10]}, then more", "label": "yes" if n % 2 else "no"}
        for n in range(count)
    ]


def write(folder: Path, name: str, train: Lines, test: Lines, validation: Lines | None = None, **card: Any) -> None:
    place = folder / name
    place.mkdir(parents=True)
    validation = lines(f"validation {name}", 6) if validation is None else validation
    for split, rows in (("train", train), ("test", test), ("validation", validation)):
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "task.json").write_text(json.dumps({"labels": ["yes", "no"], **card}))


def found(nacre: Call, *arguments: object) -> dict[str, Any]:
    said = nacre("check", *arguments, "--json")
    assert said.code == 0, said.err
    result: dict[str, Any] = json.loads(said.out)
    return result


def of(result: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    return [finding for finding in result["findings"] if finding["kind"] in kinds]


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Two tasks without anything odd but their prompts."""
    for name in ("one", "two"):
        write(tmp_path / "clean", name, lines(f"train {name}", 40), lines(f"test {name}", 20), instruction=f"{name}?")
    return tmp_path / "clean"


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Five train rows stand in test: three as they are, one in other letters, one with another label."""
    train, test = lines("train", 40), lines("test", 20)
    test[2], test[3], test[4] = train[10], train[11], train[12]
    test[7] = {"text": train[20]["text"].upper().replace(",", " ;"), "label": train[20]["label"]}
    test[9] = {"text": train[21]["text"] + "  ", "label": "no"}
    assert train[21]["label"] == "yes"
    write(tmp_path / "leaky", "birds", train, test)
    return tmp_path / "leaky"


# Leaks.


def test_planted_rows_are_named(nacre: Call, leaky: Path) -> None:
    [leak] = of(found(nacre, leaky), "leak")
    assert (leak["tasks"], leak["count"]) == (["birds"], 5)
    assert leak["sentence"] == (
        "5 of 20 rows in test of 'birds' have the text of a row in train of 'birds' (4 letter by letter, 4 with the "
        "same target)."
    )
    assert leak["rows"] == [
        [f"test.jsonl, line {test}", f"train.jsonl, line {train}"]
        for test, train in ((3, 11), (4, 12), (5, 13), (8, 21), (10, 22))
    ]
    said = nacre("check", leaky)
    assert said.code == 0
    assert "test.jsonl, line 8 = train.jsonl, line 21" in said.out


def test_strict_exits_with_1_on_a_leak_only(nacre: Call, leaky: Path, clean: Path) -> None:
    said = nacre("check", leaky, "--strict")
    assert said.code == 1
    assert said.err == ""
    assert "test.jsonl, line 3 = train.jsonl, line 11" in said.out
    assert nacre("check", leaky, "--strict", "--json").code == 1
    said = nacre("check", clean, "--strict")
    assert said.code == 0
    assert "leak: test rows that the model trains on" in said.out


def test_clean_tasks_have_nothing_but_their_prompts(nacre: Call, clean: Path) -> None:
    result = found(nacre, clean)
    assert {finding["kind"] for finding in result["findings"]} == {"identity"}
    assert result["schema"] == "nacre.checks/2"
    assert result["tasks"]["one"]["test rows in train"] == 0


def test_a_leak_between_tasks(nacre: Call, clean: Path) -> None:
    rows = [json.loads(line) for line in (clean / "two" / "test.jsonl").read_text().splitlines()]
    train = lines("train three", 40)
    train[5], train[6] = rows[0], rows[1]
    write(clean, "three", train, lines("test three", 20))
    result = found(nacre, clean)
    [leak] = of(result, "leak")
    assert leak["tasks"] == ["two", "three"]
    assert leak["sentence"].startswith("2 of 20 rows in test of 'two' have the text of a row in train of 'three' ")
    assert leak["rows"][0] == ["test.jsonl, line 1", "train.jsonl, line 6"]
    assert result["test rows that another task trains on"] == {"two in three": 2}
    assert of(found(nacre, clean, "--stream", "one,two"), "leak") == []


def test_overlaps_that_are_no_leaks(nacre: Call, clean: Path) -> None:
    shutil.copytree(clean / "one", clean / "copy")
    result = found(nacre, clean)
    kinds = {(finding["kind"], finding["sentence"].split(" have ")[0]) for finding in of(result, "leak", "overlap")}
    assert ("overlap", "20 of 20 rows in test of 'copy'") in kinds  # tested twice
    assert ("overlap", "40 of 40 rows in train of 'copy'") in kinds  # trained twice
    assert {kind for kind, _ in kinds} == {"overlap"}
    same = [finding["sentence"] for finding in of(result, "identical")]
    assert same == [
        f"{split} of 'copy' ({split}.jsonl) and {split} of 'one' ({split}.jsonl) are the same file, byte by byte."
        for split in ("train", "validation", "test")
    ]


def test_validation_rows_in_test_are_a_leak_and_in_train_an_overlap(nacre: Call, tmp_path: Path) -> None:
    train, test, validation = lines("train", 40), lines("test", 20), lines("validation", 6)
    validation[0], validation[1] = test[3], train[7]
    write(tmp_path / "d", "birds", train, test, validation)
    result = found(nacre, tmp_path / "d")
    [leak] = of(result, "leak")
    assert leak["rows"] == [["test.jsonl, line 4", "validation.jsonl, line 1"]]
    [overlap] = of(result, "overlap")
    assert overlap["rows"] == [["validation.jsonl, line 2", "train.jsonl, line 8"]]


# The published layout.


def publish(folder: Path, dev: Lines | None = None) -> Path:
    """CL_Benchmark as released: dev.json is test.json."""
    place = folder / "CL_Benchmark" / "SC" / "SST-2"
    place.mkdir(parents=True)
    rows = {
        split: [
            {"sentence": row["text"], "label": "Good" if row["label"] == "yes" else "Bad"} for row in lines(split, n)
        ]
        for split, n in (("train", 40), ("test", 20))
    }
    for split, content_of in (("train", rows["train"]), ("test", rows["test"]), ("dev", dev or rows["test"])):
        (place / f"{split}.json").write_text(json.dumps(content_of))
    (place / "labels.json").write_text(json.dumps(["Good", "Bad"]))
    return folder


def test_dev_equals_test_in_the_published_layout(nacre: Call, tmp_path: Path) -> None:
    result = found(nacre, publish(tmp_path))
    [same] = of(result, "identical")
    assert same["sentence"] == (
        "validation of 'sst2' (dev.json) and test of 'sst2' (test.json) are the same file, byte by byte; nacre ignores "
        "validation and holds rows out of train instead."
    )
    # What nacre does about it leaves nothing that leaks.
    assert of(result, "leak", "overlap") == []
    assert nacre("check", tmp_path, "--strict").code == 0


def test_planted_rows_are_named_in_the_published_layout(nacre: Call, tmp_path: Path) -> None:
    place = publish(tmp_path) / "CL_Benchmark" / "SC" / "SST-2"
    train, test = (json.loads((place / f"{split}.json").read_text()) for split in ("train", "test"))
    for split in ("test", "dev"):
        (place / f"{split}.json").write_text(json.dumps(test + train[10:15]))
    result = found(nacre, tmp_path)
    [same] = of(result, "identical")
    assert "validation of 'sst2' (dev.json) and test of 'sst2' (test.json) are the same file" in same["sentence"]
    [leak] = of(result, "leak")
    assert leak["rows"] == [[f"test.json, row {20 + n}", f"train.json, row {10 + n}"] for n in range(1, 6)]


def test_dev_equals_test_in_another_order(nacre: Call, tmp_path: Path) -> None:
    rows = [{"label": "Good" if row["label"] == "yes" else "Bad", "sentence": row["text"]} for row in lines("test", 20)]
    [same] = of(found(nacre, publish(tmp_path, dev=rows[::-1])), "identical")
    assert "hold the same rows; nacre ignores validation" in same["sentence"]


def test_test_equals_train(nacre: Call, tmp_path: Path) -> None:
    place = publish(tmp_path) / "CL_Benchmark" / "SC" / "SST-2"
    shutil.copy(place / "train.json", place / "test.json")
    result = found(nacre, tmp_path)
    [same] = of(result, "identical")
    assert same["sentence"].startswith("train of 'sst2' (train.json) and test of 'sst2' (test.json) are the same file")
    assert of(result, "leak")
    assert nacre("check", tmp_path, "--strict").code == 1


# What is compared.


def test_forms_of_a_text() -> None:
    exact, normal = forms("Don't  stop:\n1 + 2 < 4!")
    assert forms("Don't stop: 1 + 2 < 4!")[0] == exact  # white space
    assert forms("don't stop: 1 + 2 < 4!")[0] != exact
    for same in ("DO N'T STOP 1+2<4", "dont stop — 1 + 2 < 4 …", "Don\uff07t stop: \uff11 + 2 < 4"):
        assert forms(same)[1] == normal, same
    for other in ("Don't stop: 1 = 2 < 4!", "Don't stop: 1 + 2 > 4", "Don't stop: 1 + 3 < 4"):
        assert forms(other)[1] != normal, other
    assert forms("?!")[1] != forms("!?")[1] != forms("")[1]


def naive(here: tuple[Row, ...], there: tuple[Row, ...]) -> tuple[int, int]:
    """Overlap by comparing every row with every row."""
    pairs = [[(forms(a.text), forms(b.text)) for b in there] for a in here]
    return (
        sum(any(a[1] == b[1] for a, b in row) for row in pairs),
        sum(any(a == b for a, b in row) for row in pairs),
    )


def test_overlaps_agree_with_comparing_every_pair() -> None:
    def made(prefix: int, count: int, split: str) -> tuple[Row, ...]:
        return tuple(
            Row(("Row %d!" if (n * prefix) % 3 else "row  %d") % (n * prefix % 17), "ab"[n % 2]) for n in range(count)
        )

    tasks = [
        Task(name, made(a, 30, "train"), made(a + 1, 9, "validation"), made(a + 2, 12, "test"), Template())
        for name, a in (("one", 2), ("two", 5))
    ]
    texts = Texts(tasks)
    pairs = [(here, there) for here in texts.rows for there in texts.rows if here != there]
    assert len(pairs) == 30
    for here, there in pairs:
        overlap = texts.overlap(here, there)
        counts = (overlap.rows, overlap.exact) if overlap else (0, 0)
        assert counts == naive(texts.rows[here], texts.rows[there])
        assert ((here, there) in texts.shared()) == (overlap is not None)


def test_repeats() -> None:
    rows = (Row("a b", "x"), Row("A, b", "x"), Row("a  b", "y"), Row("c", "x"))
    found = Texts([Task("t", rows, (), (), Template())]).repeats(("t", "train"))
    assert found is not None
    assert (found.size, found.rows, found.exact, found.contradicting) == (4, 2, 1, 1)
    assert found.examples == (("train, row 2", "train, row 1"), ("train, row 3", "train, row 1"))


def test_content_knows_rows_and_not_their_order() -> None:
    rows = [Row("a", "x"), Row("b", "y"), Row("b", "y")]
    assert content(rows) == content(rows[::-1])
    assert len({content(rows), content(rows[:2]), content([Row("a", "y"), Row("b", "x"), Row("b", "y")])}) == 3
    assert content([Row("a", "x", place="line 1")]) == content([Row("a", "x", place="line 2")])


# Labels.


def labelled(labels: tuple[str, ...], train: str, test: str) -> Task:
    def rows(split: str, targets: str) -> tuple[Row, ...]:
        return tuple(Row(f"{split} {number}", label) for number, label in enumerate(targets.split()))

    return Task("t", rows("a", train), (), rows("b", test), Template(), labels)


def test_labels() -> None:
    task = labelled(("A", "B", "C", "D"), "A B B", "A C")
    sentences = [finding.sentence for finding in label_findings(task, normalize)]
    assert sentences == [
        "labels 'D' of 't' are in the label set, but no row has them.",
        "labels 'C' of 't' are in test but never in train.",
        "labels 'B' of 't' are in train but never in test.",
    ]
    same = labelled(("Good!", "good", "-", "bad"), "Good! good - bad", "Good! good - bad")
    assert [finding.sentence for finding in label_findings(same, normalize)] == [
        "labels 'Good!', 'good' of 't' become 'good' when answers are compared; no run accepts them. " + HINT,
        "labels '-' of 't' become nothing when answers are compared; no run accepts them. " + HINT,
    ]
    assert list(label_findings(labelled(("A", "B"), "A B", "B A"), normalize)) == []


def test_labels_that_no_run_takes_are_shown_and_no_error(nacre: Call, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": row["label"]} for row in lines("train", 40)]
    write(tmp_path / "d", "birds", rows, lines("test", 20), labels=["yes", "no", "No."])
    sentences = [finding["sentence"] for finding in of(found(nacre, tmp_path / "d"), "labels")]
    assert (
        "labels 'no', 'No.' of 'birds' become 'no' when answers are compared; no run accepts them. " + HINT in sentences
    )


# Prompts.


def prompt_task(name: str, instruction: str, labels: tuple[str, ...] | None, texts: str = "{}", **more: Any) -> Task:
    rows = tuple(Row(texts.format(word), labels[n % 2] if labels else "x") for n, word in enumerate(WORDS))
    return Task(name, rows, rows[:2], rows[2:4], Template(instruction, options=bool(labels), **more), labels)


def test_prompts_that_tell_the_task() -> None:
    stars = prompt_task("yelp", "Sentiment?", ("bad", "good"))
    tasks = [
        stars,
        prompt_task("amazon", "Sentiment?", ("bad", "good")),
        prompt_task("imdb", "Sentiment?", ("good", "bad")),  # the same labels in another order
        prompt_task("qqp", "Same?", ("bad", "good")),
        prompt_task("copa", "", None),
        prompt_task("trace", "", None, "You are given a sum. Solve it: {}"),
    ]
    result = prompts(tasks)
    assert result["told_apart"] == ["imdb", "qqp", "copa", "trace"]
    assert result["same_prompt"] == [["yelp", "amazon"]]
    assert result["same_instruction"] == [["yelp", "amazon", "imdb"]]
    assert result["same_options"] == [["yelp", "amazon", "qqp"]]
    assert result["same_beginning_of_texts"] == {"trace": "You are given a sum. Solve it: "}
    named = [task.with_identity("full") for task in (stars, prompt_task("b", "Sentiment?", ("bad", "good")))]
    assert prompts(named)["told_apart"] == []  # both say the same names, which are empty
    named = [prompt_task(name, "S?", ("a", "b"), dataset_name=name, identity="full") for name in ("a", "b")]
    assert prompts(named)["told_apart"] == ["a", "b"]


def test_identity_is_said_in_a_sentence(nacre: Call, clean: Path) -> None:
    assert of(found(nacre, clean), "identity")[0]["sentence"] == (
        "2 of 2 tasks have a prompt of their own, so that a model can read from it which task it answers: one, two."
    )
    assert of(found(nacre, clean, "--stream", "one"), "identity") == []  # a single task has nothing to be told from
    assert_one_line_error(nacre("check", clean, "--identity", "most"), "none, task, full")


# Long texts.


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_cut_texts_are_counted(
    nacre: Call, tmp_path: Path, tiny_model: Callable[[str], Path], architecture: str
) -> None:
    write_task(tmp_path, "animals")
    host = tiny_host(architecture)
    task = tiny_task("animals")
    lengths = sorted(len(host.family.source_ids(example.input)) for example in task.examples("train"))
    limit = lengths[len(lengths) // 2]
    over = {
        split: sum(len(host.family.source_ids(example.input)) > limit for example in task.examples(split))
        for split in ("train", "validation", "test")
    }
    assert 0 < over["train"] < len(lengths)
    arguments = (tmp_path, "--model", tiny_model(architecture), "--max-source-length", limit, "--max-target-length", 8)
    result = found(nacre, *arguments)
    assert result["truncated"] == {"max_source_length": limit, "tasks": {"animals": over}}
    [first] = [finding for finding in of(result, "truncation") if " in train " in finding["sentence"]]
    assert (
        first["sentence"] == f"{over['train']} of 12 texts in train of 'animals' are cut: inputs have {limit} tokens."
    )
    assert f"are cut: inputs have {limit} tokens" in one_line(nacre("check", *arguments).out)
    roomy = found(nacre, *arguments[:3], "--max-target-length", 8)
    assert set(roomy["truncated"]["tasks"]["animals"].values()) == {0}
    assert of(roomy, "truncation") == []
    assert found(nacre, tmp_path)["truncated"] is None
    assert "truncation" not in nacre("check", tmp_path).out


# Whole folders.


def test_a_task_that_cannot_be_read_is_a_finding_until_it_is_named(nacre: Call, clean: Path) -> None:
    (clean / "two" / "test.jsonl").write_text('{"text": "a", "label": "perhaps"}\n')
    result = found(nacre, clean)
    [finding] = of(result, "unreadable")
    assert finding["tasks"] == ["two"]
    assert "test.jsonl, line 1: label 'perhaps' is not in the label set" in finding["sentence"]
    assert list(result["tasks"]) == ["one"]
    assert nacre("check", clean, "--strict").code == 1
    assert_one_line_error(nacre("check", clean, "--stream", "one,two"), "label 'perhaps'")
    assert_one_line_error(nacre("check", clean / "two"), "label 'perhaps'")
    assert_one_line_error(nacre("check", clean / "nowhere"), "does not exist")


def test_the_demo_is_clean(nacre: Call) -> None:
    result = found(nacre)
    assert of(result, "leak", "identical", "unreadable") == []
    assert len(result["tasks"]) == 4


def test_every_kind_is_explained() -> None:
    task = tiny_task()
    assert {finding["kind"] for finding in check_stream([task], normalize)["findings"]} <= set(FINDING_KINDS)


# In a run.


def run_on(nacre: Call, data: Path, model: Path, output: Path, *options: object) -> dict[str, Any]:
    said = nacre(
        *("run", "--method", "seq_lora", "--stream", "animals", "--data", data, "--model", model, "--output", output),
        *("--set", "optim.learning_rate=0.01", "--set", "optim.max_source_length=20", *options),
    )
    assert said.code == 0, said.err
    stored: dict[str, Any] = json.loads((output / "checks.json").read_text())
    return stored


def test_a_run_stores_the_same(nacre: Call, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    write_task(tmp_path / "data", "animals")
    folder, model = tmp_path / "data" / "animals", tiny_model("t5")
    first = (folder / "train.jsonl").read_text().splitlines()[0]
    with (folder / "test.jsonl").open("a") as file:
        file.write(first + "\n")
    stored = run_on(nacre, tmp_path / "data", model, tmp_path / "run")
    assert stored == found(nacre, tmp_path / "data", "--model", model, "--max-source-length", 20)
    assert stored["tasks"]["animals"]["test rows in train"] >= 1
    assert ["test.jsonl, line 7", "train.jsonl, line 1"] in of(stored, "leak")[0]["rows"]
    assert stored["truncated"]["max_source_length"] == 20


def test_measuring_on_validation_is_no_leak(nacre: Call, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """The validation rows stand in the place of the test rows then, once."""
    rows = {split: lines(split, n) for split, n in (("train", 12), ("test", 6), ("validation", 4))}
    write(tmp_path / "data", "animals", rows["train"], rows["test"], rows["validation"])
    stored = run_on(nacre, tmp_path / "data", tiny_model("t5"), tmp_path / "run", "--set", "measure_on=validation")
    assert of(stored, "leak", "overlap", "identical") == []


# The benchmark data.


@pytest.mark.skipif("NACRE_DATA" not in os.environ, reason="NACRE_DATA is not set")
def test_known_defects_of_the_benchmark_data(nacre: Call) -> None:
    """What the data's own task.json files count: rows of test that also stand in train or validation."""
    root = Path(os.environ["NACRE_DATA"])
    trace = found(nacre, root / "trace")
    counts = {
        (finding["tasks"][0], finding["sentence"].split(" in ")[2].split()[0]): finding["count"]
        for finding in of(trace, "leak")
    }
    assert counts == {
        ("FOMC", "validation"): 16, ("FOMC", "train"): 1, ("Py150", "train"): 5, ("NumGLUE-ds", "train"): 6,
    }  # fmt: skip
    assert trace["tasks"]["NumGLUE-cm"]["repeated train rows"] == 244
    four = found(nacre, root / "long_sequence", "--stream", "order1")
    assert of(four, "leak", "identical") == []
    assert four["identity"]["told_apart"] == ["dbpedia", "amazon", "yahoo", "agnews"]


@pytest.mark.skipif("NACRE_DATA" not in os.environ, reason="NACRE_DATA is not set")
def test_a_leak_planted_in_real_data(nacre: Call, tmp_path: Path) -> None:
    source = Path(os.environ["NACRE_DATA"]) / "long_sequence" / "rte"
    shutil.copytree(source, tmp_path / "rte")
    train = gzip.decompress((source / "train.jsonl.gz").read_bytes()).decode().splitlines()
    test = gzip.decompress((source / "test.jsonl.gz").read_bytes()).decode().splitlines()
    chosen = [7, 300, 301, 900, 1700]
    (tmp_path / "rte" / "test.jsonl.gz").write_bytes(
        gzip.compress(("\n".join(test + [train[index] for index in chosen]) + "\n").encode())
    )
    [leak] = of(found(nacre, tmp_path), "leak")
    assert leak["count"] == 5
    assert leak["rows"] == [
        [f"test.jsonl.gz, line {len(test) + number}", f"train.jsonl.gz, line {index + 1}"]
        for number, index in enumerate(chosen, start=1)
    ]


# Streams.


def stream_file(folder: Path, *names: str, **more: Any) -> Path:
    """The tasks of a folder as a stream file beside it."""
    tasks = [
        {"name": name, "labels": ["yes", "no"], "instruction": f"{name}?", **more}
        | {split: f"{folder.name}/{name}/{split}.jsonl" for split in ("train", "validation", "test")}
        for name in names
    ]
    file = folder.parent / "my.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "tasks": tasks}))
    return file


def test_a_stream_file_is_checked_as_a_folder_is(nacre: Call, clean: Path) -> None:
    rows = [json.loads(line) for line in (clean / "two" / "train.jsonl").read_text().splitlines()]
    with (clean / "one" / "test.jsonl").open("a") as test:
        test.write("".join(json.dumps(row) + "\n" for row in rows[3:8]))
    file = stream_file(clean, "one", "two")
    result = found(nacre, "--stream", file)
    [leak] = of(result, "leak")
    assert leak["rows"] == [[f"test.jsonl, line {20 + n}", f"train.jsonl, line {3 + n}"] for n in range(1, 6)]
    assert result["findings"] == found(nacre, clean)["findings"]
    assert nacre("check", "--stream", file, "--strict").code == 1
    assert list(found(nacre, "--stream", stream_file(clean, "two"))["tasks"]) == ["two"]


def test_mistakes_in_a_stream_file_are_one_line(nacre: Call, clean: Path) -> None:
    file = stream_file(clean, "one", "two")
    assert_one_line_error(nacre("check", clean, "--stream", file), "names its own files and takes no DATA")
    assert_one_line_error(nacre("check", "--stream", stream_file(clean, "one", metrc="bleu")), "no key 'metrc'")
    (clean / "one" / "test.jsonl").write_text('{"text": "a", "label": "perhaps"}\n')
    assert_one_line_error(
        nacre("check", "--stream", stream_file(clean, "one", "two")), "test.jsonl, line 1", "label 'perhaps'"
    )
    (clean / "one" / "test.jsonl").unlink()
    assert_one_line_error(nacre("check", "--stream", file), "task 'one', test: the file", "does not exist")
    assert_one_line_error(nacre("check", "--stream", clean / "none.yaml"), "none.yaml cannot be read")
    assert_one_line_error(nacre("check", "--stream", "order1"), "Stream 'order1' needs DATA")
    assert_one_line_error(nacre("check", clean, "--stream", "demo"), "takes no DATA")


def test_a_task_may_be_called_like_a_stream(nacre: Call, clean: Path) -> None:
    """As in a run: the task under the folder is meant."""
    (clean / "one").rename(clean / "trace")
    assert list(found(nacre, clean, "--stream", "trace")["tasks"]) == ["trace"]


def test_configurations_of_a_dataset_are_checked(
    nacre: Call, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    shutil.copy(clean / "one" / "train.jsonl", clean / "two" / "test.jsonl")
    names = {"train": "train", "validation": "validation", "test": "test"}
    configs = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": f"{name}/{file}.jsonl"} for split, file in names.items()],
        }
        for name in ("one", "two")
    ]
    for name in ("one", "two"):
        (clean / name / "task.json").unlink()
    (clean / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    for arguments in ((f"hub:{clean}",), (f"hub:{clean}", "--stream", "one,two")):
        [leak] = of(found(nacre, *arguments), "leak")
        assert leak["sentence"].startswith("40 of 40 rows in test of 'two' have the text of a row in train of 'one'")
        assert leak["rows"][0] == ["test, row 1", "train, row 1"]
    assert_one_line_error(nacre("check", f"hub:{clean}", "--stream", "three"), "no configuration for task 'three'")
