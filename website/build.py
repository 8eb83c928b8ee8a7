"""Builds the documentation site into build/site, without a network: python website/build.py [--build FOLDER]

Pages are docs/*.md, CONTRIBUTING.md and CHANGELOG.md, one page for each method and modifier made from its sheet, and
one page for each public module. What is generated lies in build/pages and is never edited by hand.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

import floors
import sheets_as_pages

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FLOORS = "<!-- floors -->"
PACKAGE = ROOT / "src" / "nacre"


def main() -> int:
    """Write all pages and the settings, then let zensical build them; its exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--build", type=Path, default=ROOT / "build", help="folder for pages/, mkdocs.yml and site/")
    build = options.parse_args().build.resolve()
    pages = build / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    shutil.rmtree(build / "site", ignore_errors=True)
    pages.mkdir(parents=True)
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    copy_docs(pages, settings["repo_url"])
    generated = {"Methods": write_methods(pages / "methods"), "API reference": write_reference(pages / "api")}
    for section in settings["nav"]:
        for title, entries in section.items():
            if title in generated:
                entries.extend(generated[title])
    (python,) = (plugin["mkdocstrings"] for plugin in settings["plugins"] if "mkdocstrings" in plugin)
    python["handlers"]["python"]["paths"] = [str(ROOT / "src")]
    settings |= {"docs_dir": "pages", "site_dir": "site"}
    (build / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    program = Path(sys.executable).with_name("zensical")
    command = [program, "build", "--strict", "--clean", "--config-file", build / "mkdocs.yml"]
    return subprocess.run(command, cwd=build).returncode


def copy_docs(target: Path, repository: str) -> None:
    """Copy what is written by hand. Links to files that are no page lead to the repository."""
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    sources = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    pages = {source.relative_to(ROOT).as_posix(): source.name for source in sources}
    for source in sources:
        folder = source.relative_to(ROOT).parent
        text = LINK.sub(lambda link, folder=folder: moved(link, folder, pages, repository), source.read_text())
        (target / source.name).write_text(text.replace(FLOORS, floors.picture(layers)))
    for kind in ("*.svg", "*.png", "*.css"):
        for file in (ROOT / "docs").rglob(kind):
            copy = target / file.relative_to(ROOT / "docs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def moved(link: re.Match[str], folder: Path, pages: dict[str, str], repository: str) -> str:
    """The link as it must be on the site."""
    opening, target, anchor, closing = link[1], link[2], link[3] or "", link[4]
    if "://" in target or target.startswith(("mailto:", "methods/", "api/")):
        return link[0]
    path = PurePosixPath(*_normal(PurePosixPath(folder.as_posix()) / target))
    if str(path) in pages:
        return f"{opening}{pages[str(path)]}{anchor}{closing}"
    if path.suffix in (".svg", ".png"):
        return f"{opening}{path.relative_to('docs')}{closing}"
    if not (ROOT / path).exists():
        raise SystemExit(f"{folder}: the link to {target} leads nowhere.")
    return f"{opening}{repository}/blob/main/{path}{anchor}{closing}"


def _normal(path: PurePosixPath) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return parts


def write_methods(folder: Path) -> list[dict[str, Any]]:
    """Write an overview and a page for each method and modifier; returns their places in the navigation."""
    folder.mkdir()
    methods, modifiers = list[dict[str, str]](), list[dict[str, str]]()
    for name, text in sheets_as_pages.pages().items():
        (folder / name).write_text(text)
        title = name.removesuffix(".md")
        if title.startswith("plus_"):
            modifiers.append({f"+{title.removeprefix('plus_')}": f"methods/{name}"})
        elif title != "index":
            methods.append({title: f"methods/{name}"})
    return [{"Methods": methods}, {"Modifiers": modifiers}]


def write_reference(folder: Path) -> list[dict[str, Any]]:
    """Write a page for each public module; returns their places in the navigation, by room."""
    folder.mkdir()
    rooms: dict[str, list[dict[str, str]]] = {}
    for source in sorted(PACKAGE.rglob("*.py")):
        parts = source.relative_to(PACKAGE).with_suffix("").parts
        if any(part.startswith("_") for part in parts) or parts[0] == "assets":
            continue
        module = ".".join(("nacre", *parts))
        (folder / f"{module}.md").write_text(f"# {module}\n\n::: {module}\n")
        room = parts[0] if len(parts) > 1 else "ground and top"
        rooms.setdefault(room, []).append({module.removeprefix("nacre."): f"api/{module}.md"})
    lines = ["# API reference", "", "Most users need what `import nacre` offers: [`nacre`](nacre.md).", ""]
    lines += ["All public modules, by room:", ""]
    (folder / "nacre.md").write_text("# nacre\n\n::: nacre\n")
    for room, modules in sorted(rooms.items()):
        lines += [f"## {room}", ""]
        lines += [f"- [`nacre.{name}`]({Path(page).name})" for entry in modules for name, page in entry.items()]
        lines.append("")
    (folder / "index.md").write_text("\n".join(lines))
    return [{"nacre": "api/nacre.md"}, *({room: modules} for room, modules in sorted(rooms.items()))]


if __name__ == "__main__":
    sys.exit(main())
