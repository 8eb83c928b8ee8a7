"""What nacre's training steps are compared with, each around the same host: plain PEFT LoRA; PEFT with an adapter for
each task; AM-LoRA as its equations read, with every task's features in memory; and AM-LoRA's large products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import peft
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.roles import find_linears

RANK, ALPHA = 8, 32.0
SCALE = ALPHA / RANK


def peft_lora(host: Host, adapters: int = 1) -> nn.Module:
    """PEFT with so many LoRAs active, of which the newest is trained."""
    names = [name.rsplit(".", 1)[-1] for name in sites(host)]
    config = peft.LoraConfig(
        r=RANK, lora_alpha=int(ALPHA), target_modules=sorted(set(names)), lora_dropout=0.0, init_lora_weights=False
    )
    model = peft.get_peft_model(host.model, config, adapter_name="task0")  # type: ignore[arg-type]
    for number in range(1, adapters):
        model.add_adapter(f"task{number}", config)
    model.base_model.set_adapter([f"task{number}" for number in range(adapters)])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f"lora_A.task{adapters - 1}." in name or f"lora_B.task{adapters - 1}." in name)
    return model


def sites(host: Host) -> dict[str, nn.Module]:
    """The linear maps that nacre's low-rank methods adapt: queries and values."""
    return find_linears(host.model, ("query", "value"))


def naive_am_lora(host: Host, tasks: int) -> nn.Module:
    host.model.requires_grad_(False)
    return _with_sites(host, lambda base: NaiveGatedSite(base, tasks))


def products_only(host: Host, tasks: int) -> nn.Module:
    host.model.requires_grad_(False)
    return _with_sites(host, lambda base: ProductsOnlySite(base, tasks))


def _with_sites(host: Host, wrap: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    for name, linear in sites(host).items():
        assert isinstance(linear, nn.Linear)
        host.model.set_submodule(name, wrap(linear))
    return host.model


class NaiveGatedSite(nn.Module):
    """h = W x + sum_i g_i h_i, h_i = s B_i A_i x, g = softmax over (w_i . h_i) and the zero LoRA's 0."""

    def __init__(self, base: nn.Linear, tasks: int) -> None:
        super().__init__()
        self.base, d_in, d_out = base, base.in_features, base.out_features
        make = lambda *shape: nn.ParameterList(nn.Parameter(0.02 * torch.randn(shape)) for _ in range(tasks))  # noqa: E731
        self.down, self.up, self.selector = make(RANK, d_in), make(d_out, RANK), make(d_out)
        for earlier in [*self.down[:-1], *self.up[:-1]]:
            earlier.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.down, self.up, strict=True)
        features = torch.stack([SCALE * F.linear(F.linear(x, down), up) for down, up in pairs], -2)  # [..., t, d_out]
        scores = (features * torch.stack(list(self.selector))).sum(-1)
        gates = torch.cat([scores, scores.new_zeros(*scores.shape[:-1], 1)], -1).softmax(-1)[..., :-1]
        return self.base(x) + (gates.unsqueeze(-1) * features).sum(-2)


class ProductsOnlySite(nn.Module):
    """h = W x + s B_cat A_cat x and its gradients for x and the newest task: no gate, and so no floor lies lower."""

    def __init__(self, base: nn.Linear, tasks: int) -> None:
        super().__init__()
        self.base, d_in, d_out = base, base.in_features, base.out_features
        self.register_buffer("all_down", 0.02 * torch.randn(tasks * RANK, d_in))
        self.register_buffer("all_up", 0.02 * torch.randn(tasks * RANK, d_out))
        self.down = nn.Parameter(0.02 * torch.randn(RANK, d_in))
        self.up = nn.Parameter(0.02 * torch.randn(d_out, RANK))

    def forward(self, x: Tensor) -> Tensor:
        flat = _Products.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]), self.down, self.up, self.base.weight, self.all_down, self.all_up
        )
        return flat.view(*x.shape[:-1], -1)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, weight: Tensor, all_down: Tensor, all_up: Tensor
    ) -> Tensor:
        all_down[-RANK:].copy_(down)
        all_up[-RANK:].copy_(up.T)
        codes = torch.mm(all_down, x.T)
        ctx.save_for_backward(x, codes, down, up)
        ctx.frozen = weight, all_down, all_up
        return torch.mm(x, weight.T).addmm_(codes.T, all_up, alpha=SCALE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, codes, _, _ = ctx.saved_tensors
        weight, all_down, all_up = ctx.frozen
        reached = torch.mm(all_up, gradient.T)
        by_x = torch.mm(gradient, weight).addmm_(reached.T, all_down, alpha=SCALE)
        by_down = torch.mm(reached[-RANK:], x).mul_(SCALE)
        by_up = torch.mm(gradient.T, codes[-RANK:].T).mul_(SCALE)
        return by_x, by_down, by_up, None, None, None


def plain_step(
    host: Host, model: nn.Module, rows: Sequence[Encoded], mixed_precision: str = "no"
) -> Callable[[], None]:
    """A training step as short as it can be: loss, backward, clipping, fused AdamW."""
    model.to(host.device).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    tokens = sum(row.num_target_tokens for row in rows)
    autocast = torch.autocast(host.device.type, torch.bfloat16, enabled=mixed_precision == "bf16")

    def step() -> None:
        batch = host.on_device(host.family.batch(rows))
        with autocast:
            loss = host.family.loss_sum(model, batch) / tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
