"""What a reader of a report's tags sees."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """The page as a reader of its tags sees it: heat maps as rows of cell texts, all text, what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.maps: list[list[list[str]]] = []
        self.hovers: list[str] = []
        self.diagonal: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.scopeless = 0
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        classes = (names.get("class") or "").split()
        self.tags.add(tag)
        self.loads += [f"{tag} {key}" for key in names if key in ("src", "href", "srcset", "data", "action")]
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.scopeless += tag == "th" and not names.get("scope")
        if tag == "table" and "heat" in classes:
            self.maps.append([])
        if tag == "tr" and self.maps:
            self.maps[-1].append([])
        if tag == "td" and "cell" in classes:
            self._cell = []
            self.hovers.append(names["title"] or "")
            self.diagonal += ["just" if "just" in classes else ""]

    def handle_endtag(self, tag: str) -> None:
        if tag == "td" and self._cell is not None:
            self.maps[-1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def cells(self, number: int = 0) -> list[list[str]]:
        return [row for row in self.maps[number] if row]
