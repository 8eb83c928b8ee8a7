"""+abstention: which rows are foreign, and that the bare host answers them bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.errors import DataError, RecipeError
from nacre.evaluation.settings import Decoding
from nacre.events import Event, TrainingPrepared
from nacre.functional.distances_by_length import BINS_PER_OCTAVE, DISTANCE_BINS, LEAST_OCTAVE, Trend, histogram
from nacre.functional.segments import NONE
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.parts.abstention import FOREIGN, KNOWN, REWORDED, Abstention
from nacre.parts.evidence_posterior import Posterior
from nacre.parts.evidence_sums import Sums, TaskSums, View
from nacre.parts.gaussian_routing import GaussianRouting
from nacre.parts.part import LearnerView, Reading
from nacre.registry import build_method
from nacre.tasks.task import Row, Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASKS = [tiny_task(name, rows=24) for name in ("animals", "birds", "fish")]
FOREIGN_TASK = replace(
    tiny_task("foreign", labels=("yes", "no")),
    test=tuple(Row(text, "yes") for text in ("blue blue blue blue", "What What kind of of", "four three two one sky")),
    template=replace(tiny_task().template, instruction="What kind of spoon ?", answer_cue=" ."),
)


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(name: str, architecture: str, decode: str = "free", **settings: object) -> Learner:
    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    decoding = Decoding(decode=decode)  # type: ignore[arg-type]
    method = build_method(name, settings)
    learner = Learner(
        tiny_host(architecture, torch.float64), method, seed=4, optim=OPTIM, decoding=decoding, on_event=watch
    )
    for task in TASKS:
        learner.learn(task)
    return learner


def bare(architecture: str, decode: str = "free") -> Learner:
    """The same host, and an adapter that does nothing."""
    return Learner(
        tiny_host(architecture, torch.float64),
        build_method("seq_lora"),
        optim=OPTIM,
        decoding=Decoding(decode=decode),  # type: ignore[arg-type]
    )


def test_the_three_kinds_by_distances_and_agreement_alone() -> None:
    """Two tasks on a line, one dimension, unit variance, T = 1; q of each view is just above 4, of b that times n."""
    counts = histogram(torch.full((100,), 4.0))
    flat, steep = ([View([], torch.zeros(1), counts, trend)] * 2 for trend in (Trend(), Trend(slope=1, longest=4)))
    known = Sums([TaskSums("a", *flat, {}), TaskSums("b", *steep, {})], -1)
    one = torch.ones(1, 1, dtype=torch.float64)
    means = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    solved = Posterior(
        [("a", "x"), ("b", "x")],
        {"prompt": (one, means), "bare": (one, means)},
        {"prompt": 1.0, "bare": 1.0, "both": 1.0},
    )

    def kinds(prompt: list[float], text: list[float], length: int = 1, **settings: float) -> list[int]:
        states = {
            "prompt": torch.tensor(prompt, dtype=torch.float64)[:, None],
            "bare": torch.tensor(text, dtype=torch.float64)[:, None],
        }
        lengths, given = torch.full((len(prompt),), length), torch.ones(len(prompt), dtype=torch.bool)
        return Abstention(**settings).kinds(solved, known, states, lengths, given).tolist()  # type: ignore[arg-type]

    assert kinds([0, 2, 12], [30, 5, 0]) == [KNOWN] * 3, "a known prompt is enough"
    assert kinds([-3, 13], [0, 10]) == [REWORDED] * 2, "a far prompt whose text is near, and of the same task"
    assert kinds([-3, 13], [10, 0]) == [FOREIGN] * 2, "they disagree"
    assert kinds([-3], [-3]) == [FOREIGN], "both are far"
    assert kinds([-3, 13], [-3, 13], length=3) == [FOREIGN, KNOWN], "long rows of b may be as far"


def test_a_prompt_is_as_long_for_the_readout_as_for_the_routing(architecture: str) -> None:
    """Where a batch holds targets behind the prompts, too."""
    counted: list[list[int]] = []

    class Counting(GaussianRouting):
        def route(self, learner: LearnerView, reading: Reading) -> Route | None:
            counted.append(reading.query.lengths().tolist())
            return super().route(learner, reading)

    method = replace(build_method("inc_lora+gaussian_routing"), routing=Counting())
    learner = Learner(tiny_host(architecture), method, optim=OPTIM)
    learner.learn(TASKS[0])
    rows = learner.encode([*TASKS[0].examples("test"), *FOREIGN_TASK.examples("test")])
    family, lengths = learner.host.family, [len(row.source) for row in rows]
    assert len(set(lengths)) > 1
    counted.clear()
    for batch in (family.prompts(rows), family.batch(learner.encode(TASKS[0].examples("test")))):
        with family.routed(batch):
            pass
    assert counted == [lengths, lengths[: len(TASKS[0].test)]]


def test_readout_and_routing_take_a_row_by_what_is_usual_at_its_length(architecture: str) -> None:
    """Own rows of up to 20 tokens may be nowhere, and longer ones anywhere."""
    learner = learned("inc_lora+gaussian_routing+evidence+abstention", architecture, rank=2)
    readout, router = learner.method.readout, learner.router
    assert readout is not None
    assert router is not None
    known = learner.remembered(readout, Sums)
    assert known is not None
    for own, task in zip(known.tasks, TASKS, strict=True):
        lengths = [len(row.source) for row in learner.encode(task.examples("train"))]
        assert own.task == task.name
        assert (own.prompt.trend.shortest, own.prompt.trend.longest) == (min(lengths), max(lengths))
        assert own.prompt.distances.sum() == len(lengths)
        octaves = (torch.arange(DISTANCE_BINS, dtype=torch.float64) + 0.5) / BINS_PER_OCTAVE + LEAST_OCTAVE
        mean = float(own.prompt.distances.double() @ octaves) / len(lengths)
        assert abs(mean) <= 0.5 / BINS_PER_OCTAVE, "of logarithms around their trend the mean is 0, up to half a bin"
        assert own.prompt.trend != own.bare.trend
    steep = Trend(20.5**-200, 200, longest=99)
    with_steep = [
        replace(own, prompt=replace(own.prompt, trend=steep), bare=replace(own.bare, trend=steep))
        for own in known.tasks
    ]
    learner.remember(readout, replace(known, tasks=with_steep))
    rows = learner.encode([example for task in TASKS for example in task.examples("test")])
    long = [len(row.source) > 20 for row in rows]
    assert set(long) == {True, False}
    decided = readout.decide(learner, rows, None)
    assert decided is not None
    assert [one.kind == "known" for one in decided] == long
    assert {one.kind for one in decided} == {"known", "foreign"}
    with learner.serving():
        _, slots = router.chosen_slots(learner.host.family.prompts(rows), len(TASKS))
    assert [slot != NONE for slot in slots] == long


def test_a_method_without_sums_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"abstention has no sums to read in inc_lora: put it behind \+evidence"):
        build_method("inc_lora+abstention")
    with pytest.raises(RecipeError, match="known_share: 0 is not in"):
        build_method("inc_lora+evidence+abstention", {"abstention": {"known_share": 0.0}})
    with pytest.raises(RecipeError, match="left to the zero LoRA"):
        build_method("am_lora+gaussian_routing+abstention", {"zero_lora": False})


def logits(learner: Learner, task: Task) -> Tensor:
    prompts = learner.host.family.prompts(learner.encode(task.examples("test")))
    labels = learner.host.family.label_set(task.examples("test")[0], list(task.labels or ()), learner.lengths)
    with torch.no_grad():
        return learner.host.family.label_scores(learner.host.on_device(prompts), labels)


@pytest.mark.parametrize("name", ["inc_lora", "am_lora", "inc_lora-mixed"])
def test_a_foreign_rows_scores_are_the_bare_hosts_bit_for_bit(architecture: str, name: str) -> None:
    if architecture == "roberta":
        pytest.skip("it has no answer of its own")
    method, _, mixed = name.partition("-")
    own = {"gaussian_routing": {"top": None}} if mixed else {}
    learner = learned(f"{method}+gaussian_routing+abstention", architecture, **own)
    expected = logits(bare(architecture), FOREIGN_TASK)
    assert torch.equal(logits(learner, FOREIGN_TASK), expected)
    assert not torch.equal(logits(learner, TASKS[1]), logits(bare(architecture), TASKS[1]))
    texts = [example.input for example in FOREIGN_TASK.examples("test")]
    assert learner.predict(texts) == bare(architecture).predict(texts)


@pytest.mark.parametrize("decode", ["labels", "free"])
@pytest.mark.parametrize("method", ["seq_lora+evidence+abstention", "inc_lora+gaussian_routing+evidence+abstention"])
def test_a_foreign_task_is_answered_by_the_bare_host(architecture: str, decode: str, method: str) -> None:
    learner = learned(method, architecture, decode)
    (answers,) = learner.answer([FOREIGN_TASK])
    if architecture == "roberta":
        assert answers == [""] * 3
        return
    host = bare(architecture, decode)
    if decode == "labels":
        assert answers == host.answer([FOREIGN_TASK])[0]
    else:
        assert answers == host.write(host.encode(FOREIGN_TASK.examples("test")))


def test_no_slot_is_asked_about_foreign_rows(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learned("inc_lora+gaussian_routing+evidence+abstention", architecture, evidence={"host_weight": 1.0})
    asked: list[int] = []
    scores = Learner.label_scores

    def counted(self: Learner, rows: Sequence[Encoded], labels: Sequence[str], *route: Any) -> Tensor:
        asked.append(len(rows))
        return scores(self, rows, labels, *route)

    monkeypatch.setattr(Learner, "label_scores", counted)
    learner.answer([FOREIGN_TASK])
    assert asked == []
    learner.answer(TASKS[:1])
    assert asked != []


@pytest.mark.parametrize("decode", ["labels", "free"])
def test_known_rows_are_answered_as_without_abstention(architecture: str, decode: str) -> None:
    with_it, without = (
        learned(f"inc_lora+gaussian_routing+evidence{more}", architecture, decode) for more in ("+abstention", "")
    )
    known = [replace(task, test=task.train[:8]) for task in TASKS]  # as near as the sums' own rows
    assert with_it.answer(known) == without.answer(known)


def test_a_reworded_row_is_answered_by_its_text_alone(architecture: str) -> None:
    learner = learned(
        "inc_lora+evidence+abstention", architecture, evidence={"host_weight": 0.0}, abstention={"agreement": 1e-9}
    )
    other = replace(TASKS[1].template, instruction="What kind of thing ?", options=False, answer_cue=" two three four")
    reworded = replace(TASKS[1], test=TASKS[1].train[:8], template=other)
    part = learner.method.readout
    rows = learner.encode(reworded.examples("test"))
    opinion = part._opinion(learner, rows, ["yes", "no"])  # type: ignore[union-attr]
    alone = learned("inc_lora+evidence", architecture, evidence={"host_weight": 0.0, "views": "bare"})
    kinds = opinion.kinds
    assert KNOWN not in kinds
    assert REWORDED in kinds
    expected = alone.answer([reworded])[0]
    for kind, answer, own in zip(kinds, learner.answer([reworded])[0], expected, strict=True):
        assert kind != REWORDED or answer == own


def test_a_decision_says_the_answer_its_kind_and_how_probable_labels_and_tasks_are(architecture: str) -> None:
    learner = learned("inc_lora+gaussian_routing+evidence+abstention", architecture)
    known = replace(TASKS[1], test=TASKS[1].train[:6])
    texts = [row.text for row in known.test]
    decisions = learner.decide(texts, task="birds")
    assert [decision.answer for decision in decisions] == learner.answer([known])[0]
    for decision in decisions:
        assert decision.kind == "known"
        assert sum(decision.labels.values()) == pytest.approx(1)
        assert sum(decision.tasks.values()) == pytest.approx(1)
        assert decision.labels[decision.answer] == max(decision.labels.values())
        assert set(decision.by_task) == {name for name, share in decision.tasks.items() if share >= 0.1}
        assert decision.ambiguous == (len(decision.by_task) > 1)
    foreign = learner.decide([example.input for example in FOREIGN_TASK.examples("test")])
    assert {(decision.kind, len(decision.labels), len(decision.tasks)) for decision in foreign} == {("foreign", 0, 0)}
    alone = learner.decide(texts[0], task="birds")
    assert (alone.answer, alone.kind) == (decisions[0].answer, "known")
    assert alone.labels == pytest.approx(decisions[0].labels)
    assert learner.decide([]) == []


def test_a_finished_prompt_is_known_by_itself(architecture: str) -> None:
    """Nobody says what of it is the text: the prompt alone decides, and it cannot be reworded."""
    learner = learned("inc_lora+gaussian_routing+evidence+abstention", architecture, evidence={"host_weight": 0.0})
    only = learned("inc_lora+evidence", architecture, evidence={"host_weight": 0.0, "views": "prompt"})
    task = replace(TASKS[1], test=TASKS[1].train[:6])
    prompts = [example.input for example in task.examples("test")]
    decisions = learner.decide(prompts)
    assert {decision.kind for decision in decisions} == {"known"}
    assert [decision.answer for decision in decisions] == [decision.answer for decision in only.decide(prompts)]


def test_who_does_not_say_how_sure_it_is() -> None:
    learner = learned("inc_lora", "t5")
    with pytest.raises(DataError, match=r"inc_lora does not say how sure it is; a method with \+evidence does"):
        learner.decide("the dog")
    with pytest.raises(DataError, match="no such task has been learned"):
        learner.decide("the dog", task="bird")
