"""What a training step costs, as a ratio to plain PEFT LoRA: CPU time and bytes saved for the backward pass.

    make bench                                        T5-small's shape, random weights, 7 rounds
    python benchmarks/step_cost.py --width 128 --rounds 3

Machines are shared and noisy, so absolute times mean little: all variants live in one process, take turns in a
shuffled order, and each round gives one ratio against that round's baseline. The baseline runs twice: the second
entry, "PEFT again", shows what a difference of nothing looks like.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import peft
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from nacre.adapters.gated import Gated
from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.functional.losses import token_loss_sum

RANK, ALPHA = 8, 32.0


def host(width: int) -> nn.Module:
    torch.manual_seed(0)
    shape = T5Config(d_model=width, d_kv=width // 8, d_ff=4 * width, num_layers=6, num_heads=8, dropout_rate=0.0)
    shape.decoder_start_token_id = 0
    return T5ForConditionalGeneration(shape)


def with_peft(width: int) -> nn.Module:
    config = peft.LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=["q", "v"], lora_dropout=0.0)
    return peft.get_peft_model(host(width), config)


def with_nacre(width: int, settings: LowRank, past: int) -> nn.Module:
    model = host(width)
    placed = settings.place(model)
    for task in range(past + 1):
        placed.grow()
        placed.fresh(task)
        with torch.no_grad():  # a LoRA that is zero costs the same; one that is not shows that it takes part
            for module in model.modules():
                if isinstance(module, LowRankSite):
                    module.up.weight.normal_(std=1e-3)
    return model


def step_of(model: nn.Module) -> Callable[[], float]:
    """One step on a fixed batch of 8 rows, 128 tokens read and 8 written; returns its CPU seconds."""
    generator = torch.Generator().manual_seed(1)
    read, written = (torch.randint(1, 1000, (8, length), generator=generator) for length in (128, 8))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> float:
        started = time.process_time()
        logits = model(input_ids=read, decoder_input_ids=written, use_cache=False).logits
        (token_loss_sum(logits, written) / written.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - started

    return step


def saved_bytes(model: nn.Module, step: Callable[[], float]) -> int:
    """Bytes kept for the backward pass, parameters and buffers not counted, each storage once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(seen.values())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--width", type=int, default=512, help="d_model of the host (default: 512)")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--past", type=int, nargs="*", default=[0, 4, 14], help="numbers of past tasks")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)

    variants: dict[str, nn.Module] = {"PEFT LoRA": with_peft(chosen.width), "PEFT again": with_peft(chosen.width)}
    for past in chosen.past:
        variants[f"inc_lora, {past} past"] = with_nacre(chosen.width, LowRank(RANK, ALPHA, 0.0), past)
        variants[f"am_lora, {past} past"] = with_nacre(chosen.width, Gated(RANK, ALPHA, 0.0), past)
    steps = {name: step_of(model.train()) for name, model in variants.items()}
    kept = {name: saved_bytes(variants[name], step) for name, step in steps.items()}  # the first call, not timed

    ratios: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(steps), random.Random(0)
    for _ in range(chosen.rounds):
        shuffle.shuffle(order)
        seconds = {name: steps[name]() for name in order}
        for name in steps:
            ratios[name].append(seconds[name] / seconds["PEFT LoRA"])

    print(f"{'step / PEFT LoRA r=8':<24}{'median':>8}{'min':>8}{'max':>8}{'saved MB':>10}")
    for name, values in ratios.items():
        middle, megabytes = statistics.median(values), kept[name] / 1e6
        print(f"{name:<24}{middle:>8.2f}{min(values):>8.2f}{max(values):>8.2f}{megabytes:>10.1f}")


if __name__ == "__main__":
    main()
