"""The links of a built site, and which of them lead nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LinkedPage(HTMLParser):
    """What a page links to or loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect `href`, `src`, `id` and `name`."""
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        self.targets += [values[key] for key in ("href", "src") if key in values]
        if tag != "a" and values.get("rel") != "canonical":
            self.loaded += [values[key] for key in ("href", "src") if key in values]


@cache
def pages_of(site: Path) -> dict[Path, LinkedPage]:
    """The pages of a built site, by their resolved paths: each is parsed once."""
    return {path.resolve(): LinkedPage(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@cache
def _file_at(path: str) -> Path | None:
    """What is shown at a path, None if nothing is; once, for every page has the links of the navigation."""
    file = Path(path)
    if file.is_dir():
        file /= "index.html"
    return file if file.is_file() else None


def dead_links(site: Path) -> Iterator[str]:
    """Yield a sentence for each internal link whose file or anchor does not exist.

    Args:
        site: Folder of a built site.
    """
    pages = pages_of(site)
    for path, page in pages.items():
        if path.name == "404.html":  # its links start at the address where the site will be
            continue
        for target in dict.fromkeys(page.targets):
            address = urlsplit(target)
            if address.scheme or address.netloc:
                continue
            file = _file_at(os.path.normpath(path.parent / unquote(address.path))) if address.path else path
            if file is None:
                yield f"{path.name} links to {target}, and there is no such file"
            elif address.fragment and file in pages and unquote(address.fragment) not in pages[file].anchors:
                yield f"{path.name} links to {target}, and there is no such anchor"


def foreign_loads(site: Path) -> Iterator[str]:
    """Yield what a page would load from another host."""
    for path, page in pages_of(site).items():
        for target in page.loaded:
            if urlsplit(target).netloc:
                yield f"{path.name} loads {target}"
