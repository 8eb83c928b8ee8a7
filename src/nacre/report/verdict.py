"""What a gate said of a version, to read: as Markdown, as a page, and as a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from nacre.printable import one_line
from nacre.records.verdict import Finding, Kept, Verdict
from nacre.report import environment, palette
from nacre.report.numbers import DASH, count, counted, percent, points

RULES = {
    "fail": "The gate opens where everything is kept.",
    "pass": "The gate opens where everything is kept, or is unclear and, as measured, within what may be lost.",
}

HEAD = ("", "before, %", "now, %", "change, points", "interval", "may lose", "rows", "verdict")


@dataclass(frozen=True)
class Line:
    """A finding as a row of a table.

    Attributes:
        name: The task's or the benchmark's.
        values: Before, now, change, interval, what may be lost, rows.
        kept: The verdict.
    """

    name: str
    values: tuple[str, ...]
    kept: str


def sentence(verdict: Verdict) -> str:
    """What the gate said, and why."""
    of = f"Version {verdict.version}"
    if not verdict.findings:
        return f"{of} passes the gate: there was nothing to keep yet."
    if verdict.passed:
        doubts = _named("unclear, and let pass", verdict, "unclear")
        return f"{of} keeps what it must: {counted(len(verdict.findings), 'score')} judged.{doubts}"
    advice = " Measure more rows, or allow more." if any(one.kept == "unclear" for one in verdict.findings) else ""
    groups = "".join(_named(kept, verdict, kept) for kept in ("lost", "unclear", "not measured"))
    return f"{of} does not pass the gate.{groups}{advice}"


def _named(title: str, verdict: Verdict, kept: Kept) -> str:
    """The scores of which the same is to be said."""
    found = [_brief(finding) for finding in verdict.findings if finding.kept == kept]
    return f" {title.capitalize()}: {', '.join(found)}." if found else ""


def _brief(finding: Finding) -> str:
    if finding.before is None or finding.after is None or finding.low is None or finding.high is None:
        return finding.name
    change = f"{percent(finding.before)} to {percent(finding.after)} %"
    ends = f"{points(finding.low)} to {points(finding.high)} points on {counted(finding.rows, 'row')}"
    return f"{finding.name} {change} ({ends}; may lose {percent(finding.may_lose)})"


def lines(verdict: Verdict) -> list[Line]:
    """The findings as a table."""
    return [_line(finding) for finding in verdict.findings]


def as_markdown(verdict: Verdict) -> str:
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


def as_html(verdict: Verdict) -> str:
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


def explained(verdict: Verdict) -> str:
    """What the columns mean."""
    return (
        f"Interval: {100 * verdict.level:.0f} % of the change, by paired bootstrap over the rows that both versions "
        "answered. Kept: even its low end is within what may be lost. Lost: even its high end is beyond. Unclear: "
        f"neither. {RULES[verdict.unclear]}"
    )


def _line(finding: Finding) -> Line:
    known = finding.before is not None and finding.after is not None
    change = None if finding.before is None or finding.after is None else finding.after - finding.before
    ends = f"{points(finding.low)} to {points(finding.high)}" if known else DASH
    limit, rows = percent(finding.may_lose), count(finding.rows)
    values = (percent(finding.before), percent(finding.after), points(change), ends, limit, rows)
    return Line(finding.name, values, finding.kept)


def _plain(text: str) -> str:
    """A text that Markdown shows as it is: names are other people's."""
    return re.sub(r"([\\`*_{}\[\]<>|~&])", r"\\\1", one_line(text))
