"""The one way to the terminal: nothing that comes from a file reaches it as a command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from nacre.printable import printable


@final
class PlainConsole(Console):
    """A console on which text is only text: no markup, no emoji codes, no control characters."""

    def __init__(self, **options: Any) -> None:
        """Takes the options of rich's console."""
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Renders a string; here, so that the widths of columns are those of what is shown."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders anything else."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def print_json(text: str) -> None:
    """Prints a JSON text in ASCII, which every terminal and every pipe takes."""
    print(json.dumps(json.loads(text), indent=2), flush=True)
