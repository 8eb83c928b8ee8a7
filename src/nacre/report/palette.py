"""The colors of the heat maps: two ramps of 21 steps, each for light and for dark windows.

The steps are classes of the style sheet (`.score .l13`), so that a cell carries a level and not a color, and the
window's scheme decides. Every step names the text color, black or white, that reads better on it.
"""

from __future__ import annotations

LEVELS = 20
RAMPS = {
    # scheme: ramp: colors at 0, 25, 50, 75 and 100 %
    "light": {
        "score": ("#f4f1ea", "#d3e4e0", "#93c3c8", "#4b8fa6", "#17496b"),
        "valid": ("#f4f1ea", "#ecdcdf", "#d5abc0", "#ad6f97", "#5d2c5c"),
    },
    "dark": {
        "score": ("#20272b", "#1d3f4b", "#24657a", "#4d9fae", "#b4e6df"),
        "valid": ("#20272b", "#412f45", "#6f4670", "#ab77a4", "#f0cfdf"),
    },
}


def level(fraction: float) -> int:
    """The step of a fraction.

    Args:
        fraction: The fraction; what lies outside 0 to 1 takes the end of the ramp.

    Returns:
        0 to 20.
    """
    return round(LEVELS * min(max(fraction, 0.0), 1.0))


def color(scheme: str, ramp: str, step: int) -> str:
    """The background of one step, on straight lines in sRGB between the five colors of the ramp.

    Args:
        scheme: Of the window: `light` or `dark`.
        ramp: `score` or `valid`.
        step: 0 to 20.

    Returns:
        `#rrggbb`.
    """
    stops = [_channels(stop) for stop in RAMPS[scheme][ramp]]
    position = step * (len(stops) - 1) / LEVELS
    left = min(int(position), len(stops) - 2)
    share = position - left
    mixed = (round(a + share * (b - a)) for a, b in zip(stops[left], stops[left + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def text_color(background: str) -> str:
    """Black or white, whichever has more contrast.

    Args:
        background: `#rrggbb`.
    """
    return max(("#000000", "#ffffff"), key=lambda candidate: contrast(candidate, background))


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colors, as WCAG 2 defines it; 4.5 is enough for small text.

    Args:
        first: `#rrggbb`.
        second: `#rrggbb`.

    Returns:
        1 to 21.
    """
    dark, light = sorted((_luminance(first), _luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def css() -> str:
    """The rules of all steps; the dark ones apply to screens only, since paper is white."""
    light, dark = ("\n".join(_rules(scheme)) for scheme in ("light", "dark"))
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _rules(scheme: str) -> list[str]:
    rules = []
    for ramp in RAMPS[scheme]:
        shades = [color(scheme, ramp, step) for step in range(LEVELS + 1)]
        rules.append(f".{ramp} .scale {{ background: linear-gradient(90deg, {', '.join(shades[::5])}) }}")
        for step, shade in enumerate(shades):
            rules.append(f".{ramp} .l{step} {{ background: {shade}; color: {text_color(shade)} }}")
    return rules


def _channels(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _luminance(text: str) -> float:
    linear = (_linear(channel / 255) for channel in _channels(text))
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
