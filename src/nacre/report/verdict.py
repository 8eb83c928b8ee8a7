"""What a gate said of a version, to read: as Markdown, as a page, and as a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from nacre.printable import one_line
from nacre.records.gate_verdict import GateVerdict, Judgment, Kept
from nacre.report import environment, palette
from nacre.report.numbers import DASH, count, counted, percent, points

RULES = {
    "fail": "The gate opens where everything is kept.",
    "pass": "The gate opens where everything is kept, or is unclear and, as measured, within what may be lost.",
}

HEAD = ("", "against", "before, %", "now, %", "change, points", "interval", "may lose", "rows", "verdict")


@dataclass(frozen=True)
class JudgmentLine:
    """A judgment as a row of a table.

    Attributes:
        name: The task's or the benchmark's.
        values: Against which version, before, now, change, interval, what may be lost, rows.
        kept: The verdict.
    """

    name: str
    values: tuple[str, ...]
    kept: str


def sentence(verdict: GateVerdict) -> str:
    """What the gate said, and why."""
    of = f"Version {verdict.version}"
    if not verdict.judgments:
        return f"{of} passes the gate: there was nothing to keep yet."
    if verdict.passed:
        doubts = _named("unclear, and let pass", verdict, "unclear")
        return f"{of} keeps what it must: {counted(len(verdict.judgments), 'score')} judged.{doubts}"
    advice = " Measure more rows, or allow more." if any(one.kept == "unclear" for one in verdict.judgments) else ""
    groups = "".join(_named(kept, verdict, kept) for kept in ("lost", "unclear", "not measured"))
    return f"{of} does not pass the gate.{groups}{advice}"


def _named(title: str, verdict: GateVerdict, kept: Kept) -> str:
    """The scores of which the same is to be said."""
    found = [_brief(judgment) for judgment in verdict.judgments if judgment.kept == kept]
    return f" {title.capitalize()}: {', '.join(found)}." if found else ""


def _brief(judgment: Judgment) -> str:
    if judgment.before is None or judgment.after is None or judgment.low is None or judgment.high is None:
        return judgment.name
    change = f"{percent(judgment.before)} to {percent(judgment.after)} %"
    ends = f"{points(judgment.low)} to {points(judgment.high)} points on {counted(judgment.rows, 'row')}"
    return f"{judgment.name} {change} ({ends}; may lose {percent(judgment.may_lose)})"


def lines(verdict: GateVerdict) -> list[JudgmentLine]:
    """The judgments as a table."""
    return [_line(judgment) for judgment in verdict.judgments]


def as_markdown(verdict: GateVerdict) -> str:
    """The verdict as Markdown."""
    table = [
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
        *(f"| {' | '.join(map(_plain, (line.name, *line.values, line.kept)))} |" for line in lines(verdict)),
    ]
    return "\n".join(
        [
            f"# {'Passed' if verdict.passed else 'Not passed'}: version {verdict.version}",
            "",
            _plain(sentence(verdict)),
            "",
            _plain(f"Against version {verdict.before}; after '{verdict.task}'; must keep: {verdict.must_keep}."),
            "",
            *table,
            "",
            explained(verdict),
            "",
        ]
    )


def as_html(verdict: GateVerdict) -> str:
    """The verdict as a page that runs no script and loads nothing."""
    template = environment().get_template("verdict.html.j2")
    return template.render(
        verdict=verdict,
        sentence=sentence(verdict),
        lines=lines(verdict),
        head=HEAD,
        explained=explained(verdict),
        heat_colors=Markup(palette.css()),
    )


def explained(verdict: GateVerdict) -> str:
    """What the columns mean."""
    return (
        f"Interval: {100 * verdict.level:.0f} % of the change, by paired bootstrap over the rows that both versions "
        "answered. Kept: even its low end is within what may be lost. Lost: even its high end is beyond. Unclear: "
        f"neither. {RULES[verdict.unclear]}"
    )


def _line(judgment: Judgment) -> JudgmentLine:
    known = judgment.before is not None and judgment.after is not None
    change = None if judgment.before is None or judgment.after is None else judgment.after - judgment.before
    ends = f"{points(judgment.low)} to {points(judgment.high)}" if known else DASH
    limit, rows = percent(judgment.may_lose), count(judgment.rows)
    against = judgment.against[:8]
    values = (against, percent(judgment.before), percent(judgment.after), points(change), ends, limit, rows)
    return JudgmentLine(judgment.name, values, judgment.kept)


def _plain(text: str) -> str:
    """A text that Markdown shows as it is: names are other people's."""
    return re.sub(r"([\\`*_{}\[\]<>|~&])", r"\\\1", one_line(text))
