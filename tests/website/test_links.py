"""The checks of a site's links see what they are for."""

from __future__ import annotations

from pathlib import Path

from helpers.links import dead_links, foreign_loads


def test_dead_and_foreign_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "index.html").write_text('<h2 id="here"></h2><a href="../index.html#top">back</a>')
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="api/">folder</a><a href="api/#here">anchor</a><a href="#top">own</a>'
        '<a href="gone.html">dead</a><a href="api/#gone">dead anchor</a><a href="https://example.org">elsewhere</a>'
        '<script src="https://example.org/a.js"></script>'
    )
    assert list(dead_links(tmp_path)) == [
        "index.html links to gone.html, and there is no such file",
        "index.html links to api/#gone, and there is no such anchor",
    ]
    assert list(foreign_loads(tmp_path)) == ["index.html loads https://example.org/a.js"]
