"""Choosing among labels: by every rule and among every set of candidates, beside a pass for each row and label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import DataError, RecipeError
from nacre.evaluation.candidates import Calibration, Candidates
from nacre.evaluation.decoding import answer
from nacre.evaluation.settings import Decoding, LabelRule
from nacre.functional.label_rules import prior_offsets, share_offsets
from nacre.functional.segments import NONE
from nacre.learning.learner import Learner
from nacre.learning.router import LearnerRouter, routed_by
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.inc_lora import inc_lora
from nacre.methods.independent import independent
from nacre.methods.nearest_mean import nearest_mean
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.parts.given_task import GivenTask
from nacre.registry import build_method
from nacre.tasks.task import Task

RATES = {"t5": 3e-3, "llama": 3e-3, "roberta": 3e-2}
HOSTS = ("t5", "llama", "roberta")
LONG = ("the big dog", "red red", "a small cat", "no no no")
TASKS = (
    tiny_task("animals", labels=("yes", "no")),
    tiny_task("colors", labels=("red", "no", "green")),
)


def spread(host: Host) -> Host:
    """Larger weights: rows differ, and so do their answers."""
    if host.family.name == "encoder-decoder":
        with torch.no_grad():
            for parameter in host.model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(4)
    return host


def learned(
    architecture: str,
    method: Method | None = None,
    tasks: Sequence[Task] = TASKS,
    batch_size: int = 64,
    epochs: int = 6,
    **decoding: Any,
) -> Learner:
    settings = Decoding(decode="labels", batch_size=batch_size, **decoding)
    host = spread(tiny_host(architecture, torch.float64))
    optim = Optim(epochs=epochs, batch_size=4, learning_rate=RATES[architecture], max_target_length=8)
    learner = Learner(host, method or seq_lora(rank=2), optim=optim, decoding=settings)
    for task in tasks:
        learner.learn(task)
    return learner


@torch.no_grad()
def log_p(learner: Learner, row: Encoded, label: str) -> float:
    """Of a label, by one pass over the whole model without padding; of a class, among all."""
    host = learner.host
    assert row.example is not None
    (ids,) = host.family.label_set(row.example, [label], learner.lengths)
    source = torch.tensor([row.source])
    if host.family.name == "encoder-only":
        logits = host.model(input_ids=source, attention_mask=torch.ones_like(source)).logits
        return float(logits.double().log_softmax(-1)[0, ids[0]]) if ids else -math.inf
    if host.family.name == "encoder-decoder":
        decoder = torch.tensor([[host.model.generation_config.decoder_start_token_id, *ids[:-1]]])
        logits = host.model(input_ids=source, decoder_input_ids=decoder).logits[0]
    else:
        whole = torch.tensor([[*row.source, *ids[:-1]]])
        logits = host.model(input_ids=whole).logits[0, len(row.source) - 1 :]
    return math.fsum(logits.double().log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).flatten().tolist())


def length(learner: Learner, row: Encoded, label: str) -> int:
    assert row.example is not None
    return len(learner.host.family.label_set(row.example, [label], learner.lengths)[0])


def naive_offsets(learner: Learner, task: Task) -> dict[str, float]:
    labels = task.labels or ()
    rows = learner.encode(task.examples("validation"))
    scores = torch.tensor([[log_p(learner, row, label) for label in labels] for row in rows], dtype=torch.float64)
    if learner.decoding.label_scores == "prior":
        offsets = prior_offsets(scores, learner.decoding.pseudo_rows)
    else:
        targets = [row.target for row in task.train]
        counts = torch.tensor([targets.count(label) for label in labels], dtype=torch.float64)
        offsets = share_offsets(scores, counts / counts.sum(), learner.decoding.pseudo_rows)
    return dict(zip(labels, offsets.tolist(), strict=True))


def best(scores: dict[str, float]) -> str:
    """The first of the best, and "" where none can be given."""
    found = max(scores, key=scores.__getitem__)
    return "" if scores[found] == -math.inf else found


# Rules


@pytest.mark.parametrize("architecture", HOSTS)
def test_the_plain_choice_is_the_hosts(architecture: str) -> None:
    """The sum, among the row's own labels: by the host's search, and by scores that are all computed."""
    learner = learned(architecture)
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        labels = task.labels or ()
        rows = learner.encode(task.examples("test"))
        numbers = learner.host.family.label_set(task.examples("test")[0], labels, learner.lengths)
        assert answers == [labels[best or 0] for best in learner.host.classify(rows, numbers)]
        assert answers == [labels[best] for best in learner.label_scores(rows, labels).argmax(1).tolist()]
        assert answers == [best({label: log_p(learner, row, label) for label in labels}) for row in rows]


@pytest.mark.parametrize("architecture", HOSTS)
def test_the_mean_over_tokens(architecture: str) -> None:
    task = replace(TASKS[1], labels=("red", "no", "green", *LONG))
    learner = learned(architecture, tasks=[task], epochs=3, label_scores="token_mean")
    (answers,) = learner.answer([task])
    by_sum = learned(architecture, tasks=[task], epochs=3).answer([task])[0]
    expected = []
    for row in learner.encode(task.examples("test")):
        own = {label: log_p(learner, row, label) / length(learner, row, label) for label in task.labels or ()}
        expected.append(best(own))
    assert answers == expected
    if learner.host.family.is_generative:
        assert answers != by_sum
    else:
        assert answers == by_sum  # a class is one token


@pytest.mark.parametrize("architecture", HOSTS)
@pytest.mark.parametrize("rule", ["prior", "match_share"])
def test_calibrated_labels(architecture: str, rule: LabelRule) -> None:
    """The newest task's calibration is that of the learner as it answers; an earlier one stays as it was."""
    learner = learned(architecture, tasks=[TASKS[0]], label_scores=rule)
    before = naive_offsets(learner, TASKS[0])
    learner.learn(TASKS[1])
    offsets = {"animals": before, "colors": naive_offsets(learner, TASKS[1])}
    for name, own in offsets.items():
        found = learner.state.calibrations[name]
        assert dict(zip(found.labels, found.offsets, strict=True)) == pytest.approx(own, abs=1e-6)
        assert max(map(abs, found.offsets)) > 0.01
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        for row, text in zip(learner.encode(task.examples("test")), answers, strict=True):
            own = offsets[task.name]
            assert text == best({label: log_p(learner, row, label) - offset for label, offset in own.items()})


@pytest.mark.parametrize("architecture", HOSTS)
def test_labels_of_one_token_have_the_same_sum_and_mean(architecture: str) -> None:
    sums, means = learned(architecture), learned(architecture, label_scores="token_mean")
    assert sums.answer(TASKS) == means.answer(TASKS)


def test_a_task_before_it_is_learned_has_no_calibration() -> None:
    plain, calibrated = learned("t5", tasks=[]), learned("t5", tasks=[], label_scores="prior")
    assert calibrated.answer(TASKS) == plain.answer(TASKS)


def test_a_label_without_training_rows_counts_as_one() -> None:
    task = tiny_task(labels=("yes", "no"))
    task = replace(task, labels=("yes", "no", "maybe"))
    scores = torch.tensor([[0.0, -1.0, -2.0], [-1.0, 0.0, -1.0]])
    found = Calibration.of(Decoding(decode="labels", label_scores="match_share", pseudo_rows=0), task, scores)
    shares = torch.tensor([6, 6, 1]).double() / 13
    assert found.offsets == tuple(share_offsets(scores, shares, 0).tolist())


def test_what_cannot_be_calibrated_is_refused_before_it_is_learned() -> None:
    learner = learned("t5", tasks=[], label_scores="match_share")
    with pytest.raises(DataError, match=r"'animals' has no validation rows, by which label_scores=match_share"):
        learner.learn(replace(TASKS[0], validation=()))
    with pytest.raises(DataError, match=r"The validation rows of task 'animals' are measured"):
        learner.learn(replace(TASKS[0], test=TASKS[0].validation))
    assert learner.state.tasks == []
    learned("t5", tasks=[replace(TASKS[0], validation=())], label_scores="token_mean")


def test_what_was_not_calibrated_is_not_answered() -> None:
    learner = learned("t5", tasks=[TASKS[0]], label_scores="prior")
    learner.decoding = Decoding(decode="labels", label_scores="match_share")
    with pytest.raises(DataError, match=r"'animals' were calibrated with label_scores=prior, pseudo_rows=20"):
        learner.answer([TASKS[0]])
    learner = learned("t5", tasks=[TASKS[0]])
    learner.decoding = Decoding(decode="labels", label_scores="prior")
    with pytest.raises(DataError, match=r"'animals' were not calibrated when it was learned"):
        learner.answer([TASKS[0]])


def test_a_task_that_is_learned_again_is_calibrated_again() -> None:
    learner = learned("t5", tasks=[TASKS[0]], label_scores="prior")
    before = learner.state.calibrations["animals"]
    learner.learn(TASKS[0], again=True)
    after = learner.state.calibrations["animals"]
    assert dict(zip(after.labels, after.offsets, strict=True)) == pytest.approx(
        naive_offsets(learner, TASKS[0]), abs=1e-6
    )
    assert after != before


def test_what_is_refused_at_once() -> None:
    for settings in ({"label_scores": "prior"}, {"candidates": "union"}):
        with pytest.raises(RecipeError, match=r"free answers are not chosen among labels; add decode=labels"):
            Decoding(**settings)  # type: ignore[arg-type]
    host = tiny_host("t5")
    with pytest.raises(RecipeError, match=r"label_scores=prior: .* weighs labels by evidence of its own"):
        Learner(host, nearest_mean(), decoding=Decoding(decode="labels", label_scores="prior"))
    routed = Decoding(decode="labels", candidates="routed_task")
    for name in ("seq_lora", "nearest_mean", "l2p", "mocl", "latent_lora", "inc_lora+gaussian_routing+evidence"):
        with pytest.raises(RecipeError, match=r"candidates=routed_task: .* answers no row as one task"):
            Learner(host, build_method(name), decoding=routed)
    with pytest.raises(RecipeError, match=r"candidates=routed_task"):
        Learner(host, build_method("am_lora+gaussian_routing"), decoding=routed)
    union = Decoding(decode="labels", candidates="union")
    with pytest.raises(RecipeError, match=r"candidates=union: with head=per_task"):
        Learner(tiny_host("roberta"), seq_lora(), decoding=union, head="per_task")
    Learner(host, seq_lora(), decoding=union)  # nothing of the above holds the host


def test_labels_that_are_the_same_tokens_are_refused_before_they_are_learned() -> None:
    learner = learned("t5", tasks=[], candidates="union")
    with pytest.raises(DataError, match=r"'yes' and 'yes\s+' are the same tokens"):
        learner.learn(replace(TASKS[0], labels=("yes", "no", "yes ")))


# Candidates


@pytest.mark.parametrize("architecture", HOSTS)
@pytest.mark.parametrize("rule", ["sum", "token_mean", "prior", "match_share"])
def test_the_union_of_all_labels(architecture: str, rule: LabelRule) -> None:
    learner = learned(architecture, label_scores=rule, candidates="union")
    offsets: dict[str, dict[str, float]] = {}
    for name, own in learner.state.calibrations.items():
        offsets[name] = dict(zip(own.labels, own.offsets, strict=True))
    pairs = [(task.name, label) for task in TASKS for label in task.labels or ()]
    seen = set()
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        for row, text in zip(learner.encode(task.examples("test")), answers, strict=True):
            scores: dict[str, float] = {}
            for name, label in pairs:
                score = log_p(learner, row, label) - offsets.get(name, {}).get(label, 0.0)
                if rule == "token_mean":
                    score /= length(learner, row, label)
                scores[label] = max(scores.get(label, -math.inf), score)
            assert text == best(scores)
            seen.add(text)
    assert len(seen) > 1


def test_the_union_of_nothing_answers_nothing() -> None:
    learner = learned("t5", tasks=[], candidates="union")
    assert learner.answer(TASKS) == [[""] * 6, [""] * 6]
    learner.learn(TASKS[0])
    assert {text for own in learner.answer(TASKS) for text in own} <= {"yes", "no"}


def test_the_union_in_an_encoder_is_what_it_answers_freely() -> None:
    learner = learned("roberta", candidates="union")
    among = learner.answer(TASKS)
    learner.decoding = Decoding()
    assert learner.answer(TASKS) == among


def test_a_label_of_two_tasks_is_there_once() -> None:
    first = Calibration("prior", 20, ("yes", "no"), (0.5, -0.5))
    second = Calibration("prior", 20, ("red", "no"), (-0.25, 0.25))
    joined = Candidates.of_tasks([(("yes", "no"), first), (("red", "no"), second), (("sea",), None)])
    assert joined == Candidates(("yes", "no", "red", "sea"), (0.5, -0.5, -0.25, 0.0), joined=True)
    assert Candidates.of_tasks([(("yes",), None)]).offsets == ()


def test_labels_of_several_tasks_that_are_the_same_tokens_are_one() -> None:
    host, example = tiny_host("t5"), tiny_task().examples("test")
    joined = Candidates(("zebra", "yes", "okapi"), (1.0, 0.0, -9.0), joined=True)  # two unknown words
    decoding = Decoding(decode="labels", label_scores="prior")
    (answers,) = answer(host, [example], Lengths(512, 8), decoding, 1, [joined])
    (alone,) = answer(host, [example], Lengths(512, 8), decoding, 1, [Candidates(("zebra", "yes"), (1.0, 0.0))])
    assert answers == alone


def test_a_readout_is_told_the_candidates() -> None:
    own = learned("t5", nearest_mean())
    union = learned("t5", nearest_mean(), candidates="union")
    free = learned("t5", nearest_mean())
    free.decoding = Decoding()
    assert union.answer(TASKS) == free.answer(TASKS)
    assert set(own.answer(TASKS)[0]) <= {"yes", "no"}


def routing_methods() -> dict[str, Method]:
    return {
        "any_ssr": build_method("any_ssr", {"blocks": 1, "dimension": 16, "rank": 2}),
        "de_lora": build_method("de_lora", {"rank": 2, "dropout": 0.0}),
        "inc_lora+gaussian_routing": build_method("inc_lora+gaussian_routing", {"rank": 2}),
        "given": inc_lora(rank=2).with_routing(GivenTask()),
    }


@pytest.mark.parametrize("architecture", HOSTS)
@pytest.mark.parametrize("name", routing_methods())
@pytest.mark.parametrize("rule", ["sum", "match_share"])
def test_labels_of_the_task_that_the_routing_chose(architecture: str, name: str, rule: LabelRule) -> None:
    """Beside each row alone: its route, that slot's labels, and the host under that route."""
    learner = learned(architecture, routing_methods()[name], label_scores=rule, candidates="routed_task")
    perturb(learner.host.model)
    router = learner.router
    assert router is not None
    answers = learner.answer(TASKS)
    chosen = set()
    for task, texts in zip(TASKS, answers, strict=True):
        for row, text in zip(learner.encode(task.examples("test")), texts, strict=True):
            with learner.serving(), routed_by(learner.host.family, None), torch.no_grad():
                route = router.chosen(learner.host.family.prompts([row]))
                assert route is not None
                own = TASKS[int(route.likeliest_slots)]
                labels = own.labels or ()
                with learner.under(route):
                    scores = learner.label_scores([row], labels)[0].double()
            if rule == "match_share":
                scores = scores - torch.tensor(learner.state.calibrations[own.name].offsets)
            assert text == labels[int(scores.argmax())]
            chosen.add((task.name, own.name))
    if name == "given":
        assert chosen == {("animals", "animals"), ("colors", "colors")}
        learner.decoding = learner.decoding.model_copy(update={"candidates": "true_task"})
        assert learner.answer(TASKS) == answers


def test_the_routing_is_asked_once_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a batch's labels are scored in several passes."""
    learner = learned("t5", routing_methods()["any_ssr"], candidates="routed_task")
    expected = learner.answer(TASKS)
    asked: list[int] = []
    chosen = LearnerRouter.chosen

    def counted(self: LearnerRouter, batch: Any) -> Any:
        asked.append(batch.size)
        return chosen(self, batch)

    monkeypatch.setattr(LearnerRouter, "chosen", counted)
    monkeypatch.setattr("nacre.models.generative.takes_tree", lambda model, tree, width: False)
    monkeypatch.setattr("nacre.models.label_passes.takes_tree", lambda model, tree, width: False)
    monkeypatch.setattr("nacre.models.generative.LOGITS_AT_ONCE", 1)
    assert learner.answer(TASKS) == expected
    assert sum(asked) == sum(len(task.test) for task in TASKS)


def test_before_anything_is_learned_no_task_is_chosen() -> None:
    learner = learned("t5", routing_methods()["any_ssr"], tasks=[], candidates="routed_task")
    assert learner.answer(TASKS) == [[""] * 6, [""] * 6]


@pytest.mark.parametrize("architecture", HOSTS)
def test_a_row_that_no_slot_answers_has_no_candidate(architecture: str) -> None:
    """Foreign rows are left to the bare host, of which no label was learned."""
    settings = {"rank": 2, "abstention": {"known_share": 0.7}}
    learner = learned(
        architecture, build_method("inc_lora+gaussian_routing+abstention", settings), candidates="routed_task"
    )
    router, answered = learner.router, []
    assert router is not None
    for task, texts in zip(TASKS, learner.answer(TASKS), strict=True):
        for row, text in zip(learner.encode(task.examples("test")), texts, strict=True):
            with learner.serving(), routed_by(learner.host.family, None), torch.no_grad():
                route = router.chosen(learner.host.family.prompts([row]))
            assert route is not None
            slot = int(route.likeliest_slots)
            assert text == "" if slot == NONE else text in (TASKS[slot].labels or ())
            answered.append(slot != NONE)
    assert set(answered) == {True, False}


@pytest.mark.parametrize("candidates", ["union", "routed_task"])
def test_labels_of_a_forgotten_task_are_no_candidates(candidates: str) -> None:
    method = routing_methods()["inc_lora+gaussian_routing"]
    learner = learned("t5", method, label_scores="prior", candidates=candidates)
    kept = learner.state.calibrations["animals"]
    assert {"red", "green"} & {text for texts in learner.answer(TASKS) for text in texts}
    learner.forget("colors")
    assert learner.state.calibrations == {"animals": kept}
    assert {text for texts in learner.answer(TASKS) for text in texts} <= {"yes", "no"}


def test_copies_know_their_own_labels() -> None:
    learner = learned("t5", independent(), tasks=[TASKS[0]], candidates="union")
    assert set(learner.answer([TASKS[1]])[0]) <= {"yes", "no"}


# What must not matter


@pytest.mark.parametrize("architecture", HOSTS)
@pytest.mark.parametrize(
    ("name", "rule", "candidates"),
    [("", "prior", "union"), ("", "token_mean", "true_task"), ("inc_lora+gaussian_routing", "prior", "routed_task")],
)
def test_neither_batches_nor_the_order_of_rows_matter(
    architecture: str, name: str, rule: LabelRule, candidates: str
) -> None:
    found = []
    for size in (1, 3, 64):
        method = routing_methods()[name] if name else None
        learner = learned(architecture, method, batch_size=size, label_scores=rule, candidates=candidates)
        offsets = [own.offsets for own in learner.state.calibrations.values()]
        found.append((learner.answer(TASKS), offsets))
        turned = [replace(task, test=task.test[::-1]) for task in TASKS]
        assert [texts[::-1] for texts in learner.answer(turned)] == found[-1][0]
    for answers, offsets in found[1:]:
        assert answers == found[0][0]
        for mine, theirs in zip(offsets, found[0][1], strict=True):
            assert mine == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("rule", ["prior", "match_share"])
def test_calibrations_are_saved(rule: LabelRule, tmp_path: Path) -> None:
    learner = learned("t5", label_scores=rule, candidates="union")
    learner.save(tmp_path / "saved")
    again = Learner.load(tmp_path / "saved", spread(tiny_host("t5", torch.float64)))
    assert again.state.calibrations == learner.state.calibrations
    assert again.answer(TASKS) == learner.answer(TASKS)
    assert again.snapshot().differences(learner.snapshot()) == []
