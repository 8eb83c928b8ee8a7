"""``nacre.masking`` in other training loops: a plain one, the Trainer of transformers, TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import nacre
from helpers.naive_migu import close, naive_full, without_dropout
from helpers.tiny import tiny_host, tokenizer
from nacre.errors import ModelError, RecipeError, TrainingError
from nacre.features.masked_step import MaskedStep
from nacre.functional.losses import IGNORED
from nacre.learning.settings import Optim
from nacre.models.families import Encoded

RATE = 1e-2
DECAY = 0.1


def rows(count: int, seed: int = 0) -> list[Encoded]:
    """Random tokens, of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return (*torch.randint(4, 30, (length,), generator=generator).tolist(), 1)

    return [Encoded(ids(3, 9), ids(1, 4), False) for _ in range(count)]


def batch_of(architecture: str, some: Sequence[Encoded]) -> dict[str, Tensor]:
    """As a foreign loop would give it: an encoder-decoder gets labels and makes its decoder's input itself."""
    batch = dict(tiny_host(architecture).family.batch(some))
    batch.pop("decoder_input_ids", None)
    return batch


def lora(model: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    targets = {"t5": ["q", "v"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}[model.config.model_type]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=targets == ["c_attn"])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return peft.get_peft_model(model, config)


def our_hooks(optimizer: torch.optim.Optimizer, model: nn.Module) -> int:
    """Hooks of nacre on modules, parameters and the optimizer; trainers leave hooks of their own."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    places = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    for module in model.modules():
        places += [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks]
    places += [parameter._backward_hooks or {} for parameter in model.parameters()]
    functions = [getattr(hook, "func", hook) for place in places for hook in place.values()]
    return sum(function.__module__.startswith("nacre") for function in functions)


class Witness:
    """Watches every step from outside: which features the step left bit for bit as they were."""

    def __init__(self, masked: MaskedStep, optimizer: torch.optim.Optimizer) -> None:
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        self.masked = masked
        self.steps = self.masked_moved = self.kept_still = self.kept = self.features = 0
        self.always_masked: dict[str, Tensor] = {}
        self.start = self._slices()
        self.handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),  # registered later, so that it acts later
        ]

    def _slices(self) -> dict[str, list[Tensor]]:
        return {
            found.name: [p.detach().clone().movedim(axis, 0).flatten(1) if p.dim() > 1 else p.detach().clone()[:, None]
                         for p, axis in found.parameters]
            for found in self.masked.maps
        }  # fmt: skip

    def _before(self, *_: object) -> None:
        self.now = self._slices()

    def _after(self, *_: object) -> None:
        self.steps += 1
        for name, slices in self._slices().items():
            mask = self.masked.masks[name]
            self.kept += int(mask.sum())
            self.features += len(mask)
            self.always_masked[name] = self.always_masked.get(name, ~mask) & ~mask
            for new, old in zip(slices, self.now[name], strict=True):
                still = (new == old).all(1)
                self.masked_moved += int((~still & ~mask).sum())
                self.kept_still += int((still & mask).sum())

    def untouched_from_start_to_end(self) -> bool:
        """The features that no step kept: one at least, and all as they were at first."""
        end = self._slices()
        assert any(mask.any() for mask in self.always_masked.values())
        return all(
            torch.equal(new[mask], old[mask])
            for name, mask in self.always_masked.items()
            for new, old in zip(end[name], self.start[name], strict=True)
        )

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


@contextmanager
def witnessed(model: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> Iterator[Witness]:
    """``nacre.masking`` with a witness; afterwards no hook may be left."""
    with nacre.masking(model, optimizer, **settings) as masked:
        witness = Witness(masked, optimizer)
        yield witness
        assert our_hooks(optimizer, model) >= 4 + 2 * len(masked.maps)  # two on the model and on the optimizer each
        witness.close()
    assert our_hooks(optimizer, model) == 0


def check(witness: Witness, mask: str, steps: int = 20) -> None:
    assert witness.steps == steps
    assert 0.25 < witness.kept / witness.features < 0.45, "about 30 %, more where four of LoRA's ranks are halved"
    if mask == "update":
        assert witness.masked_moved == 0
        assert witness.untouched_from_start_to_end()
    else:
        assert witness.masked_moved > 0, "Adam's momentum and weight decay move what has no gradient"
        assert not witness.untouched_from_start_to_end()


# A plain loop


@pytest.mark.parametrize("mask", ["update", "gradient"])
@pytest.mark.parametrize("wrap", [lambda model: model, lora], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2"])
def test_a_plain_loop(architecture: str, wrap: Any, mask: str) -> None:
    model = wrap(tiny_host(architecture).model).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
    data = rows(40)
    with witnessed(model, optimizer, threshold=0.7, mask=mask) as witness:
        for step in range(20):
            model(**batch_of(architecture, data[2 * step : 2 * step + 2])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    check(witness, mask)
    if mask == "update" and wrap is not lora:
        assert witness.kept_still == 0


@pytest.mark.parametrize("mask", ["update", "gradient"])
@pytest.mark.parametrize("clip", ["first", "last"])
def test_a_plain_loop_is_what_the_equations_say(mask: str, clip: str) -> None:
    """Against the naive computation; clipping before the step sees gradients before they are masked, and a pre-hook
    that is registered inside sees them masked."""
    first, second = (tiny_host("gpt2", torch.float64).model for _ in range(2))
    without_dropout(first)
    data = [rows(2, seed) for seed in range(4)]
    optim = Optim(learning_rate=1e-3, weight_decay=DECAY, max_grad_norm=0.5)
    naive = naive_full(second, "gpt2")
    naive.train(data, optim, "0.6", mask, clip_first=clip == "first")
    parameters = list(first.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=DECAY)
    host = tiny_host("gpt2", torch.float64)
    masks = []
    with nacre.masking(first, optimizer, 0.6, mask) as masked:
        if clip == "last":
            handle = optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(parameters, 0.5) and None)
        for step in data:
            count = sum(len(row.target) for row in step)
            for row in step:  # two micro-batches
                (host.family.loss_sum(first, host.family.batch([row])) / count).backward()
            if clip == "first":
                nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
            optimizer.zero_grad()
            masks.append({name: kept.tolist() for name, kept in masked.masks.items()})
        if clip == "last":
            handle.remove()
    assert masks == naive.masks
    for found, expected in zip(parameters, naive.leaves, strict=True):
        assert close(found, expected)


def test_peft_loras_are_measured_as_the_paper_says() -> None:
    """A by its own output, B by the output of the whole adapted layer."""
    model = lora(tiny_host("llama", torch.float64).model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    expected: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            expected[name] = output.detach().abs().sum((0, 1))

        return hook

    handles = [
        module.register_forward_hook(watch(name.replace(".lora_A.default", ".A")))
        for name, module in model.named_modules()
        if name.endswith(("q_proj", "v_proj", "lora_A.default"))
    ]
    batch = batch_of("llama", rows(1))
    with nacre.masking(model, optimizer, threshold=0.5) as masked:
        model(**batch).loss.backward()
        for handle in handles:
            handle.remove()
        optimizer.step()
    assert len(masked.masks) == 8
    for name, mask in masked.masks.items():
        layer, _, factor = name.partition(".lora_")
        sizes = expected[f"{layer}.A" if factor.startswith("A") else layer]
        assert int(mask.sum()) == len(mask) - len(mask) // 2
        assert sizes[mask].min() >= sizes[~mask].max(), name


def test_padding_and_accumulation_do_not_change_the_masks() -> None:
    data = rows(4, seed=5)
    found = []
    for parts in ([data], [data[:1], data[1:3], data[3:]]):
        model = tiny_host("t5", torch.float64).model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with nacre.masking(model, optimizer) as masked:
            for part in parts:
                model(**batch_of("t5", part)).loss.backward()
            optimizer.step()
        found.append(masked.masks)
    assert all(torch.equal(mask, found[1][name]) for name, mask in found[0].items())
    model = tiny_host("t5", torch.float64).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with nacre.masking(model, optimizer, tokens="all") as masked:
        model(**batch_of("t5", data)).loss.backward()
        optimizer.step()
    assert any(not torch.equal(mask, masked.masks[name]) for name, mask in found[0].items())


def test_threshold_zero_changes_nothing() -> None:
    def trained(masked: bool) -> list[Tensor]:
        model = tiny_host("llama").model
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        with nacre.masking(model, optimizer, threshold=0.0) if masked else torch.enable_grad():
            for step in range(3):
                model(**batch_of("llama", rows(2, step))).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return list(model.parameters())

    assert all(torch.equal(one, other) for one, other in zip(trained(True), trained(False), strict=True))


# Steps that do not happen, or not with everything


def masks_after(model: nn.Module, optimizer: torch.optim.Optimizer, data: Sequence[Encoded]) -> dict[str, Tensor]:
    """What one step on these rows alone would mask."""
    with nacre.masking(model, optimizer) as masked:
        model(**batch_of("llama", data)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(masked.masks)


@pytest.mark.parametrize("order", ["zero last", "zero before backward"])
def test_a_step_that_a_gradient_scaler_skips_does_not_count(order: str) -> None:
    model = tiny_host("llama", torch.float64).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    alone = masks_after(model, optimizer, rows(2, 8))
    mixed = masks_after(model, optimizer, [*rows(2, 7), *rows(2, 8)])
    assert any(not torch.equal(alone[name], mixed[name]) for name in alone), "it could be seen"
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    steps = []
    with nacre.masking(model, optimizer) as masked:
        handle = optimizer.register_step_post_hook(lambda *_: steps.append(dict(masked.masks)))
        for seed, factor in ((7, float("inf")), (8, 1.0)):
            loss = model(**batch_of("llama", rows(2, seed))).loss * factor
            if order == "zero before backward":
                optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if order == "zero last":
                optimizer.zero_grad()
        handle.remove()
    assert len(steps) == 1, "the first step was skipped"
    assert all(torch.equal(mask, alone[name]) for name, mask in steps[0].items())


def test_evaluation_between_steps_does_not_count() -> None:
    model = tiny_host("llama", torch.float64).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    alone = masks_after(model, optimizer, rows(2, 8))
    with nacre.masking(model, optimizer) as masked:
        with torch.no_grad():
            model(**batch_of("llama", rows(4, 7)))
        model(**batch_of("llama", rows(2, 8))).loss.backward()
        optimizer.step()
    assert all(torch.equal(mask, alone[name]) for name, mask in masked.masks.items())


def test_a_step_without_a_call_of_the_model_is_refused() -> None:
    model = tiny_host("llama").model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(TrainingError, match="give it the model that is trained"), nacre.masking(model, optimizer):
        optimizer.step()
    assert our_hooks(optimizer, model) == 0


def test_no_hook_is_left_after_an_error() -> None:
    model, optimizer = _lora_with_optimizer()
    during = []

    def interrupted() -> None:
        with nacre.masking(model, optimizer):
            model(**batch_of("t5", rows(2))).loss.backward()
            during.append(our_hooks(optimizer, model))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert during[0] > 0
    assert our_hooks(optimizer, model) == 0


def test_an_accelerated_optimizer_and_model_are_unwrapped() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = tiny_host("llama").model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    prepared, accelerated = accelerator.prepare(model, optimizer)
    with witnessed(prepared, accelerated, mask="update") as witness:
        for step in range(8):
            with accelerator.accumulate(prepared):
                accelerator.backward(prepared(**batch_of("llama", rows(2, step))).loss)
                accelerated.step()
                accelerated.zero_grad()
    check(witness, "update", steps=4)


# Wrong use


def test_wrong_settings_are_named() -> None:
    model = tiny_host("t5").model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RecipeError, match=r"threshold: 1\.0 is not in"), nacre.masking(model, optimizer, 1.0):
        pass
    with (
        pytest.raises(RecipeError, match="no trained linear map is ffn_in; here are query, value"),
        nacre.masking(*_lora_with_optimizer(), components=["ffn_in"]),
    ):
        pass
    with pytest.raises(TrainingError, match=r"call trainer\.create_optimizer\(\)"), nacre.masking(model, None):
        pass
    other = tiny_host("t5").model
    with pytest.raises(ModelError, match="that belong together"), nacre.masking(other, optimizer):
        pass
    frozen = tiny_host("t5").model.requires_grad_(False)
    with pytest.raises(ModelError, match="No linear map of the model is trained"), nacre.masking(frozen, optimizer):
        pass
    with pytest.raises(ModelError, match="architecture 'Linear'"), nacre.masking(nn.Linear(2, 2), optimizer):
        pass


def _lora_with_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = lora(tiny_host("t5").model)
    return model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def test_dora_is_refused() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_host("llama").model, peft.LoraConfig(use_dora=True, target_modules=["q_proj"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ModelError, match="DoRA"), nacre.masking(model, optimizer):
        pass


# Trainers


def collate(some: list[dict[str, Any]]) -> dict[str, Tensor]:
    return batch_of("t5", [Encoded(tuple(row["source"]), tuple(row["target"]), False) for row in some])


@pytest.mark.parametrize("mask", ["update", "gradient"])
def test_the_trainer_of_transformers(mask: str, tmp_path: Path) -> None:
    """T5, full fine-tuning, accumulation, clipping, and evaluation in between."""
    pytest.importorskip("datasets")
    data = [{"source": row.source, "target": row.target} for row in rows(80)]
    arguments = TrainingArguments(
        tmp_path, max_steps=20, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=RATE,
        weight_decay=DECAY, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", eval_strategy="steps",
        eval_steps=5, remove_unused_columns=False, logging_strategy="no",
    )  # fmt: skip
    model = tiny_host("t5").model
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data[:8], data_collator=collate)
    trainer.create_optimizer()
    with witnessed(trainer.model, trainer.optimizer, threshold=0.7, mask=mask) as witness:
        trainer.train()
    check(witness, mask)
    assert witness.kept_still == 0


@pytest.mark.parametrize("mask", ["update", "gradient"])
def test_the_sft_trainer_of_trl_with_lora(mask: str, tmp_path: Path) -> None:
    """Llama, LoRA made by the trainer itself, activation checkpointing."""
    trl, peft, datasets = (pytest.importorskip(name) for name in ("trl", "peft", "datasets"))
    data = datasets.Dataset.from_list(
        [
            {"input_ids": row.source + row.target, "labels": [IGNORED] * len(row.source) + [*row.target]}
            for row in rows(40)
        ]
    )
    arguments = trl.SFTConfig(
        tmp_path, max_steps=20, per_device_train_batch_size=2, learning_rate=RATE, weight_decay=DECAY, report_to=[],
        use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no", logging_strategy="no",
        gradient_checkpointing=True, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        tiny_host("llama").model, arguments, train_dataset=data, processing_class=tokenizer("decoder-only"),
        peft_config=peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
    )  # fmt: skip
    trainer.create_optimizer()
    with witnessed(trainer.model, trainer.optimizer, threshold=0.7, mask=mask) as witness:
        trainer.train()
    check(witness, mask)
    assert {name.rpartition(".lora_")[2] for name in witness.masked.masks} == {"A.default", "B.default"}
