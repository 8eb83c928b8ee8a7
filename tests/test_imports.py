"""No module imports itself through others, be it for types alone. Which room may use which, pyproject.toml says."""

from __future__ import annotations

import grimp
import networkx


def test_there_is_no_circle() -> None:
    graph = grimp.build_graph("nacre", exclude_type_checking_imports=False, cache_dir=None)
    arrows = networkx.DiGraph(
        (module, used) for module in graph.modules for used in graph.find_modules_directly_imported_by(module)
    )
    circles = [sorted(each) for each in networkx.strongly_connected_components(arrows) if len(each) > 1]
    assert not circles
