"""MIGU against a naive float64 computation from its equations that shares no code with it: one row at a time, so that
there is no padding, token by token, and AdamW by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.naive_migu import Naive, close, naive_full, naive_lora, without_dropout
from helpers.tiny import tiny_host, tiny_task
from nacre.events import Event, StepTaken
from nacre.functional import masking
from nacre.functional.masking import (
    kept_count,
    largest,
    largest_groups,
    magnitude_sum,
    random_features,
    restore_masked_,
    row_sums,
    zero_masked_,
)
from nacre.learning.batches import Batches
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.registry import build_method


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Pure functions


def test_the_number_of_kept_features() -> None:
    """Eq. 3 and the released quantile, at the sizes where they are known to differ."""
    sizes = (8, 64, 128, 512, 1024, 4096)
    assert [kept_count(d, 0.7) for d in sizes] == [3, 20, 39, 154, 308, 1229]
    assert [kept_count(d, 0.7, "quantile") for d in sizes] == [3, 19, 39, 154, 307, 1229]
    assert kept_count(100, 0.29) == 71, "0.29 * 100 is 28.999... in binary"
    assert kept_count(5, 0.0) == kept_count(5, 0.0, "quantile") == 5
    assert kept_count(1, 0.99) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 999))
def test_the_released_quantile_keeps_as_many(features: int, thousandths: int) -> None:
    """As many as the release's comparison with torch.quantile keeps, where no two magnitudes are equal and the
    quantile does not fall on one (there its interpolation rounds either way)."""
    threshold = thousandths / 1000
    if (thousandths * (features - 1)) % 1000 == 0:
        return
    magnitudes = torch.randperm(features, generator=torch.Generator().manual_seed(features)).double()
    released = magnitudes >= torch.quantile(magnitudes, threshold)
    assert int(released.sum()) == kept_count(features, threshold, "quantile")
    assert torch.equal(largest(magnitudes, kept_count(features, threshold, "quantile")), released)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.data())
def test_the_largest_and_of_equal_ones_the_first(values: list[int], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(values)))
    expected = set(sorted(range(len(values)), key=lambda place: (-values[place], place))[:kept])
    found = largest(torch.tensor(values, dtype=torch.float64), kept)
    assert {place for place, kept_here in enumerate(found.tolist()) if kept_here} == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=4, max_size=20), st.data())
def test_whole_groups_are_kept_best_first(features: list[tuple[int, int]], data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, len(features)))
    members: dict[int, list[int]] = {}
    for place, (_, group) in enumerate(features):
        members.setdefault(group, []).append(place)

    def mean(group: int) -> float:
        return sum(features[place][0] for place in members[group]) / len(members[group])

    expected: set[int] = set()
    for group in sorted(members, key=lambda group: (-mean(group), group)):
        if len(expected) < kept:
            expected |= set(members[group])
    scores = torch.tensor([score for score, _ in features], dtype=torch.float64)
    found = largest_groups(scores, torch.tensor([group for _, group in features]), kept)
    assert {place for place, kept_here in enumerate(found.tolist()) if kept_here} == expected


def test_groups_of_one_are_features() -> None:
    scores = drawn(12)
    assert torch.equal(largest_groups(scores, torch.arange(12), 5), largest(scores, 5))


def test_random_features_come_from_the_seed() -> None:
    first = random_features(50, 15, 3)
    assert first.sum() == 15
    assert torch.equal(first, random_features(50, 15, 3))
    assert not torch.equal(first, random_features(50, 15, 4))
    frequency = sum(random_features(10, 3, seed).double() for seed in range(2000)) / 2000
    assert (frequency - 0.3).abs().max() < 0.06  # six standard errors


@pytest.mark.parametrize("block", [1, 15, 2**17])
def test_magnitudes_leave_out_tokens_that_do_not_count(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are taken at once: one token, three, or all twelve."""
    monkeypatch.setattr(masking, "BLOCK", block)
    outputs = drawn(3, 4, 5).requires_grad_()
    counted = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    expected = [
        sum(abs(outputs[row, place, j].item()) for row in range(3) for place in range(4) if counted[row, place])
        for j in range(5)
    ]
    found = magnitude_sum(outputs, counted)
    assert not found.requires_grad
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-14)
    everything = torch.ones(3, 4, dtype=torch.bool)
    assert torch.allclose(magnitude_sum(outputs), magnitude_sum(outputs, everything), rtol=1e-14)
    assert torch.equal(magnitude_sum(outputs[:0]), torch.zeros(5, dtype=torch.float64))


def test_magnitudes_of_half_precision_are_summed_in_single() -> None:
    """In bfloat16, 4096 ones add up to 256."""
    ones = torch.ones(4096, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for counted in (None, torch.ones(4096, dtype=torch.bool)):
            assert torch.equal(magnitude_sum(ones, counted), torch.tensor([4096.0, 4096.0]))


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_are_masked_and_restored(axis: int) -> None:
    mask, tensor, before = torch.tensor([True, False, True]), drawn(3, 3, seed=1), drawn(3, 3, seed=2)
    zeroed, restored = tensor.clone(), tensor.clone()
    zero_masked_(zeroed, mask, axis)
    restore_masked_(restored, before, mask, axis)
    for row in range(3):
        for column in range(3):
            kept = mask[(row, column)[axis]]
            assert zeroed[row, column] == (tensor[row, column] if kept else 0)
            assert restored[row, column] == (tensor if kept else before)[row, column]
    assert torch.allclose(row_sums(tensor, axis), tensor.abs().sum(1 - axis))
    assert torch.equal(row_sums(tensor[0], 0), tensor[0].abs())


# A whole task, by hand


def after_one_task(architecture: str, method: str, parameters: dict[str, object], optim: Optim) -> Learner:
    host = tiny_host(architecture, torch.float64)
    without_dropout(host.model)
    learner = Learner(host, build_method(method, parameters), seed=4, optim=optim)
    learner.learn(tiny_task("animals", 10))
    return learner


def naive_second_task(architecture: str, learner: Learner) -> Naive:
    """Where a learner of one task stands when the second begins; of LoRA, the learner is used up by it."""
    model = tiny_host(architecture, torch.float64).model
    without_dropout(model)
    if learner.method.name.startswith("seq_ft"):
        model.load_state_dict(learner.host.model.state_dict())
        return naive_full(model, architecture)
    learner.adapter.grow()
    learner.method.start.fill(learner, ())  # drawn from the seed: not what is tested here
    return naive_lora(model, dict(learner.adapter.tensors()), learner.method.adapter.scale)


def steps_of(learner: Learner, name: str) -> list[list[Encoded]]:
    rows = learner.encode(tiny_task(name, 10).examples("train"))
    batches = Batches(rows, 4, name, learner.optim.batch_size, int(learner.optim.epochs))
    return [batches.at(step) for step in range(batches.steps)]


def watched(learner: Learner) -> list[dict[str, Tensor]]:
    """The masks of every step that the learner takes from now on."""
    masks: list[dict[str, Tensor]] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken) and "magnitude_mask" in learner.resources:
            masks.append(dict(learner.resources["magnitude_mask"].step.masks))

    learner.on_event = watch
    return masks


@pytest.mark.parametrize("mask", ["gradient", "update"])
@pytest.mark.parametrize(
    ("architecture", "method"),
    [("t5", "seq_ft"), ("gpt2", "seq_ft"), ("bart", "seq_ft"), ("llama", "inc_lora"), ("t5", "inc_lora")],
)
def test_a_task_learnt_with_migu_is_what_the_equations_say(architecture: str, method: str, mask: str) -> None:
    """Full fine-tuning and LoRA, both modes, with clipping, weight decay, accumulation and padding."""
    full = method == "seq_ft"
    optim = Optim(
        batch_size=4, accumulation=2, epochs=2, learning_rate=1e-3 if full else 1e-2, weight_decay=0.1,
        max_grad_norm=0.5, log_every=1,
    )  # fmt: skip
    parameters: dict[str, object] = {"migu": {"mask": mask, "threshold": 0.6}}
    if not full:
        parameters |= {"dropout": 0.0, "rank": 5, "alpha": 4.0}
    naive = naive_second_task(architecture, after_one_task(architecture, f"{method}+migu", parameters, optim))
    learner = after_one_task(architecture, f"{method}+migu", parameters, optim)
    masks = watched(learner)
    learner.learn(tiny_task("birds", 10))
    naive.train(steps_of(learner, "birds"), optim, "0.6", mask)
    assert len(masks) == len(naive.masks) == 6
    for found, expected in zip(masks, naive.masks, strict=True):
        assert {name: kept.tolist() for name, kept in found.items()} == expected
    assert any(naive.masks[0][name] != naive.masks[-1][name] for name in naive.masks[0]), "the masks differ by batch"
    if full:
        trained = list(learner.host.model.parameters())
    else:
        sites = learner.adapter.sites.values()
        trained = [parameter for site in sites for parameter in (site.slots.down.weight, site.slots.up.weight)]
    for found, expected in zip(trained, naive.leaves, strict=True):
        assert close(found, expected)
