"""The store's commands: a week's story, and at least eighty mistakes that each end in one line and change nothing."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from helpers.command import Call, assert_one_line_error, contents
from helpers.stores import NAMES, new_store, settings_of, taught, write_tasks
from nacre.events import ignore
from nacre.store.answering import Question, reply
from nacre.store.learners import learner_of
from nacre.store.source import Source
from nacre.store.store import Store
from nacre.store.teaching import learn

torch.set_num_threads(1)

THINGS = ("dog", "cat", "cow", "hen", "stone", "lamp", "spoon")
ROUTED = "inc_lora+gaussian_routing"


@pytest.fixture(scope="module")
def begun(data: Path, tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has learned two tasks."""
    store = new_store(tmp_path_factory.mktemp("begun") / "store", settings_of(tiny_model("t5")))
    taught(store, data, *NAMES[:2])
    return store.path


@pytest.fixture
def store(begun: Path, tmp_path: Path) -> Path:
    path = tmp_path / "store"
    shutil.copytree(begun, path)
    return path


def test_a_story(nacre: Call, data: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "my store"
    options = ("--set", "optim.batch_size=8", "--set", "rank=4", "--set", "evaluation.max_new_tokens=3")
    made = nacre("init", path, "--method", ROUTED, "--model", tiny_model("llama"), "--must-keep", "*:-100pt", *options)
    assert made.code == 0
    assert "nacre learn" in made.out
    first = Store.open(path).current
    for name in NAMES:
        said = nacre("learn", path, "--task", name, "--data", data)
        assert said.code == 0, said.err
        assert "answers now" in said.out
    status = nacre("status", path)
    assert all(name in status.out for name in NAMES)
    listed = json.loads(nacre("versions", path, "--json").out)
    assert [each["task"] for each in listed] == [None, *NAMES]
    assert [each["current"] for each in listed] == [False, False, False, True]
    assert listed[0]["version"] == first
    for each in listed:
        assert each["version"] in nacre("versions", path).out
        assert nacre("show", path, each["version"][:8]).code == 0
    shown = json.loads(nacre("show", path, "--json").out)
    assert [task["name"] for task in shown["tasks"]] == list(NAMES)
    scored = json.loads(nacre("eval", path, "--json").out)
    assert all(one["score"] == one["recorded"] for one in scored["scores"].values())
    assert nacre("rollback", path, listed[1]["version"][:6]).code == 0
    assert json.loads(nacre("status", path, "--json").out)["tasks"] == [NAMES[0]]
    assert nacre("rollback", path, listed[3]["version"]).code == 0
    gone = nacre("forget", path, NAMES[1])
    assert gone.code == 0
    assert json.loads(nacre("status", path, "--json").out)["tasks"] == [NAMES[0], NAMES[2]]


def test_a_gate_that_stays_closed_ends_with_one(
    nacre: Call, data: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Without the rows of the first task nobody can say that it was kept."""
    path = tmp_path / "store"
    assert nacre("init", path, "--method", "inc_lora", "--model", tiny_model("t5"), "--test-rows", "hash").code == 0
    assert nacre("learn", path, "--task", NAMES[0], "--data", data, "--must-keep", "*:-1pt").code == 0
    before = Store.open(path).current
    said = nacre("learn", path, "--task", NAMES[1], "--data", data, "--must-keep", "*:-1pt", "--json")
    outcome = json.loads(said.out)
    assert said.code == 1
    assert not outcome["promoted"]
    assert outcome["verdict"]["judgments"][0]["kept"] == "not measured"
    assert Store.open(path).current == before
    assert (path / "verdicts" / f"{outcome['version']}.md").exists()
    assert "Not promoted" in nacre("status", path).out
    again = nacre("learn", path, "--task", NAMES[1], "--data", data, "--must-keep", "*:-1pt")
    assert again.code == 1
    assert "nothing was learned again" in again.out
    scored = json.loads(nacre("eval", path, "--task", NAMES[0], "--data", data, "--json").out)
    assert list(scored["scores"]) == [NAMES[0]]


def test_a_run_becomes_a_store(nacre: Call, data: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    run, path = tmp_path / "run", tmp_path / "store"
    stream = ",".join(NAMES[:2])
    options = ("--data", data, "--model", tiny_model("t5"), "--output", run, "--set", "optim.batch_size=8")
    assert nacre("run", "--method", "inc_lora", "--stream", stream, *options).code == 0
    last = json.loads((run / "results.json").read_text())["matrix"][-1]
    assert nacre("import", run, path).code == 0
    scores = json.loads(nacre("status", path, "--json").out)["scores"]
    assert list(scores.values()) == last
    assert nacre("learn", path, "--task", NAMES[2], "--data", data).code == 0


@pytest.mark.parametrize("kind", ["merged", "peft", "package"])
def test_a_version_is_exported(nacre: Call, store: Path, tmp_path: Path, kind: str) -> None:
    said = nacre("export", store, "--format", kind, "--output", tmp_path / "out")
    assert said.code == 0, said.err
    assert "on 12 rows" in said.out or "on 64 rows" in said.out
    assert_one_line_error(nacre("export", store, "--format", kind, "--output", tmp_path / "out"), "holds other things")


# ---- questions


def asked(nacre: Call, monkeypatch: pytest.MonkeyPatch, text: str | bytes, *arguments: object) -> list[str]:
    raw = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    said = nacre("predict", *arguments)
    assert said.code == 0, said.err
    return said.out.splitlines()


def test_questions(nacre: Call, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A line of output for each line of input, whatever the way in."""
    texts = ["the big dog near the sea", "the old stone near the sea", "the small cat"]
    answers = asked(nacre, monkeypatch, "\n".join(texts), store, "--input", "-", "--task", NAMES[0])
    assert len(answers) == 3
    assert [nacre("predict", store, text, "--task", NAMES[0]).out.strip() for text in texts] == answers
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"text": t, "task": NAMES[0]}) + "\n" for t in texts))
    replies = [
        json.loads(line) for line in nacre("predict", store, "--input", tmp_path / "asked.jsonl").out.splitlines()
    ]
    assert [each["answer"] for each in replies] == answers
    current = Store.open(store).current
    assert {(each["task"], each["version"]) for each in replies} == {(NAMES[0], current)}
    mixed = [{"text": texts[0]}, {"text": texts[1], "task": NAMES[1]}, {"text": texts[2], "task": NAMES[0]}]
    lines = asked(nacre, monkeypatch, "\n".join(map(json.dumps, mixed)), store, "--input", "-", "--json")
    assert [json.loads(line).get("task") for line in lines] == [None, NAMES[1], NAMES[0]]
    assert json.loads(lines[2])["answer"] == answers[2]
    assert asked(nacre, monkeypatch, "\n \n", store, "--input", "-") == []


@pytest.mark.parametrize(
    ("method", "says"),
    [("inc_lora", set()), ("epi", set()), ("lda", set()), ("nacre", {"kind", "task", "probability"})],
)
def test_questions_without_a_task(
    nacre: Call, data: Path, tiny_model: Callable[[str], Path], tmp_path: Path, method: str, says: set[str]
) -> None:
    """Who finds out the task says so; a foreign question is of none, and nothing is said of its answer."""
    store = new_store(tmp_path / "store", settings_of(tiny_model("t5"), method))
    taught(store, data, *NAMES[:2])
    said = nacre("predict", store.path, '{"text": "the big dog near the sea"}', "--json")
    assert said.code == 0, said.err
    reply = json.loads(said.out)
    assert {"answer", "version"} <= reply.keys() <= {"answer", "version", *says}
    assert "kind" in reply or not says
    if reply.get("kind") == "foreign":
        assert reply.keys() == {"answer", "kind", "version"}


def test_no_label_answers_a_task_without_any(data: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """The learner knows labels of another task; a question that it takes for free text is answered in words."""
    rows = [(f"the {size} {thing}", f"{thing} near {size}") for size in ("big", "old", "new") for thing in THINGS]
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines) + "\n")
    store = new_store(tmp_path / "store", settings_of(tiny_model("llama"), "nacre"))
    taught(store, data, NAMES[0])
    learn(store, Source("notes", str(tmp_path / "notes.jsonl")), ignore)
    learner = learner_of(store, store.current, ignore)
    prompts = [prompt for prompt, _ in rows]
    found = [each for each in reply(learner, [Question(prompt) for prompt in prompts]) if each.task == "notes"]
    assert found
    written = dict(zip(prompts, learner.predict(prompts), strict=True))
    assert {each.answer for each in found} <= set(written.values())
    assert {each.probability for each in found} == {None}


def test_a_method_that_must_be_given_the_task(
    nacre: Call, data: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    store = new_store(tmp_path / "store", settings_of(tiny_model("t5"), "demix"))
    taught(store, data, *NAMES[:2])
    assert_one_line_error(nacre("predict", store.path, "the big dog"), "must be given the task")
    assert nacre("predict", store.path, "the big dog", "--task", NAMES[0]).code == 0


def test_answers_of_an_earlier_version(nacre: Call, store: Path) -> None:
    first = next(name for name in Store.open(store).names() if Store.open(store).read(name).names == [NAMES[0]])
    said = nacre("predict", store, "the big dog", "--task", NAMES[1], "--version", first)
    assert_one_line_error(said, f"ask('{NAMES[1]}')")
    assert nacre("predict", store, "the big dog", "--task", NAMES[0], "--version", first[:5]).code == 0


# ---- mistakes

MISTAKES: list[tuple[Sequence[str], str]] = [
    # no store
    *((("status", place), "is not a store") for place in ("{tmp}", "{tmp}/none", "{data}", "{store}/versions")),
    *(((name, "{tmp}/none"), "is not a store") for name in ("versions", "show", "eval")),
    (("learn", "{tmp}/none", "--task", "tools", "--data", "{data}"), "is not a store"),
    (("forget", "{tmp}/none", "animals"), "is not a store"),
    (("rollback", "{tmp}/none", "abcd"), "is not a store"),
    (("predict", "{tmp}/none", "text"), "is not a store"),
    (("status", ""), "empty text"),
    (("status", "a" * 5000), "longer than"),
    (("status",), "Missing argument"),
    (("status", "{store}", "more"), "unexpected"),
    # init
    (("init", "{store}"), "is a store already"),
    (("init", "{data}"), "holds other things"),
    (("init", "{tmp}/new", "--method", "inclora"), "inc_lora"),
    (("init", "{tmp}/new", "--method", "inc_lora+"), "no modifier"),
    (("init", "{tmp}/new", "--method", "joint"), "does not go on"),
    (("init", "{tmp}/new", "--method", "independent"), "does not go on"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--model", "{tmp}/none"), "{tmp}/none"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--model", "{data}"), "{data}"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--model", "$NACRE_NOT_SET/m"), "NACRE_NOT_SET"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--seed", "-1"), "seed"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--seed", "x"), "seed"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--must-keep", "agnews"), "must_keep"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--must-keep", "*:-101pt"), "must_keep"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--test-rows", "all"), "test_rows"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "rank"), "KEY=VALUE"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "rank=many"), "rank"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "ranks=4"), "ranks"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "optim.epoch=2"), "epoch"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "optim.epochs=0"), "epochs"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "stream=demo"), "stream"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "output=x"), "output"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "unclear=maybe"), "unclear"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "head=two"), "head"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "evaluation.decode=label"), "decode"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "base_ability.tasks=[hella]"), "base_ability"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "base_ability.data={tmp}/none"), "{tmp}/none"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "a.b.c.d.e.f=1"), "so many parts"),
    (("init", "{tmp}/new", "--method", "inc_lora", "--set", "rank=[1"), "rank=[1"),
    (("init", "{tmp}/file/new", "--method", "inc_lora"), "file"),
    # learn
    (("learn", "{store}"), "--task"),
    (("learn", "{store}", "--task", "tools", "--data", "{tmp}/none"), "{tmp}/none"),
    (("learn", "{store}", "--task", "tool", "--data", "{data}"), "tools"),
    (("learn", "{store}", "--task", "tools"), "needs a data folder"),
    (("learn", "{store}", "--task", "animals", "--data", "{data}"), "is learned already"),
    (("learn", "{store}", "--task", "../tools", "--data", "{data}"), "../tools"),
    (("learn", "{store}", "--task", "", "--data", "{data}"), "empty"),
    (("learn", "{store}", "--task", "x" * 300, "--data", "{data}"), "at most"),
    (("learn", "{store}", "--task", "a\nb", "--data", "{data}"), "line"),
    (("learn", "{store}", "--task", "tools", "--data", ""), "empty"),
    (("learn", "{store}", "--task", "bad", "--data", "{tmp}/bad.jsonl"), "bad.jsonl"),
    (("learn", "{store}", "--task", "none", "--data", "{tmp}/none.jsonl"), "none.jsonl"),
    (("learn", "{store}", "--task", "binary", "--data", "{tmp}/binary.jsonl"), "binary.jsonl"),
    (("learn", "{store}", "--task", "columns", "--data", "{tmp}/columns.csv"), "columns.csv"),
    (("learn", "{store}", "--task", "labels", "--data", "{tmp}/labels"), "labels"),
    (("learn", "{store}", "--task", "tools", "--data", "{data}", "--must-keep", "animals:2"), "must_keep"),
    (("learn", "{store}", "--task", "tools", "--data", "{data}", "--must-keep", "animal:-2pt"), "animals"),
    (("learn", "{store}", "--task", "tools", "--data", "{data}", "--must-keep", "tools:-2pt"), "tools"),
    (("learn", "{store}", "--task", "tools", "--data", "{data}", "--must-keep", "hellaswag:-2pt"), "does not measure"),
    (("learn", "{store}", "--task", "tools", "--data", "{data}", "--test-rows", "some"), "--test-rows"),
    (("learn", "{store}", "--task", "tools", "--data", "{data}", "--limit-train", "0"), "limit-train"),
    (("learn", "{store}", "--task", "tools", "--data", "{data}", "--limit-test", "x"), "limit-test"),
    (("learn", "{store}", "--task", "tools", "--data", "hub:"), "hub:"),
    # versions
    (("show", "{store}", "zzzz"), "no version begins so"),
    (("show", "{store}", "ab"), "no version begins so"),
    (("show", "{store}", "../../etc"), "no version begins so"),
    (("show", "{store}", ""), "4 digits"),
    (("rollback", "{store}"), "Missing argument"),
    (("rollback", "{store}", "zzzz"), "no version begins so"),
    (("rollback", "{store}", "unfinished-0"), "no version begins so"),
    # forget
    (("forget", "{store}", "tools"), "has not been learned"),
    (("forget", "{store}", "animals"), "none can be taken out"),
    (("forget", "{store}", ""), "has not been learned"),
    # eval
    (("eval", "{store}", "--task", "tools"), "has not learned"),
    (("eval", "{store}", "--data", "{data}"), "--task"),
    (("eval", "{store}", "--task", "animals", "--data", "{tmp}/none"), "{tmp}/none"),
    (("eval", "{store}", "--task", "animals", "--data", "{tmp}/others"), "another test rows"),
    (("eval", "{store}", "--version", "zzzz"), "no version begins so"),
    # predict
    (("predict", "{store}"), "TEXT"),
    (("predict", "{store}", "text", "--input", "-"), "TEXT"),
    (("predict", "{store}", "text", "--task", "tools"), "no such task"),
    (("predict", "{store}", "text", "--version", "zzzz"), "no version begins so"),
    (("predict", "{store}", "--input", "{tmp}/none.txt"), "none.txt"),
    (("predict", "{store}", "--input", "{tmp}"), "file"),
    (("predict", "{store}", "--input", "{tmp}/binary.jsonl"), "UTF-8"),
    (("predict", "{store}", "--input", "{tmp}/bad.jsonl"), "Line 1"),
    (("predict", "{store}", "--input", "{tmp}/questions.jsonl"), "Line 2"),
    (("predict", "{store}", "--input", "{tmp}/both.jsonl"), "either"),
    (("predict", "{store}", "--input", "{tmp}/list.jsonl"), "object"),
    (("predict", "{store}", "--input", "{tmp}/number.jsonl"), "strings"),
    (("predict", "{store}", "--input", "{tmp}/turns.jsonl"), "Conversations cannot"),
    (("predict", "{store}", "--input", "{tmp}/surrogate.jsonl"), "surrogate"),
    (("predict", "{store}", "--input", "{tmp}/deep.jsonl"), "nested"),
    (("predict", "{store}", "--input", "{tmp}/twice.jsonl"), "twice"),
    (("predict", "{store}", "{long}"), "characters"),
    # export
    (("export", "{store}"), "--output"),
    (("export", "{store}", "--output", "{data}"), "holds other things"),
    (("export", "{store}", "--output", "{tmp}/new", "--format", "onnx"), "merged, peft, package"),
    (("export", "{store}", "--output", "{tmp}/new", "--version", "zzzz"), "no version begins so"),
    (("export", "{store}", "--output", ""), "empty"),
    (("export", "{tmp}/none", "--output", "{tmp}/new"), "is not a store"),
    # import
    (("import", "{tmp}/none", "{tmp}/new"), "no finished run"),
    (("import", "{store}", "{tmp}/new"), "no finished run"),
    (("import", "{data}"), "Missing argument"),
]
"""Arguments, and what the line must hold."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are not what they should be."""
    folder = tmp_path_factory.mktemp("files")
    texts = {
        "file": "", "bad.jsonl": '{"text": "a", "label"', "none.jsonl": "", "columns.csv": "one,two\n1,2\n",
        "questions.jsonl": '{"text": "a", "task": "animals"}\n{"txt": "b"}\n',
        "both.jsonl": '{"text": "a", "messages": []}',
        "list.jsonl": "[1]", "number.jsonl": '{"text": 4}', "surrogate.jsonl": '{"text": "\\ud800"}',
        "turns.jsonl": '{"messages": [{"role": "user", "content": "a"}]}',
        "twice.jsonl": '{"text": "a", "text": "b"}',
        "deep.jsonl": '{"text": ' + "[" * 100_000,
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x01" * 9)
    write_tasks(folder / "others")
    lines = (folder / "others" / "animals" / "test.jsonl").read_text().splitlines()
    (folder / "others" / "animals" / "test.jsonl").write_text("\n".join(lines[1:]) + "\n")
    shutil.copytree(folder / "others" / "tools", folder / "labels")
    (folder / "labels" / "task.json").write_text(json.dumps({"labels": ["maybe"]}))
    return folder


def test_there_are_enough_mistakes() -> None:
    assert len(MISTAKES) >= 80
    assert len({tuple(arguments) for arguments, _ in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize(("arguments", "part"), MISTAKES, ids=[" ".join(each)[:60] for each, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(
    nacre: Call, begun: Path, data: Path, files: Path, tmp_path: Path, arguments: Sequence[str], part: str
) -> None:
    own = tmp_path / "files"
    shutil.copytree(files, own)
    places = {"store": begun, "data": data, "tmp": own, "long": "a " * 600_000}
    before = contents(begun)
    said = nacre(*(text.format(**places) for text in arguments))
    assert_one_line_error(said, part.format(**places))
    assert {name: own for name, own in contents(begun).items() if name != ".lock"} == {
        name: own for name, own in before.items() if name != ".lock"
    }
    assert not (own / "new").exists()
