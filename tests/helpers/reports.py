"""Records as a page shows them, and what a browser is asked about the page."""

from __future__ import annotations

from typing import Any

from nacre.records.run import Matrix, RunRecord, Seconds

FOUR = ("topics", "reviews", "questions", "entities")
FIFTEEN = tuple(f"task-{number}" for number in range(1, 16))
ODD = ("<b>&\"'", "</style><script>alert(1)</script>", "x" * 200, "名前の長い課題 – naïve café", "{{ 1 + 1 }} {% if %}")
PROTOCOL = {
    "model": {"name": "demo", "sha256": "9f" * 32},
    "max_length": 512,
    "labels": ["a", "b"],
    "rows": [1, 2] * 99,
}


def score(stage: int, index: int) -> float:
    """A score that is another one in each cell and needs rounding."""
    return (0.91 - 0.0123 * (stage - index) if stage > index else 0.07 + 0.0031 * stage) + 0.00077 * index


def record(tasks: tuple[str, ...] = FOUR, *, matrix: Matrix | None = None, **changes: Any) -> RunRecord:
    """A finished run over the tasks; ``changes`` replaces any field."""
    count = len(tasks)
    filled: Matrix = [[score(stage, index) for index in range(count)] for stage in range(count + 1)]
    fields: dict[str, Any] = {
        "method": "seq_lora",
        "title": "Sequential LoRA",
        "parameters": {"rank": 8, "roles": ["query", "value"]},
        "stream": "demo",
        "tasks": list(tasks),
        "model": "demo",
        "seed": 1,
        "metric": "exact_match",
        "matrix": matrix or filled,
        "valid_answers": [[1.0] * count for _ in range(count + 1)],
        "average_accuracy": 0.7654,
        "learning_accuracy": 0.8767,
        "pooled_accuracy": None,
        "incremental_accuracy": 0.8123,
        "forgetting": 0.1111,
        "backward_transfer": -0.1111,
        "forward_transfer": 0.0222,
        "trainable_parameters": 12345,
        "trainable_parameters_per_task": [12345] * count,
        "stored_parameters": 67890,
        "seconds": Seconds(train=[10.0] * count, evaluate=[1.0] * (count + 1)),
        "peak_rss_bytes": 3 * 2**30,
        "protocol": PROTOCOL,
        "protocol_hash": "a" * 64,
        "definitions": {"average_accuracy": "mean of the last row", "odd": "R[i][j] < 1 & so on"},
    }
    return RunRecord(**(fields | changes))


BROKEN = """() => {
  const broken = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, style = getComputedStyle(node.parentElement);
    if (node.parentElement.closest('svg, .unseen, .hash') || style.writingMode !== 'horizontal-tb') continue;
    for (const word of node.data.matchAll(/[^\\s-]+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map(one => Math.round(one.top)));
      if (lines.size > 1) broken.push(word[0] + ' in ' + node.parentElement.outerHTML);
    }
  }
  return broken;
}"""

SMALLEST = """() => {
  let smallest = 99;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.data.trim() && !node.parentElement.closest('.unseen, style, title, desc'))
      smallest = Math.min(smallest, parseFloat(getComputedStyle(node.parentElement).fontSize));
  }
  return smallest;
}"""
