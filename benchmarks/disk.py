"""Bytes on disk of a run's stages, by what they hold, at some places of a long stream.

    python benchmarks/disk.py --tasks 60 --at 1 15 60 --methods inc_lora am_lora seq_lora+replay

The demo's model learns short tasks of its own: the bytes of what is learned depend on a host's and an adapter's shapes
and on the number of tasks, not on what is learned.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nacre.events import ignore
from nacre.learning.settings import Optim
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

KINDS = {"tensors": "*.safetensors", "state": "state.json", "gates": "gates.*", "answers": "predictions/*"}
WORDS = "dog cat cow hen stone lamp spoon chair".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--at", type=int, nargs="+", default=[1, 15, 60])
    parser.add_argument("--methods", nargs="+", default=["inc_lora", "am_lora", "seq_lora", "seq_lora+replay"])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--matrix", default="last", choices=["full", "seen", "last"])
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="nacre-disk-"))
    try:
        stream = write_stream(place / "data", arguments.tasks)
        for method in arguments.methods:
            recipe = Recipe(
                method=method,
                stream=stream,
                data=str(place / "data"),
                model=arguments.model,
                matrix=arguments.matrix,
                optim=Optim(batch_size=8),
                output=str(place / method),
            )
            run(recipe, ignore)
            print("\n".join(table(place / method / "tasks", method, arguments.at)), flush=True)
    finally:
        shutil.rmtree(place)


def write_stream(data: Path, tasks: int) -> list[str]:
    """Tasks of eight training rows and two test rows. Returns their names."""
    names = [f"task{number:02d}" for number in range(1, tasks + 1)]
    for number, name in enumerate(names):
        folder = data / name
        folder.mkdir(parents=True)
        for split, rows in (("train", 8), ("test", 2)):
            lines = [
                json.dumps({"text": f"the {WORDS[(row + number) % 8]} near the sea", "label": ("yes", "no")[row % 2]})
                for row in range(rows)
            ]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "task.json").write_text(json.dumps({"labels": ["yes", "no"], "instruction": "Is it an animal ?"}))
    return names


def table(stages: Path, method: str, at: list[int]) -> Iterator[str]:
    """Kilobytes of the stage after each of these tasks, and of it and all before it together."""
    folders = sorted(stages.iterdir())
    yield f"| {method} | {' | '.join(KINDS)} | other | stage, kB | all stages so far, kB |"
    yield "|---" * (len(KINDS) + 4) + "|"
    for task in at:
        kinds = [kilobytes(folders[task], pattern) for pattern in KINDS.values()]
        whole = kilobytes(folders[task], "**/*")
        so_far = sum(kilobytes(folder, "**/*") for folder in folders[: task + 1])
        cells = " | ".join(f"{size:.1f}" for size in (*kinds, whole - sum(kinds), whole, so_far))
        yield f"| after task {task} | {cells} |"
    yield ""


def kilobytes(folder: Path, pattern: str) -> float:
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file()) / 1000


if __name__ == "__main__":
    main()
