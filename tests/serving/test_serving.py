"""A store that answers over HTTP: every answer is the named version's, and no change of version loses a request."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import ClientSession, web

from helpers.stores import NAMES, chain, new_store, settings_of, taught, write_tasks
from nacre.events import ignore
from nacre.serving.app import app_of
from nacre.serving.engine import Busy, Engine
from nacre.serving.metrics import ServerMetrics
from nacre.store.answering import Question, reply
from nacre.store.learners import learner_of
from nacre.store.store import Store

torch.set_num_threads(1)

TEXTS = ("the big dog near the sea", "the old stone near the sea", "the small cat", "a new lamp under the sky")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("data"))


Made = Callable[..., Store]


@pytest.fixture(scope="module")
def made(data: Path, tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """``made(architecture, method)``: a store that has learned three tasks."""
    known: dict[tuple[str, str], Store] = {}

    def of(architecture: str = "t5", method: str = "inc_lora") -> Store:
        if (architecture, method) not in known:
            path = tmp_path_factory.mktemp("store") / "assistant"
            store = new_store(path, settings_of(tiny_model(architecture), method))
            taught(store, data, *NAMES)
            known[architecture, method] = store
        store = known[architecture, method]
        last = max((store.read(name) for name in store.names()), key=lambda version: len(version.tasks))
        store.promote(next(name for name in store.names() if store.read(name) == last), "test")
        return store

    return of


@asynccontextmanager
async def served(
    store: Store, *, most_bytes: int = 10_000, loopback: bool = True, **settings: Any
) -> AsyncIterator[tuple[str, ClientSession, Engine]]:
    """A server at a free port, a client of it, and its engine."""
    metrics = ServerMetrics()
    engine = Engine(store, every=0.05, observe=metrics.batch, **settings)
    engine.start()
    app = app_of(engine, metrics, name=store.path.name, most_bytes=most_bytes, loopback=loopback)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with ClientSession() as client:
            yield address, client, engine
    finally:
        await runner.cleanup()


async def post(client: ClientSession, url: str, document: Any) -> tuple[int, dict[str, Any]]:
    async with client.post(url, json=document) as response:
        found: dict[str, Any] = await response.json()
        return response.status, found


async def get(client: ClientSession, url: str) -> tuple[int, str]:
    async with client.get(url) as response:
        return response.status, await response.text()


def test_every_path(made: Made) -> None:
    store = made()
    current = store.current
    learner = learner_of(store, current, ignore)
    expected = [each.answer for each in reply(learner, [Question(text, NAMES[0]) for text in TEXTS])]

    async def check() -> None:
        async with served(store) as (address, client, _):
            questions = [{"text": text, "task": NAMES[0]} for text in TEXTS]
            for question, answer in zip(questions, expected, strict=True):
                status, found = await post(client, f"{address}/predict", question)
                assert (status, found) == (200, {"version": current, "answer": answer, "task": NAMES[0]})
            status, found = await post(client, f"{address}/predict", {"questions": questions})
            assert [each["answer"] for each in found["answers"]] == expected
            model = f"assistant:{NAMES[0]}"
            status, found = await post(client, f"{address}/v1/completions", {"model": model, "prompt": list(TEXTS)})
            assert status == 200
            assert [each["text"] for each in found["choices"]] == expected
            assert found["system_fingerprint"] == current
            form = learner.state.forms[NAMES[0]].filled(NAMES[0], TEXTS)
            prompts = [example.input for example in form.examples("test")]
            assert all(prompt != text for prompt, text in zip(prompts, TEXTS, strict=True))
            read = sum(len(learner.host.tokenizer(prompt)["input_ids"]) for prompt in prompts)
            usage = found["usage"]
            assert usage["prompt_tokens"] == read
            assert usage["total_tokens"] == read + usage["completion_tokens"]
            status, text = await get(client, f"{address}/v1/models")
            names = [each["id"] for each in json.loads(text)["data"]]
            assert names == ["assistant", *(f"assistant:{name}" for name in NAMES)]
            status, text = await get(client, f"{address}/health")
            assert json.loads(text) == {"status": "ok", "version": current, "tasks": list(NAMES), "waiting": 0}
            status, text = await get(client, f"{address}/metrics")
            assert f'nacre_version_info{{version="{current}"}} 1.0' in text
            assert 'nacre_requests_total{path="/predict",status="200"} 5.0' in text
            assert "nacre_batch_questions_sum 12.0" in text
            status, text = await get(client, address)
            assert status == 200
            assert current in text

    asyncio.run(check())


def test_a_chat(data: Path, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "chat"
    shutil.copytree(tiny_model("llama"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    store = new_store(tmp_path / "assistant", settings_of(folder, evaluation={"max_new_tokens": 3}))
    asked = {"model": "assistant", "messages": [{"role": "user", "content": "the big dog"}], "temperature": 0}

    async def check() -> None:
        async with served(store) as (address, client, _):
            status, found = await post(client, f"{address}/v1/chat/completions", asked)
            assert status == 200, found
            assert found["object"] == "chat.completion"
            assert found["choices"][0]["message"]["role"] == "assistant"
            text = found["choices"][0]["message"]["content"]
            assert text == learner_of(store, store.current, ignore).predict([asked["messages"]])[0]  # type: ignore[list-item]
            read = tokenizer("user the big dog assistant ", add_special_tokens=False)["input_ids"]
            assert found["usage"]["prompt_tokens"] == len(read)

    asyncio.run(check())


def test_labels_are_not_completions(made: Made) -> None:
    async def check() -> None:
        async with served(made("roberta")) as (address, client, _):
            status, found = await post(client, f"{address}/v1/completions", {"model": "assistant", "prompt": "a"})
            assert status == 400
            assert "POST /predict" in found["error"]["message"]
            status, found = await post(client, f"{address}/predict", {"text": TEXTS[0], "task": NAMES[1]})
            assert (status, found["answer"] in ("yes", "no")) == (200, True)

    asyncio.run(check())


def test_decisions_come_with_the_answer(made: Made) -> None:
    async def check() -> None:
        async with served(made("t5", "nacre")) as (address, client, _):
            status, found = await post(client, f"{address}/predict", {"text": TEXTS[0]})
            assert status == 200
            assert found["kind"] in ("known", "reworded", "foreign")
            assert ("task" in found) == (found["kind"] != "foreign")

    asyncio.run(check())


# ---- refusals

BAD: list[tuple[str, Any, int, str]] = [
    ("/predict", b"", 400, "not JSON"),
    ("/predict", b"{", 400, "not JSON"),
    ("/predict", b"\xff", 400, "not UTF-8"),
    ("/predict", b'{"text": NaN}', 400, "JSON"),
    ("/predict", b"[" * 9_000, 400, "nested"),
    ("/predict", b'{"text": "a", "text": "b"}', 400, "twice"),
    ("/predict", b"x" * 20_000, 413, "10,000 bytes"),
    ("/predict", {}, 400, "either 'text' or 'messages'"),
    ("/predict", [], 400, "object"),
    ("/predict", 4, 400, "object"),
    ("/predict", {"text": 4}, 400, "strings"),
    ("/predict", {"text": "a", "task": "nothing"}, 400, "no such task"),
    ("/predict", {"text": "a", "task": 4}, 400, "strings"),
    ("/predict", {"text": "a", "more": 1}, 400, "'more'"),
    ("/predict", {"text": "a", "messages": []}, 400, "either"),
    ("/predict", {"text": "\ud800"}, 400, "surrogate"),
    ("/predict", {"questions": []}, 400, "1 to 1000"),
    ("/predict", {"questions": "a"}, 400, "1 to 1000"),
    ("/predict", {"questions": ["a"] * 1001}, 400, "1 to 1000"),
    ("/predict", {"questions": ["a"], "task": "animals"}, 400, "no other key"),
    ("/predict", {"questions": ["a", {"text": "b", "task": "nothing"}]}, 400, "Question 2: "),
    ("/predict", {"messages": [{"role": "user", "content": "a"}]}, 400, "Conversations cannot"),
    ("/v1/completions", {}, 400, "no such model; there are assistant, assistant:animals"),
    ("/v1/completions", {"model": "other", "prompt": "a"}, 400, "no such model"),
    ("/v1/completions", {"model": "assistant"}, 400, "strings"),
    ("/v1/completions", {"model": "assistant", "prompt": []}, 400, "not be empty"),
    ("/v1/completions", {"model": "assistant", "prompt": [[1, 2]]}, 400, "strings"),
    ("/v1/completions", {"model": "assistant", "prompt": "a", "stream": True}, 400, "'stream'"),
    ("/v1/completions", {"model": "assistant", "prompt": "a", "n": 2}, 400, "'n'"),
    ("/v1/completions", {"model": "assistant", "prompt": "a", "n": True}, 400, "'n'"),
    ("/v1/completions", {"model": "assistant", "prompt": "a", "temperature": 0.7}, 400, "greedy"),
    ("/v1/completions", {"model": "assistant", "prompt": "a", "max_tokens": 5}, 400, "'max_tokens'"),
    ("/v1/completions", {"model": "assistant", "prompt": "a", "unknown": 5}, 400, "'unknown'"),
    ("/v1/completions", [], 400, "object"),
    ("/v1/chat/completions", {"model": "assistant"}, 400, "list of messages"),
    ("/v1/chat/completions", {"model": "assistant", "messages": []}, 400, "list of messages"),
    ("/v1/chat/completions", {"model": "assistant", "messages": [1]}, 400, "role"),
    ("/nothing", {}, 404, "Not Found"),
    ("/health", {}, 405, "Method Not Allowed"),
]


@pytest.fixture(scope="module")
def refusals(made: Made) -> list[tuple[int, Any]]:
    async def ask() -> list[tuple[int, Any]]:
        found = []
        async with served(made()) as (address, client, engine):
            for path, body, _, _ in BAD:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                headers = {"Content-Type": "application/json"}
                async with client.post(address + path, data=raw, headers=headers) as response:
                    found.append((response.status, await response.json()))
            status, _ = await post(client, f"{address}/predict", {"text": "the dog", "task": NAMES[0]})
            assert status == 200
            assert engine.waiting == 0
        return found

    return asyncio.run(ask())


@pytest.mark.parametrize("number", range(len(BAD)), ids=[f"{each[0]} {str(each[1])[:40]}" for each in BAD])
def test_a_bad_request_gets_one_line(refusals: list[tuple[int, Any]], number: int) -> None:
    _, _, status, part = BAD[number]
    found, document = refusals[number]
    assert found == status
    assert list(document) == ["error"]
    line = document["error"]["message"]
    assert "\n" not in line
    assert part in line, line


def test_who_may_ask(made: Made) -> None:
    """A page in a browser can neither use another name of the server nor send what is no JSON."""

    async def check() -> None:
        async with served(made()) as (address, client, _):
            async with client.get(f"{address}/health", headers={"Host": "evil.example"}) as response:
                assert response.status == 403
            async with client.post(f"{address}/predict", data=b'{"text": "a"}') as response:
                assert response.status == 400
                assert "Content-Type" in (await response.json())["error"]["message"]
        named = {"Host": "my.name"}
        async with (
            served(made(), loopback=False) as (address, client, _),
            client.get(f"{address}/health", headers=named) as response,
        ):
            assert response.status == 200

    asyncio.run(check())


def test_the_page_escapes_everything(made: Made) -> None:
    bad = "<script>alert(1)</script>"

    async def check() -> None:
        async with served(made()) as (address, client, _):
            for form in ({"text": bad, "task": NAMES[0]}, {"text": "a", "task": bad}, {"text": bad}):
                async with client.post(address, data=form) as response:
                    text = await response.text()
                    assert response.status == 200
                    assert "<script" not in text
                    assert "script-src" not in response.headers["Content-Security-Policy"]

    asyncio.run(check())


# ---- many at once


def expected_of(store: Store, names: list[str]) -> dict[tuple[str, str, str], str]:
    """What each version answers to each text of each task."""
    found = {}
    for name in names:
        learner = learner_of(store, name, ignore)
        for task in learner.state.tasks:
            replies = reply(learner, [Question(text, task) for text in TEXTS])
            found |= {(name, task, text): each.answer for text, each in zip(TEXTS, replies, strict=True)}
        learner.remove()
    return found


async def load(store: Store, requests: int, clients: int, changes: list[str]) -> Counter[str]:
    """Requests from many clients while the current version changes. Returns how many each version answered."""
    expected = expected_of(store, list(dict.fromkeys(changes)))
    counts: Counter[str] = Counter()
    done = itertools.count()
    at = [int(requests * (number + 0.5) / len(changes)) for number in range(len(changes))]

    async with served(store) as (address, client, engine):

        async def ask(seed: int) -> None:
            draws = random.Random(seed)
            for _ in range(requests // clients):
                text = draws.choice(TEXTS)
                status, found = await post(client, f"{address}/predict", {"text": text, "task": NAMES[0]})
                assert status == 200, found
                assert found["answer"] == expected[found["version"], NAMES[0], text]
                counts[found["version"]] += 1
                next(done)

        async def change() -> None:
            for number, name in zip(at, changes, strict=True):
                while sum(counts.values()) < number:
                    await asyncio.sleep(0.002)
                store.promote(name, "test")
                for _ in range(2000):
                    if engine.version == name or sum(counts.values()) >= requests // clients * clients:
                        break
                    await asyncio.sleep(0.01)

        await asyncio.gather(change(), *(ask(seed) for seed in range(clients)))
    return counts


@pytest.mark.parametrize("requests", [640, pytest.param(10_000, marks=pytest.mark.long)])
def test_no_change_of_version_loses_a_request(made: Made, requests: int) -> None:
    """Five promotions and a rollback under load from 32 clients; each answer is the named version's."""
    store = made()
    _, first, second, third = chain(store)
    changes = [first, second, third, first, third, second]
    counts = asyncio.run(load(store, requests, 32, changes))
    assert sum(counts.values()) == requests // 32 * 32
    assert counts.keys() == {first, second, third}


def test_tasks_are_mixed_in_a_batch(made: Made) -> None:
    """Questions of several tasks wait together; each gets the answer that it would get alone."""
    store = made()
    expected = expected_of(store, [store.current])

    async def check() -> None:
        async with served(store) as (address, client, _):
            asked = [(task, text) for task in NAMES for text in TEXTS] * 8
            random.Random(0).shuffle(asked)
            found = await asyncio.gather(
                *(post(client, f"{address}/predict", {"text": text, "task": task}) for task, text in asked)
            )
            assert [each["answer"] for _, each in found] == [
                expected[store.current, task, text] for task, text in asked
            ]
            _, text = await get(client, f"{address}/metrics")
            batches = float(text.split("nacre_batch_questions_count ")[1].split()[0])
            assert batches < len(asked) / 2

    asyncio.run(check())


def test_a_damaged_version_does_not_take_over(made: Made, tmp_path: Path) -> None:
    origin = made()
    shutil.copytree(origin.path, tmp_path / "assistant")
    store = Store.open(tmp_path / "assistant")
    _, first, _, third = chain(store)
    (store.folder(first) / "state.json").write_text("{}")

    async def check() -> None:
        async with served(store) as (address, client, engine):
            store.promote(first, "test")
            for _ in range(500):
                if engine.trouble:
                    break
                await asyncio.sleep(0.02)
            status, text = await get(client, f"{address}/health")
            assert json.loads(text)["status"] == "degraded"
            assert "state.json" in json.loads(text)["trouble"]
            status, found = await post(client, f"{address}/predict", {"text": TEXTS[0], "task": NAMES[2]})
            assert (status, found["version"]) == (200, third)
            store.promote(third, "test")
            for _ in range(500):
                if engine.trouble is None:
                    break
                await asyncio.sleep(0.02)
            assert json.loads((await get(client, f"{address}/health"))[1])["status"] == "ok"

    asyncio.run(check())


class _Held:
    """Keeps the answering thread busy until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        monkeypatch.setattr("nacre.serving.engine.reply", self._reply)

    def _reply(self, learner: Any, questions: Any) -> Any:
        self.go.wait(60)
        return reply(learner, questions)


def test_a_full_line_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _Held(monkeypatch)
    engine = Engine(made(), waiting=4, batch=1)
    engine.start()
    try:
        first = engine.ask(Question(TEXTS[0], NAMES[0]))
        while engine.waiting:
            time.sleep(0.001)
        others = [engine.ask(Question(TEXTS[0], NAMES[0])) for _ in range(4)]
        with pytest.raises(Busy, match="4 questions are waiting"):
            engine.ask(Question(TEXTS[0], NAMES[0]))
    finally:
        held.go.set()
        engine.stop()
    assert {each.result().version for each in (first, *others)} == {made().current}


def test_who_leaves_is_not_answered(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _Held(monkeypatch)
    engine = Engine(made())
    engine.start()
    first = engine.ask(Question(TEXTS[0], NAMES[0]))
    while engine.waiting:
        time.sleep(0.001)
    second, third = (engine.ask(Question(TEXTS[1], NAMES[0])) for _ in range(2))
    assert second.cancel()
    held.go.set()
    engine.stop()
    assert first.result().reply.answer
    assert third.result().reply.answer
    assert second.cancelled()


def test_a_bug_is_not_told(made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(learner: Any, questions: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr("nacre.serving.engine.reply", broken)

    async def check() -> Mapping[str, Any]:
        async with served(made()) as (address, client, _):
            status, found = await post(client, f"{address}/predict", {"text": "a", "task": NAMES[0]})
            assert status == 500
            return found

    assert "secret" not in json.dumps(asyncio.run(check()))
    assert "secret" in caplog.text
