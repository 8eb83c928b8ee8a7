"""Text without labels, in the vocabulary and grammar of the tasks: the embedded model was pre-trained on it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from nacre.seeds import derive
from nacre.tasks.demo.exercises import exercise
from nacre.tasks.demo.grammar import FILLER, Patterns, filled, sentence
from nacre.tasks.demo.plans import any_label_plan, distraction
from nacre.tasks.demo.rows import demo_tasks
from nacre.tasks.task import SPLITS

# The words of the tasks' instructions, so that a tokenizer knows them.
_CHATTER: Patterns = (
    "{name} wondered where this could happen.",
    "{kin} asked what kind of {thing} it was.",
    "This is a message about the {thing}.",
    "{name} read the text {day}.",
    "{kin} does feel it, and so does the person {day}.",
    "How does {name} know what this is about?",
)


def unlabelled_text(seed: int, lines: int) -> Iterator[str]:
    """Writes passages in the vocabulary and grammar of the tasks that contain no task's answers.

    Half of them are short stories, in which a label is a word like any other ("Anna loves music."). The others are
    exercises in the layout of the tasks' prompts, about other words: see `answers_a_label`. A passage may contain line
    ends but no empty line, and is never the text of a row.

    Args:
        seed: The same seed gives the same passages.
        lines: The number of passages; a larger one adds more at the end.

    Yields:
        The passages.
    """
    used = {row.text for task in demo_tasks() for split in SPLITS for row in task.rows(split)}
    rng = random.Random(derive(seed, "demo", "unlabelled"))  # a seed's name is no prose: it stays as it is spelled
    for _ in range(lines):
        passage = _passage(rng)
        while passage in used:
            passage = _passage(rng)
        yield passage


def _passage(rng: random.Random) -> str:
    return _story(rng) if rng.random() < 0.5 else exercise(rng)


def _story(rng: random.Random) -> str:
    """Sentences of one label, often with an ordinary mention of it, a distraction or a filler."""
    plan, label_plan = any_label_plan(rng)
    sentences = [sentence(rng, label_plan) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.6:
        sentences.append(filled(rng, rng.choice(label_plan.mentions), label_plan.words))
    if rng.random() < 0.4:
        sentences.append(distraction(rng, plan))
    if rng.random() < 0.3:
        sentences.append(filled(rng, rng.choice(FILLER + _CHATTER)))
    rng.shuffle(sentences)
    return " ".join(sentences)
