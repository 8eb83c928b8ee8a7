"""The task "mood": what people do and how they are reveals how they feel."""

from __future__ import annotations

from nacre.tasks.demo.grammar import LabelPlan, Patterns, TaskPlan, word_list

_PATTERNS: Patterns = (
    "{name} {did} and {did}.",
    "{kin} {did} {day}.",
    "Then {name} {did}, {how}.",
    "{name} was {how} and {did}.",
    "{how}, {kin} {did}.",
    "When {name} came, {kin} {did}.",
)
_MENTIONS: Patterns = ("{name} was LABEL {day}.", "{kin} felt LABEL.", "LABEL people were there {day}.")


def _label(label: str, did: str, how: str) -> LabelPlan:
    mentions = tuple(pattern.replace("LABEL", label) for pattern in _MENTIONS)
    return LabelPlan({"did": word_list(did), "how": word_list(how)}, _PATTERNS, mentions)


PLAN = TaskPlan(
    "mood",
    "How does the person feel?",
    labels={
        "happy": _label(
            "happy",
            "smiled, laughed, danced, cheered, clapped, giggled, hugged everyone, jumped for joy",
            "full of joy, cheerful, delighted, merry, bright with luck",
        ),
        "sad": _label(
            "sad",
            "cried, wept, sighed, sobbed, shed a tear, mourned, looked down, missed everyone",
            "full of sorrow, gloomy, lonely, heartbroken, in tears",
        ),
        "angry": _label(
            "angry",
            "shouted, yelled, cursed, slammed the door, stamped, growled, broke a plate, made a fist",
            "full of rage, furious, bitter, red with fury, annoyed",
        ),
        "afraid": _label(
            "afraid",
            "trembled, shivered, hid, froze, ran away, turned pale, gasped, called for help",
            "full of fear, frightened, nervous, white with terror, alarmed",
        ),
    },
    distractors=("topic", "place"),
)
