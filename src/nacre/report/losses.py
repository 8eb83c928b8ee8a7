"""The loss over a run's steps, stage after stage, as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nacre.records.view import LossCurve
from nacre.report.curves import STYLES, TICK_WIDTH, Chart, Line, Point, Stroke, Tick
from nacre.report.intervals import round_ticks
from nacre.report.names import shorten

HEIGHT = 190


def loss_chart(curves: Sequence[LossCurve]) -> Chart | None:
    """Draw the loss from the first step to the last; where a stage begins, the line begins anew.

    Args:
        curves: Of the stages, in their order.

    Returns:
        The chart; None where no loss was read.
    """
    if not curves:
        return None
    starts = [sum(curve.steps for curve in curves[:number]) for number in range(len(curves))]
    total = starts[-1] + curves[-1].steps
    ticks, step = round_ticks(0.0, max(loss for curve in curves for _, loss in curve.readings) * 1.05 or 1.0)
    top = ticks[-1] + step
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))

    def placed(start: int, curve: LossCurve) -> Stroke:
        return tuple(
            (round(100 * (start + number) / total, 2), round(100 - 100 * max(loss, 0.0) / top, 2))
            for number, loss in curve.readings
        )

    strokes = [placed(start, curve) for start, curve in zip(starts, curves, strict=True)]
    said = [
        f"{curve.name}: loss {curve.readings[0][1]:.3g} at step {curve.readings[0][0]}, {curve.readings[-1][1]:.3g} at "
        f"step {curve.readings[-1][0]}"
        for curve in curves
    ]
    lone = [
        Point(*stroke[0], hover=text, mark="lone")
        for stroke, text in zip(strokes, said, strict=True)
        if len(stroke) == 1
    ]
    named = len(curves) <= STYLES
    return Chart(
        name="Loss over the steps of all tasks",
        description=". ".join(said) + ".",
        height=HEIGHT,
        lines=(Line("loss", 0, (), tuple(strokes), tuple(lone)),),
        ticks=(
            *(
                Tick(round(100 * start / total, 2), f"{start:,}", shorten(curve.name, TICK_WIDTH) if named else "")
                for start, curve in zip(starts, curves, strict=True)
            ),
            Tick(100.0, f"{total:,}", ""),
        ),
        levels=tuple((round(100 - 100 * tick / top, 2), f"{tick:.{decimals}f}") for tick in (*ticks, top)),
        small=False,
    )
