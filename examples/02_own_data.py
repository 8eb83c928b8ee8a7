"""Learn from your own files: one folder per task, one JSON row per line.

    python examples/02_own_data.py

Writes two tiny tasks to a temporary folder, learns them, saves the learner and loads it again.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from nacre import Learner, Optim, build_method, load_host, load_tasks

SENTENCES = {
    "size": {"big": "the {} is as tall as a house", "small": "the {} fits into a hand"},
    "place": {"sea": "we saw the {} from the ship", "land": "we saw the {} on the farm"},
}
ANIMALS = "cat dog horse bird fish seal crab goat duck mouse".split()


def write_task(folder: Path, name: str) -> None:
    """Write train, validation and test rows: {"text": ..., "label": ...}."""
    (folder / name).mkdir(parents=True)
    for split, animals in (("train", ANIMALS[:6]), ("validation", ANIMALS[6:8]), ("test", ANIMALS[8:])):
        rows = [
            {"text": sentence.format(animal), "label": label}
            for animal in animals
            for label, sentence in SENTENCES[name].items()
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name / f"{split}.jsonl").write_text(lines, encoding="utf-8")


with TemporaryDirectory() as temporary:
    data = Path(temporary) / "data"
    for name in SENTENCES:
        write_task(data, name)
    tasks = load_tasks(list(SENTENCES), data)

    method = build_method("inc_lora", {"rank": 4})
    learner = Learner(load_host("demo"), method, seed=1, optim=Optim(learning_rate=5e-3, epochs=20, batch_size=4))
    for task in tasks:
        learner.learn(task)
    for task, score in zip(tasks, learner.evaluate(tasks), strict=True):
        print(f"{task.name}: {score.accuracy:.0%} of {len(task.test)} test rows")

    learner.save(Path(temporary) / "learned")
    question = tasks[1].examples("test")[0].input
    answer = Learner.load(Path(temporary) / "learned").predict([question])
    assert answer == learner.predict([question])
    print("The loaded learner gives the same answer:", *answer)
