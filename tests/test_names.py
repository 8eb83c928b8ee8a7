"""One name for one thing, and words that a reader knows."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from helpers.modules import classes

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "nacre"

MENDED = """
    adapters cli errors.py evaluation events.py features functional interop learning/checkpoint.py learning/learner.py
    learning/precision.py learning/snapshot.py learning/trainer.py method.py methods modifiers optional.py parts
    per_task.py pretraining records registry.py report seeds.py
""".split()
"""Rooms whose sentences have been edited; to become all of them."""

BANNED = {
    r"\bas ever\b": "as before",
    r"\bis no (?:mean|label|folder|ordinary|number|mask|plain|power|method|modifier|part|share)\b": "is not a ...",
    r"\blearnt\b": "learned",
    r"\bwhat is asked\b|\bis asked for\b": "a noun",
    r"\bhad better not\b": "when not to",
    r"\bgiven up\b": "dropped",
    r"\blast but one\b": "second to last",
    r"\b(?:is|are|be) told\b(?! apart| from)|\bhas to be told\b": "is given, knows",
    r"\bnobody says\b|\bsomebody does\b": "name what is unknown",
    r"\bwhat led to\b": "the cause of",
    r"\bhow is mixed\b|\bhow was trained\b": "a sentence with a subject",
    r'"""Likewise\.': "say it again",
    r"\bin words\b": "a description",
    r"\bcome of it\b|\bcomes of it\b|\bcame of it\b": "result",
    r"\b(?:colour|favour|behaviour|normalise|optimise)": "American spelling",
}
"""Phrases that read like a translation, and what to write instead."""


def test_no_two_public_classes_share_a_name() -> None:
    homes = defaultdict(set)
    for kind in classes():
        if not kind.__name__.startswith("_") and kind.__qualname__ == kind.__name__:
            homes[kind.__name__].add(kind.__module__)
    shared = {name: sorted(modules) for name, modules in homes.items() if len(modules) > 1}
    assert not shared, shared


def test_no_two_types_share_a_name() -> None:
    """Aliases of types count, too: names in CamelCase that a module assigns."""
    homes = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    homes[name].add(str(file.relative_to(PACKAGE)))
    shared = {name: sorted(files) for name, files in homes.items() if len(files) > 1}
    assert not shared, shared


def texts() -> list[Path]:
    """Source files of the mended rooms, and the documentation."""
    sources = [file for room in MENDED for file in sorted({PACKAGE / room, *(PACKAGE / room).rglob("*.py")})]
    return [file for file in (*sources, *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md") if file.is_file()]


@pytest.mark.parametrize("phrase", BANNED)
def test_banned_phrases_are_gone(phrase: str) -> None:
    hits = [
        f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, hit.start()) + 1}: {' '.join(hit[0].split())}"
        for file in texts()
        if (text := file.read_text(encoding="utf-8"))
        for hit in re.finditer(phrase.replace(" ", r"\s+"), text, flags=re.IGNORECASE)
    ]
    assert not hits, f"write: {BANNED[phrase]}\n" + "\n".join(hits)
