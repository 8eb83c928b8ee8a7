"""One page for each method and modifier, made from the same sheet that `nacre methods NAME` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nacre.cli.method_table import markdown_table
from nacre.cli.sheets import list_document, method_document, modifier_document

SPECIAL = re.compile(r"([\\*_<>\[\]|])")


def pages() -> dict[str, str]:
    """All pages by file name: an overview, then methods, then modifiers (`plus_NAME.md`)."""
    listed = list_document()
    found = {"index.md": "\n".join(overview(listed))}
    for entry in listed["methods"]:
        found[f"{entry['name']}.md"] = "\n".join(method_page(method_document(entry["name"])))
    for entry in listed["modifiers"]:
        found[f"plus_{entry['name']}.md"] = "\n".join(modifier_page(modifier_document(entry["name"])))
    return found


def overview(listed: Mapping[str, Any]) -> Iterator[str]:
    """Two tables that lead to the pages."""
    yield "# Methods\n\nEvery page here is made from the method's own code and docstring.\n"
    entries = [{**entry, "title": markdown(entry["title"])} for entry in listed["methods"]]
    yield re.sub(r"^\| `(\w+)` ", r"| [`\1`](\1.md) ", markdown_table(entries), flags=re.MULTILINE)
    yield "\n## Modifiers\n\nAdd one to a method with `+`, as in `seq_lora+migu`.\n\n| name | what it adds |\n|---|---|"
    for entry in listed["modifiers"]:
        yield f"| [`+{entry['name']}`](plus_{entry['name']}.md) | {markdown(entry['does'])} |"
    yield ""


def method_page(document: Mapping[str, Any]) -> Iterator[str]:
    """A method's sheet."""
    yield f"# {document['name']}\n\n**{markdown(document['title'])}**\n"
    yield from _sheet(document, prefix="")
    yield f"Learning rate when none is given: `{document['learning_rate']}`.\n"
    yield "## Slots\n\n| slot | holds |\n|---|---|"
    for slot, held in document["slots"].items():
        parts = held if isinstance(held, list) else [held]
        yield f"| {slot} | {'<br>'.join(f'`{part}`' for part in parts if part) or 'none'} |"
    yield "\n## Traits\n\n| trait | |\n|---|---|"
    for trait, holds in document["traits"].items():
        yield f"| {trait} | {'yes' if holds else 'no'} |"
    yield "\n## On the command line\n"
    yield f"```\nnacre run --method {document['name']}\n```\n"
    yield from _end()


def modifier_page(document: Mapping[str, Any]) -> Iterator[str]:
    """A modifier's sheet, and the methods that it goes with as they are."""
    name = document["name"].removeprefix("+")
    yield f"# {document['name']}\n\nA modifier: `--method METHOD{document['name']}`.\n"
    yield from _sheet(document, prefix=f"{name}.")
    yield "## Compatible methods\n"
    yield "With default settings: " + (", ".join(f"[`{m}`]({m}.md)" for m in document["goes with"]) or "none") + ".\n"
    for method, reason in document["does not go with"].items():
        yield f"- Not with [`{method}`]({method}.md): {markdown(reason)}"
    yield ""
    yield from _end()


def _sheet(document: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for paragraph in document["text"].split("\n\n"):
        if paragraph.startswith("Equations"):
            yield f'<div class="equations" markdown>\n\n```text\n{paragraph}\n```\n\n</div>\n'
        else:
            yield markdown(paragraph) + "\n"
    if document["types"]:
        yield "## Parameters\n\n| parameter | default | type | meaning |\n|---|---|---|---|"
    for key, kind in document["types"].items():
        default, meaning = document["parameters"][key], markdown(document["explained"].get(key, ""))
        yield f"| `{prefix}{key}` | `{default!r}` | `{kind}` | {meaning} |"
    yield ""
    if document["assumed"]:
        yield "## Assumed where the sources do not say\n"
        yield from (f"- {markdown(sentence)}" for sentence in document["assumed"])
        yield ""


def _end() -> Iterator[str]:
    yield "What the sources leave open, what is done here, and why: [Fidelity](../fidelity.md).\n"


def markdown(text: str) -> str:
    """Plain text whose characters mean themselves; what stands in backticks stays code."""
    pieces = re.split(r"(`+[^`]*`+)", " ".join(text.split()))
    return "".join(piece if piece.startswith("`") else SPECIAL.sub(r"\\\1", piece) for piece in pieces)
