"""MIGU against a naive float64 computation from its equations that shares no code with it: one row at a time, so that
there is no padding, token by token, and AdamW by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

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
from tiny import tiny_host, tiny_task

BOUND = 1e-10


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor) -> bool:
    """To 1e-10 of their size. The key biases of BART and GPT-2 have no gradient but rounding, because the softmax does
    not see what is added to all keys alike, and AdamW blows that up: so small tensors count as of size 0.1."""
    return bool((found - expected).norm() <= BOUND * max(expected.norm().item(), 0.1))


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


@dataclass
class Naive:
    """Trains by hand. leaves: what is trained. measured: per masked map, a function of a row's captured input [n, d_in]
    that gives its outputs [n, features], and the leaves with the axis of their features."""

    model: nn.Module
    leaves: list[Tensor]
    measured: dict[str, tuple[Callable[[Tensor], Tensor], list[tuple[Tensor, int]]]]
    captured: dict[str, Tensor] = field(default_factory=dict)
    masks: list[dict[str, list[bool]]] = field(default_factory=list)

    def loss(self, row: Encoded) -> Tensor:
        """- sum over target tokens of log p, one row."""
        source, target = list(row.source), list(row.target)
        config = self.model.config
        if config.is_encoder_decoder:
            read = [config.decoder_start_token_id, *target[:-1]]
            logits = self.model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([read])).logits[0]
        else:
            logits = self.model(input_ids=torch.tensor([source + target])).logits[0, len(source) - 1 : -1]
        return -sum(torch.log_softmax(line, -1)[token] for line, token in zip(logits, target, strict=True))

    def train(
        self, steps: Sequence[Sequence[Encoded]], optim: Optim, threshold: str, mask: str, clip_first: bool = False
    ) -> None:
        first = [torch.zeros_like(leaf) for leaf in self.leaves]
        second = [torch.zeros_like(leaf) for leaf in self.leaves]
        for number, rows in enumerate(steps, start=1):
            sums: dict[str, list[float]] = {}
            count = sum(len(row.target) for row in rows)
            gradients = [torch.zeros_like(leaf) for leaf in self.leaves]
            for row in rows:
                loss = self.loss(row) / count
                for total, gradient in zip(gradients, torch.autograd.grad(loss, self.leaves), strict=True):
                    total += gradient
                for name, (outputs, _) in self.measured.items():
                    for token in outputs(self.captured[name]).tolist():
                        old = sums.setdefault(name, [0.0] * len(token))
                        sums[name] = [total + abs(h) for total, h in zip(old, token, strict=True)]
            kept = {name: self._kept(sizes, threshold) for name, sizes in sums.items()}
            self.masks.append(kept)
            if clip_first:
                self._clip(gradients, optim.max_grad_norm)
            for name, (_, owned) in self.measured.items():
                for leaf, axis in owned:
                    self._slices(gradients[self._place(leaf)], axis, kept[name], lambda part: part.zero_())
            if not clip_first:
                self._clip(gradients, optim.max_grad_norm)
            before = [leaf.detach().clone() for leaf in self.leaves]
            for leaf, gradient, mean, square in zip(self.leaves, gradients, first, second, strict=True):
                mean.copy_(0.9 * mean + 0.1 * gradient)
                square.copy_(0.999 * square + 0.001 * gradient**2)
                unbiased = mean / (1 - 0.9**number)
                spread = (square / (1 - 0.999**number)) ** 0.5 + 1e-8
                decayed = leaf.data * (1 - optim.learning_rate * optim.weight_decay)
                leaf.data.copy_(decayed - optim.learning_rate * unbiased / spread)
            if mask == "update":
                for name, (_, owned) in self.measured.items():
                    for leaf, axis in owned:
                        old = before[self._place(leaf)]
                        for j, kept_here in enumerate(kept[name]):
                            if not kept_here:
                                leaf.data.select(axis, j).copy_(old.select(axis, j))

    def _kept(self, sizes: list[float], threshold: str) -> list[bool]:
        number = len(sizes) - math.floor(Decimal(threshold) * len(sizes))
        best = sorted(range(len(sizes)), key=lambda j: (-sizes[j], j))[:number]
        return [j in best for j in range(len(sizes))]

    def _clip(self, gradients: list[Tensor], limit: float | None) -> None:
        if limit is None:
            return
        norm = math.sqrt(sum((gradient**2).sum().item() for gradient in gradients))
        for gradient in gradients:
            gradient.mul_(min(1.0, limit / (norm + 1e-6)))

    def _place(self, leaf: Tensor) -> int:
        return next(place for place, other in enumerate(self.leaves) if other is leaf)

    def _slices(self, tensor: Tensor, axis: int, kept: list[bool], change: Callable[[Tensor], object]) -> None:
        for j, kept_here in enumerate(kept):
            if not kept_here:
                change(tensor.select(axis, j))


ENDINGS = {
    "t5": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "bart": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"),
}


def naive_full(model: nn.Module, architecture: str) -> Naive:
    """Every parameter is trained, attention and feed-forward are masked."""
    model.requires_grad_(True).eval()
    naive = Naive(model, list(model.parameters()), {})
    for name, linear in model.named_modules():
        if name.rsplit(".", 1)[-1] not in ENDINGS[architecture] or not isinstance(linear, nn.Linear | Conv1D):
            continue

        def capture(_: nn.Module, args: tuple[Tensor], name: str = name) -> None:
            naive.captured[name] = args[0].detach().flatten(0, -2)

        def outputs(x: Tensor, linear: nn.Module = linear) -> Tensor:
            weight = linear.weight.detach() if isinstance(linear, nn.Linear) else linear.weight.detach().T
            bias = 0 if linear.bias is None else linear.bias.detach()
            return torch.stack([weight @ token + bias for token in x])

        linear.register_forward_pre_hook(capture)
        owned = [(linear.weight, 1 if isinstance(linear, Conv1D) else 0)]
        if linear.bias is not None:
            owned.append((linear.bias, 0))
        naive.measured[name] = (outputs, owned)
    return naive


def naive_lora(model: nn.Module, tensors: dict[str, Tensor], scale: float) -> Naive:
    """A pristine host; at every site s B A x is added, and s B_i A_i x of earlier tasks. tensors: by public name."""
    model.requires_grad_(False).eval()
    naive = Naive(model, [], {})
    for key in [key for key in tensors if key.endswith(".down.weight")]:
        name = key.removesuffix(".down.weight")
        down, up = (tensors[f"{name}.{kind}.weight"].clone().requires_grad_() for kind in ("down", "up"))
        past = list(zip(tensors[f"{name}.past_down"], tensors[f"{name}.past_up"], strict=True))
        naive.leaves += [down, up]

        def add(
            _: nn.Module,
            args: tuple[Tensor],
            output: Tensor,
            name: str = name,
            down: Tensor = down,
            up: Tensor = up,
            past: list[tuple[Tensor, Tensor]] = past,
        ) -> Tensor:
            x = args[0]
            output = output + scale * (x @ down.T) @ up.T + sum(scale * (x @ a.T) @ b for a, b in past)
            naive.captured[name] = output.detach().flatten(0, -2)
            naive.captured[f"{name}.down"] = (x @ down.T).detach().flatten(0, -2)
            return output

        model.get_submodule(name).register_forward_hook(add)
        naive.measured[f"{name}.down"] = (lambda codes: codes, [(down, 0)])
        naive.measured[name] = (lambda whole: whole, [(up, 0)])
    return naive


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


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

    def watch(kind: str, **_: object) -> None:
        if kind == "step" and "magnitude_mask" in learner.held:
            masks.append(dict(learner.held["magnitude_mask"].step.masks))

    learner.report = watch
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
        trained = [parameter for site in sites for parameter in (site.down.weight, site.up.weight)]
    for found, expected in zip(trained, naive.leaves, strict=True):
        assert close(found, expected)
