"""Sentences from patterns: what one label's sentences look like, and the words that every task shares."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

Words = tuple[str, ...]
Patterns = tuple[str, ...]


@dataclass(frozen=True)
class LabelPlan:
    """What one label's sentences look like.

    words: the clues, a word list per slot; empty where the patterns themselves are the clues.
    patterns: sentences with ``{slot}`` places; a slot is a list of ``words`` or of the shared ``WORDS``.
    mentions: ordinary sentences of the unlabelled text in which the label's own word may stand.
    """

    words: Mapping[str, Words]
    patterns: Patterns
    mentions: Patterns


@dataclass(frozen=True)
class TaskPlan:
    """One task: its question, its labels with their kinds, and which other tasks lend it distracting sentences."""

    name: str
    instruction: str
    labels: Mapping[str, LabelPlan]
    distractors: tuple[str, ...]


def word_list(words: str) -> Words:
    """The words between the commas."""
    return tuple(word.strip() for word in words.split(","))


def sentence(rng: random.Random, label_plan: LabelPlan) -> str:
    """A sentence with the kind's clues."""
    return filled(rng, rng.choice(label_plan.patterns), label_plan.words)


def filler(rng: random.Random) -> str:
    """A sentence that tells nothing about any label."""
    return filled(rng, rng.choice(FILLER))


def filled(rng: random.Random, pattern: str, words: Mapping[str, Words] | None = None) -> str:
    """The pattern with a word of ``words`` or ``WORDS`` for every slot, none twice, beginning with an upper case."""
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
