"""Base ability: how well a host still does what its pre-training taught it."""

from __future__ import annotations

import time
from collections import Counter

from nacre.evaluation.base_ability.benchmarks import AbilityTask, Document
from nacre.evaluation.base_ability.harness import check_host, room, samples_of
from nacre.evaluation.base_ability.programs import (
    LIMITS,
    Limits,
    Trial,
    check_consent,
    containment,
    pass_at_k,
    run_program,
)
from nacre.evaluation.base_ability.scores import ABILITY_METRICS, AbilityScore, Programs, score_of
from nacre.models.host import Host

MAX_NEW_TOKENS = 1024
"""Of an answer to HumanEval, as in lm-eval."""


def measure_ability(
    host: Host,
    task: AbilityTask,
    *,
    batch_size: int = 16,
    max_new_tokens: int = MAX_NEW_TOKENS,
    run_generated_code: bool = False,
    limits: Limits = LIMITS,
) -> AbilityScore:
    """Measure the host as it is now, with the adapters in it: ``measure_ability(learner.host, task)``.

    run_generated_code: HumanEval runs programs that the model has written (see ``programs``), and does so only if
    this is true. Raises ``RecipeError`` otherwise, ``ModelError`` for a host that gives no likelihoods.
    """
    check_host(host)
    if task.name == "humaneval":
        check_consent([task.name], run_generated_code)
        return _programs(host, task, batch_size, max_new_tokens, limits)
    started = time.monotonic()
    samples, cut = samples_of(host, task, batch_size, max_new_tokens)
    right = {metric: [bool(sample[metric]) for sample in samples] for metric in ABILITY_METRICS[task.name]}
    return AbilityScore(
        task=task.name,
        rows=len(samples),
        scores={metric: score_of(values) for metric, values in right.items()},
        truncated=cut,
        seconds=time.monotonic() - started,
        right=right,
        log_likelihoods=[[float(one[0]) for one in sample["filtered_resps"]] for sample in samples],
    )


def _programs(host: Host, task: AbilityTask, batch_size: int, max_new_tokens: int, limits: Limits) -> AbilityScore:
    started = time.monotonic()
    held = containment(limits)  # first: it says so if nothing may be run here
    budget = room(host, task, max_new_tokens)
    samples, cut = samples_of(host, task, batch_size, budget)
    completions = [str(sample["filtered_resps"][0]) for sample in samples]
    outcomes = [
        run_program(trial_of(document, completion), limits, filtered=held.filtered)
        for document, completion in zip(task.documents, completions, strict=True)
    ]
    right = [outcome == "passed" for outcome in outcomes]
    return AbilityScore(
        task=task.name,
        rows=len(samples),
        scores={"pass@1": score_of([pass_at_k(1, int(one), 1) for one in right])},
        truncated=cut,
        seconds=time.monotonic() - started,
        right={"pass@1": right},
        completions=completions,
        programs=Programs(
            max_new_tokens=budget,
            limits=vars(limits),
            **vars(held),
            outcomes=dict(Counter(outcomes)),
        ),
    )


def trial_of(document: Document, completion: str) -> Trial:
    """A problem's program, its head and the answer, with the problem's tests."""
    head = document["prompt"]
    return Trial(head + completion, head, document["test"], document["entry_point"])
