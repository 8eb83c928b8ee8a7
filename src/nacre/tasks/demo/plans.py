"""The plans of the stream's tasks together, and what is drawn from all of them."""

from __future__ import annotations

import random

from nacre.tasks.demo import mood, place, request, topic
from nacre.tasks.demo.grammar import LabelPlan, TaskPlan, sentence

PLANS: dict[str, TaskPlan] = {plan.name: plan for plan in (topic.PLAN, mood.PLAN, place.PLAN, request.PLAN)}
LABELS: frozenset[str] = frozenset(label for plan in PLANS.values() for label in plan.labels)


def any_label_plan(rng: random.Random) -> tuple[TaskPlan, LabelPlan]:
    """A task and one of its kinds, both at random."""
    plan = rng.choice(list(PLANS.values()))
    return plan, rng.choice(list(plan.labels.values()))


def distraction(rng: random.Random, plan: TaskPlan) -> str:
    """A sentence with clues to a task that ``plan`` is to be told from."""
    other = PLANS[rng.choice(plan.distractors)]
    return sentence(rng, rng.choice(list(other.labels.values())))
