"""A run begun in Python: `nacre.run(method, ...)`, as `nacre run` does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nacre.events import OnEvent, ignore
from nacre.runs.recipe import Recipe

if TYPE_CHECKING:
    from nacre.method import Method
    from nacre.records.run import RunRecord


def run(
    method: Method | str,
    *,
    stream: str | Sequence[str] | None = None,
    model: str | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: Any,
) -> RunRecord:
    """Teach a model the tasks of a stream, one after the other, and measure all of them after each.

        record = nacre.run(am_lora(rank=4), stream="order1", data="data", model="t5-large", optim=Optim(epochs=2))
        print(record.average_accuracy, record.forgetting)

    The same call on an unfinished folder continues it, on a finished one reads it.

    Args:
        method: A method, also one that was put together by hand, or a name as `nacre run --method` takes it.
        stream: A stream's name, a stream file, or names of tasks found under `data`; by default the demo's.
        model: A folder, a Hugging Face name, or by default the embedded demo model.
        data: Where the tasks are.
        seed: Of everything random.
        output: The run's folder; by default one below `runs/` that names what tells runs apart.
        on_event: Called with what happens (see `nacre.events`).
        settings: The recipe's other keys: `optim`, `evaluation`, `limit_train`, `identity`, ...

    Returns:
        The record, as `results.json` in the folder holds it.

    Raises:
        NacreError: Whatever the user can mend, before anything is written.
    """
    from nacre.runs.run import run as carry_out

    places = {"data": data, "output": output}
    given = {
        "stream": stream if stream is None or isinstance(stream, str) else list(stream),
        "model": model,
        "seed": seed,
        **{key: None if place is None else str(place) for key, place in places.items()},
        **settings,
    }
    return carry_out(Recipe.of(method, given), on_event)
