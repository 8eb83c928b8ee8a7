"""A served store beside a plain loop of transformers' `generate`: questions per second, and how long each one waits.

    python benchmarks/serving.py --model PATH/minilm-b2b --requests 2000 --output docs/performance/serving.json

A store learns as many small tasks as `--adapters` says, a LoRA for each, told by the nearest class (`epi`). Clients on
loopback ask one question after the other; the answers have at most `--tokens` tokens. Measured in turn, `--rounds`
times: transformers alone, one question at a time, with the pretrained model; the server, with questions of one task;
and with questions of all tasks mixed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from aiohttp import ClientSession, web
from bench import surroundings

from nacre.events import ignore
from nacre.learning.settings import Optim
from nacre.models.loading import load_host
from nacre.serving.app import app_of
from nacre.serving.engine import Engine
from nacre.serving.metrics import ServerMetrics
from nacre.store.settings import StoreSettings
from nacre.store.source import Source
from nacre.store.store import Store
from nacre.store.teaching import create, learn

WORDS = "time year people way day man thing woman life child world school state family student group country".split()
HALF = 20
"""Words of a text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--adapters", type=int, default=15)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = taught(Path(folder), chosen.model, chosen.adapters, chosen.tokens)
        runs: dict[str, Callable[[], list[float]]] = {
            "transformers, one at a time": lambda: alone(chosen.model, chosen.requests // 10, chosen.tokens),
            "served, 1 adapter": lambda: asyncio.run(served(store, chosen.requests, chosen.clients, 1)),
            f"served, {chosen.adapters} adapters": lambda: asyncio.run(
                served(store, chosen.requests, chosen.clients, chosen.adapters)
            ),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(chosen.rounds):
            for name, run in runs.items():
                started = time.monotonic()
                seconds = run()
                found[name].append(summary(seconds, time.monotonic() - started))
                print(name, {key: round(value, 4) for key, value in found[name][-1].items()}, flush=True)
    if chosen.output is not None:
        settings = {key: getattr(chosen, key) for key in ("adapters", "requests", "clients", "tokens", "rounds")}
        document = {**surroundings(torch.device("cpu")), **settings, "found": found}
        chosen.output.write_text(json.dumps(document, indent=1) + "\n")


def summary(seconds: list[float], whole: float) -> dict[str, float]:
    """Questions per second, and quantiles of the seconds that one took."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"per second": len(seconds) / whole, "p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}


def taught(folder: Path, model: str, adapters: int, tokens: int) -> Store:
    """A store that has learned so many tasks, a few rows each."""
    settings = StoreSettings(
        method="epi",
        model=model,
        optim=Optim(batch_size=8),
        evaluation={"max_new_tokens": tokens},  # type: ignore[arg-type]
    )
    store = create(folder / "store", settings.written_out(), ignore)
    for number in range(adapters):
        draws = random.Random(number)
        rows = [{"text": text_of(draws), "label": label} for label in ("yes", "no") for _ in range(20)]
        (folder / f"task{number}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        learn(store, Source(f"task{number}", str(folder / f"task{number}.jsonl")), ignore)
    return store


def text_of(draws: random.Random) -> str:
    return " ".join(draws.choice(WORDS) for _ in range(HALF))


def alone(model: str, requests: int, tokens: int) -> list[float]:
    """Each question by itself, as a script without a server does."""
    host = load_host(model)
    network: Any = host.model.eval()
    draws, seconds = random.Random(0), []
    for _ in range(requests):
        started = time.monotonic()
        inputs = host.tokenizer(text_of(draws), return_tensors="pt")
        kept = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            network.generate(**kept, max_new_tokens=tokens, do_sample=False)
        seconds.append(time.monotonic() - started)
    return seconds


async def served(store: Store, requests: int, clients: int, tasks: int) -> list[float]:
    """Clients that ask one question after the other."""
    metrics = ServerMetrics()
    engine = Engine(store, observe=metrics.batch)
    engine.start()
    runner = web.AppRunner(app_of(engine, metrics, name="bench", most_bytes=100_000, loopback=True), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/predict"
    numbers, seconds = itertools.count(), []

    async def ask(client: ClientSession, seed: int) -> None:
        draws = random.Random(seed)
        while (number := next(numbers)) < requests:
            question = {"text": text_of(draws), "task": f"task{number % tasks}"}
            started = time.monotonic()
            async with client.post(address, json=question) as response:
                assert response.status == 200, await response.text()
                await response.read()
            seconds.append(time.monotonic() - started)

    async with ClientSession() as client:
        await asyncio.gather(*(ask(client, seed) for seed in range(clients)))
    await runner.cleanup()
    return seconds


if __name__ == "__main__":
    main()
