"""docs/small_grids.md: the papers' grids as carried out with a small model, one table after the other.

for grid in recipes/*/*_small.yaml; do nacre reproduce $grid; done
python experiments/small_grids.py sweeps
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results_page import write_between

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "small_grids.md"


def tables(sweeps: Path) -> str:
    """What `nacre reproduce` wrote down of each grid that was carried out."""
    parts = []
    for grid in sorted((ROOT / "recipes").glob("*/*_small.yaml")):
        table = sweeps / grid.stem / "table.md"
        if table.exists():
            source, _, rows = table.read_text(encoding="utf-8").partition("\n")
            parts.append(f"### {grid.relative_to(ROOT)}\n\n{source}\n{rows.rstrip()}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, help="the folder of the sweeps' folders")
    write_between("<!-- tables -->", "<!-- end of tables -->", tables(parser.parse_args().sweeps), PAGE)


if __name__ == "__main__":
    main()
