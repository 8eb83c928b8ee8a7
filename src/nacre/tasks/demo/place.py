"""The task "place": things and actions reveal the place."""

from __future__ import annotations

from nacre.tasks.demo.grammar import LabelPlan, Patterns, TaskPlan, word_list

_PATTERNS: Patterns = (
    "There was a {item} beside the {item}.",
    "{name} put the {thing} next to the {item}.",
    "{kin} {did} near the {item}.",
    "{name} {did} while {kin} {did}.",
    "Behind the {item} stood a {item}.",
    "{name} noticed a {item} and {did}.",
)
_MENTIONS: Patterns = (
    "{name} went to the LABEL {day}.",
    "{kin} stayed in the LABEL.",
    "They met at the LABEL {day}.",
)


def _label(label: str, item: str, did: str) -> LabelPlan:
    mentions = tuple(pattern.replace("LABEL", label) for pattern in _MENTIONS)
    return LabelPlan({"item": word_list(item), "did": word_list(did)}, _PATTERNS, mentions)


PLAN = TaskPlan(
    "place",
    "Where does this happen?",
    labels={
        "kitchen": _label(
            "kitchen",
            "pan, oven, spoon, stove, sink, pot, kettle, fridge, bowl, toaster, cupboard, apron",
            "stirred the soup, baked bread, peeled onions, washed dishes, sliced cheese",
        ),
        "forest": _label(
            "forest",
            "tree, fern, owl, deer, mushroom, branch, fox, oak, pine, squirrel, stump, nest",
            "followed the trail, gathered berries, chopped wood, climbed an oak, watched a deer",
        ),
        "harbor": _label(
            "harbor",
            "ship, anchor, sailor, rope, gull, net, boat, pier, mast, sail, lighthouse, captain",
            "caught fish, loaded the cargo, tied a knot, painted the boat, hoisted the sail",
        ),
        "school": _label(
            "school",
            "teacher, desk, blackboard, pupil, notebook, pencil, globe, classroom, ruler, exam, library, satchel",
            "learned spelling, did homework, raised a hand, solved the sum, read a lesson",
        ),
    },
    distractors=("mood", "topic"),
)
