"""A whole task with MIGU by hand: one row at a time, so that there is no padding, token by token, and AdamW by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.learning.settings import Optim
from nacre.models.families import Encoded

BOUND = 1e-10


def close(found: Tensor, expected: Tensor) -> bool:
    """To 1e-10 of their size. The key biases of BART and GPT-2 have no gradient but rounding, because the softmax does
    not see what is added to all keys alike, and AdamW blows that up: so small tensors count as of size 0.1."""
    return bool((found - expected).norm() <= BOUND * max(expected.norm().item(), 0.1))


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
