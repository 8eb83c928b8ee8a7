"""DER++: which rows the reservoir keeps, that their logits are those of the step, and what the two terms are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from helpers.contract import same_state, state_of
from helpers.texts import text_host, text_task
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import DataError, RecipeError, SlotTaken
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.der_pp import der_pp
from nacre.methods.joint import joint
from nacre.methods.replay import replay
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Encoded
from nacre.modifiers.der import der
from nacre.parts.dark_experience import DarkLogits, StoredLabels
from nacre.parts.part import BatchTerm, GradientRule, LearnerView, MicroBatch
from nacre.parts.reservoir import Reservoir, ReservoirState, StoredRow, open_reservoir

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
ARCHITECTURES = ["t5", "llama", "roberta"]


def learned(method: Method, architecture: str, count: int = 2, **settings: Any) -> Learner:
    learner = Learner(tiny_host(architecture), method, seed=5, optim=OPTIM.model_copy(update=settings))
    for task in TASKS[:count]:
        learner.learn(task)
    return learner


def stored(learner: Learner) -> ReservoirState:
    state = learner.state.parts["reservoir"]
    assert isinstance(state, ReservoirState)
    return state


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def kept_numbers(seed: int, rows: int, capacity: int) -> list[int]:
    reservoir, places = Reservoir(capacity), {}
    for number in range(rows):
        if (place := reservoir.place(seed, number)) is not None:
            places[place] = number
    return list(places.values())


def test_every_row_is_kept_with_the_same_probability() -> None:
    """Chi-square over many seeds; a row's count has the variance of a draw without replacement."""
    rows, capacity, seeds = 40, 8, 2000
    counts = [0] * rows
    for seed in range(seeds):
        kept = kept_numbers(seed, rows, capacity)
        assert len(set(kept)) == capacity
        for number in kept:
            counts[number] += 1
    expected = seeds * capacity / rows
    chi_square = sum((count - expected) ** 2 for count in counts) / (expected * (1 - capacity / rows))
    chi_square *= (rows - 1) / rows
    spread = math.sqrt(2 * (rows - 1))
    assert abs(chi_square - (rows - 1)) < 4 * spread
    halves = sum(counts[: rows // 2]), sum(counts[rows // 2 :])
    assert abs(halves[0] - halves[1]) < 0.02 * sum(counts), "neither the first nor the last rows are preferred"


@dataclass(frozen=True)
class Recorder(BatchTerm):
    """Every row of training in its order, with the logits of its target tokens, found one by one; adds nothing."""

    strength: float = 0.0
    seen: list[tuple[Encoded, Tensor]] = field(default_factory=list)

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        logits, labels = batch.logits.detach(), batch.labels
        if labels.dim() == 2:
            found = [
                logits[i, j] for i in range(len(labels)) for j in range(labels.shape[1]) if labels[i, j] != IGNORED
            ]
        else:
            found = list(logits)
        for row in batch.rows:
            self.seen.append((row, torch.stack([found.pop(0) for _ in range(row.num_target_tokens)])))
        assert not found
        return batch.logits.sum() * 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stored_logits_are_those_of_the_very_step(architecture: str) -> None:
    """Of its forward pass with dropout, before the update; and the row is the one that was trained on."""
    recorder = Recorder()
    method = seq_lora(dropout=0.3).with_memory(Reservoir(7)).with_batch_term(recorder)
    learner = learned(method, architecture, epochs=2, accumulation=2)
    state = stored(learner)
    assert (len(state.rows), state.seen) == (7, 48)
    assert state.seen == len(recorder.seen)
    places: dict[int, int] = {}
    for number in range(state.seen):
        if (place := Reservoir(7).place(5, number)) is not None:
            places[place] = number
    for place, row in enumerate(state.rows):
        trained, logits = recorder.seen[places[place]]
        assert row.row(learner.host) == replace(trained, truncated=False)
        assert torch.equal(row.logits, logits)
        assert row.width == logits.shape[-1]
        assert row.logits.untyped_storage().nbytes() == row.logits.nbytes, "no more is held than what is kept"
        assert not row.logits.requires_grad
    assert len({id(row.logits) for row in state.rows}) == 7


def test_a_masked_text_is_replayed_with_the_same_tokens_hidden() -> None:
    host = text_host()
    recorder = Recorder()
    learner = Learner(
        host,
        seq_lora().with_memory(Reservoir(50)).with_batch_term(recorder),
        optim=Optim(batch_size=2, learning_rate=1e-2, epochs=4, max_source_length=8),
    )
    learner.learn(text_task(rows=4))
    state = stored(learner)
    assert state.seen == len(recorder.seen) > 4
    for row, (trained, logits) in zip(state.rows, recorder.seen, strict=True):
        assert row.row(host) == trained
        assert torch.equal(row.logits, logits)
    assert len({tuple(row.hidden) for row in state.rows}) > 1, "other tokens are hidden in every epoch"
    with pytest.raises(DataError, match="The reservoir holds rows of 'farm'"):
        learner.learn(TASKS[0])


def test_a_conversation_keeps_its_earlier_answers() -> None:
    row = Encoded((3, 5, 6, 7), (8, 1), False, earlier=(2, 3), task="chat")
    assert StoredRow.of(row, torch.zeros(4, 9), None).row(tiny_host("llama")) == row


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_weights_it_is_its_base_bit_for_bit(architecture: str) -> None:
    """With dropout, which a second pass would draw otherwise."""
    base = learned(seq_lora(dropout=0.3), architecture)
    found = learned(der(seq_lora(dropout=0.3), alpha=0.0, beta=0.0), architecture)
    assert same(state_of(base), state_of(found))
    one = learned(der(seq_lora(dropout=0.3), alpha=0.0, beta=0.5), architecture)
    assert not same(state_of(base), state_of(one))


def test_without_stored_logits_it_is_experience_replay_bit_for_bit() -> None:
    plain = seq_lora(dropout=0.3).with_memory(Reservoir()).with_penalty(StoredLabels())
    assert same(state_of(learned(plain, "t5")), state_of(learned(der(seq_lora(dropout=0.3), alpha=0.0), "t5")))


@dataclass(frozen=True)
class Naive(GradientRule):
    """At each step's beginning: both terms of all stored rows, and the same row by row from the logits' definition."""

    reads_gradients: ClassVar[bool] = False
    distance: str = "mean"
    top_k: int | None = None
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def before_step(self, learner: LearnerView) -> None:
        rows = open_reservoir(learner).rows
        if not rows:
            return
        squares, entries, tokens, loss = 0.0, 0, 0, 0.0
        for kept in rows:
            logits, labels = learner.predictions([kept.row(learner.host)])
            live = logits.detach().flatten(0, -2)[labels.flatten() != IGNORED]
            targets = labels.flatten()[labels.flatten() != IGNORED]
            tokens += len(live)
            loss -= sum(float(z.log_softmax(-1)[target]) for z, target in zip(live, targets, strict=True))
            for position, z in enumerate(live.tolist()):
                z, old = z[: kept.width], kept.logits[position].tolist()
                if self.top_k is not None and self.top_k < kept.width:
                    assert kept.tokens is not None
                    chosen = kept.tokens[position].tolist()
                    others = sum(math.exp(value) for token, value in enumerate(z) if token not in chosen)
                    z = [z[token] for token in chosen] + [math.log(others)]
                assert len(z) == len(old)
                squares += sum((new - was) ** 2 for new, was in zip(z, old, strict=True))
                entries += len(z)
        with torch.no_grad():
            dark = DarkLogits(1.0, len(rows), self.distance).value(learner)  # type: ignore[arg-type]
            labels_again = StoredLabels(1.0, len(rows)).value(learner)
        self.pairs.append((float(dark), squares / (entries if self.distance == "mean" else tokens)))
        self.pairs.append((float(labels_again), loss / tokens))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("distance", "top_k"), [("mean", None), ("sum", None), ("mean", 3), ("sum", 1)])
def test_the_terms_against_a_loop_over_rows_tokens_and_classes(
    architecture: str, distance: str, top_k: int | None
) -> None:
    """In float64, each row computed alone. An encoder's second task brings a class, for which nothing is stored."""
    naive = Naive(distance, top_k)
    method = seq_lora(dropout=0.0).with_memory(Reservoir(6, top_k)).with_gradient_rule(naive)
    learner = Learner(tiny_host(architecture, torch.float64), method, seed=5, optim=OPTIM)
    learner.learn(TASKS[0])
    learner.learn(tiny_task("birds", labels=("yes", "no", "maybe")))
    assert len(naive.pairs) >= 10
    assert max(expected for _, expected in naive.pairs) > 1e-4
    for found, expected in naive.pairs:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_two_draws_are_independent_and_of_rows_that_are_stored() -> None:
    learner = Learner(tiny_host("t5"), der_pp(rows=3, capacity=20), seed=5, optim=OPTIM)
    drawn: dict[str, list[frozenset[int]]] = {}
    from nacre.parts import dark_experience

    original = dark_experience.drawn_rows

    def spy(part: Any, view: LearnerView) -> Sequence[Any]:
        rows = original(part, view)
        places = {id(row): place for place, row in enumerate(open_reservoir(view).rows)}
        drawn.setdefault(part.key, []).append(frozenset(places[id(row)] for row in rows))
        assert len(rows) == min(3, len(places))
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dark_experience, "drawn_rows", spy)
        for task in TASKS:
            learner.learn(task)
    dark, labels = drawn["dark_logits"], drawn["stored_labels"]
    assert len(dark) == len(labels) == 9
    assert dark[0] == labels[0] == frozenset(), "the first step has nothing to draw"
    assert sum(one != other for one, other in zip(dark[2:], labels[2:], strict=True)) >= 5


def test_stored_logits_hold_the_model_near_them() -> None:
    def drift(alpha: float) -> float:
        method = der(seq_lora(dropout=0.0), alpha=alpha, beta=0.0, capacity=64)
        learner = Learner(tiny_host("t5"), method, seed=5, optim=OPTIM.model_copy(update={"epochs": 6}))
        learner.learn(TASKS[0])
        rows = learner.encode(TASKS[0].examples("train"))
        before, labels = learner.predictions(rows)
        learner.learn(TASKS[2])
        after, _ = learner.predictions(rows)
        return float((after - before)[labels != IGNORED].square().mean())

    assert drift(5.0) < 0.5 * drift(0.0)


def test_a_learner_that_was_saved_goes_on_with_the_same_reservoir(tmp_path: Any) -> None:
    """Rows are replaced after loading as they would have been; the number that has passed is not begun again."""
    method = der_pp(capacity=5, top_k=4)
    learner = learned(method, "llama")
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host("llama"))
    for each in (learner, loaded):
        each.learn(TASKS[2])
    assert same(state_of(learner), state_of(loaded))
    assert same_state(learner, loaded)
    assert stored(loaded).seen == 36
    assert {row.task for row in stored(loaded).rows} & {"animals", "birds"}


def test_it_needs_no_task_boundaries_and_keeps_rows() -> None:
    assert not der_pp().traits["task boundaries in training"]
    assert not der_pp().traits["task identity at test"]
    assert not der_pp().traits["rehearsal-free"]
    assert not der_pp().traits["grows with tasks"]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="capacity: 0 is not a positive number"):
        der_pp(capacity=0)
    with pytest.raises(RecipeError, match="top_k: 0 is not a positive number"):
        der_pp(top_k=0)
    with pytest.raises(RecipeError, match="rows: 0 is not a positive number"):
        der_pp(rows=0)
    with pytest.raises(RecipeError, match="cannot be negative"):
        der_pp(alpha=-1.0)
    with pytest.raises(RecipeError, match="der has nothing to bring back in joint"):
        der(joint())
    with pytest.raises(SlotTaken, match="already has a memory"):
        der(replay())
