"""The plans of all tasks of the stream, and what is drawn from all of them."""

from __future__ import annotations

import random

from nacre.tasks.demo import mood, place, request, topic
from nacre.tasks.demo.grammar import LabelPlan, TaskPlan, sentence

PLANS: dict[str, TaskPlan] = {plan.name: plan for plan in (topic.PLAN, mood.PLAN, place.PLAN, request.PLAN)}
LABELS: frozenset[str] = frozenset(label for plan in PLANS.values() for label in plan.labels)


def any_label_plan(rng: random.Random) -> tuple[TaskPlan, LabelPlan]:
    """Returns a random task and a random label of it."""
    plan = rng.choice(list(PLANS.values()))
    return plan, rng.choice(list(plan.labels.values()))


def distraction(rng: random.Random, plan: TaskPlan) -> str:
    """Returns a random sentence with clues to one of the distracting tasks of `plan`."""
    other = PLANS[rng.choice(plan.distractors)]
    return sentence(rng, rng.choice(list(other.labels.values())))
