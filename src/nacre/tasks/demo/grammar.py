"""Sentences from patterns: the sentences of one label, and the words that all tasks share."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

Words = tuple[str, ...]
Patterns = tuple[str, ...]


@dataclass(frozen=True)
class LabelPlan:
    """The sentences of one label.

    Attributes:
        words: The clues, a word list per slot; empty if the patterns themselves are the clues.
        patterns: Sentences with `{slot}` places; a slot names a list of `words` or of the shared `WORDS`.
        mentions: Ordinary sentences of the unlabeled text that contain the label itself.
    """

    words: Mapping[str, Words]
    patterns: Patterns
    mentions: Patterns


@dataclass(frozen=True)
class TaskPlan:
    """One task.

    Attributes:
        name: The task's name.
        instruction: Its question.
        labels: The sentences of each label.
        distractors: The tasks whose sentences distract in its texts.
    """

    name: str
    instruction: str
    labels: Mapping[str, LabelPlan]
    distractors: tuple[str, ...]


def word_list(words: str) -> Words:
    """Returns the words between the commas."""
    return tuple(word.strip() for word in words.split(","))


def sentence(rng: random.Random, label_plan: LabelPlan) -> str:
    """Returns a random sentence with the label's clues."""
    return filled(rng, rng.choice(label_plan.patterns), label_plan.words)


def filler(rng: random.Random) -> str:
    """Returns a random sentence without a clue to any label."""
    return filled(rng, rng.choice(FILLER))


def filled(rng: random.Random, pattern: str, words: Mapping[str, Words] | None = None) -> str:
    """Fills every slot of a pattern with a random word; no word occurs twice.

    Args:
        rng: The source of chance.
        pattern: A sentence with slots.
        words: Word lists by slot, besides the shared `WORDS`.

    Returns:
        The sentence, which begins with a capital letter.
    """
    lists = WORDS | dict(words or {})
    drawn: set[str] = set()

    def draw(slot: re.Match[str]) -> str:
        word = rng.choice([choice for choice in lists[slot[1]] if choice not in drawn])
        drawn.add(word)
        return word

    text = re.sub(r"\{(\w+)\}", draw, pattern)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:]


WORDS: dict[str, Words] = {
    "name": word_list(
        "Anna, Ben, Clara, David, Emma, Felix, Grace, Henry, Ida, Jonas, Lena, Mark, Nora, Oscar, Paula, Tom"
    ),
    "kin": word_list(
        "my sister, my brother, my aunt, our neighbor, the old man, the young woman, her friend, his uncle"
    ),
    "day": word_list(
        "on Monday, on Tuesday, on Friday, on Sunday, last week, yesterday, this morning, last night, today"
    ),
    "thing": word_list(
        "lamp, chair, clock, coat, table, mirror, blanket, basket, bicycle, radio, stool, carpet, camera, bottle"
    ),
    "color": word_list("red, blue, green, white, black, yellow, gray, brown"),
    "count": word_list("two, three, four, five, six, ten"),
}
FILLER: Patterns = (
    "{name} and {name} were there {day}.",
    "{kin} told us so {day}.",
    "It happened {day}.",
    "{name} bought a {color} {thing} {day}.",
    "The {thing} was {color}.",
    "{name} lives near {kin}.",
    "{kin} carried a {color} {thing}.",
    "Nobody saw the {color} {thing}.",
    "{name} wrote it down {day}.",
)
