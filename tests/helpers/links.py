"""The links of a built site, and which of them lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator
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


def dead_links(site: Path) -> Iterator[str]:
    """Yield a sentence for each internal link whose file or anchor does not exist.

    Args:
        site: Folder of a built site.
    """
    pages = {path.resolve(): LinkedPage(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        if path.name == "404.html":  # its links start at the address where the site will be
            continue
        for target in page.targets:
            address = urlsplit(target)
            if address.scheme or address.netloc:
                continue
            file = (path.parent / unquote(address.path)).resolve() if address.path else path
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                yield f"{path.name} links to {target}, and there is no such file"
            elif address.fragment and file in pages and unquote(address.fragment) not in pages[file].anchors:
                yield f"{path.name} links to {target}, and there is no such anchor"


def foreign_loads(site: Path) -> Iterator[str]:
    """Yield what a page would load from another host."""
    for path in site.rglob("*.html"):
        for target in LinkedPage(path.read_text(encoding="utf-8")).loaded:
            if urlsplit(target).netloc:
                yield f"{path.name} loads {target}"
