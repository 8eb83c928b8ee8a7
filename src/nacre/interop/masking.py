"""MIGU in other training loops, as in `with nacre.masking(model, optimizer): ...`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nacre.errors import ModelError, TrainingError
from nacre.features.magnitudes import CountedTokens, Magnitudes, summed_over_processes
from nacre.features.masked_step import Masked, MaskedStep, check_threshold, with_roles
from nacre.functional.masking import Count, kept_count, largest
from nacre.interop.feature_maps import trained_feature_maps
from nacre.models.roles import ROLES, Role


@contextmanager
def masking(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    threshold: float = 0.7,
    mask: Masked = "gradient",
    *,
    components: Sequence[Role] = ROLES,
    tokens: CountedTokens = "non_padding",
    count: Count = "floor",
) -> Iterator[MaskedStep]:
    """While open, every step of the optimizer updates only the output features with the largest magnitudes.

        with nacre.masking(model, optimizer, threshold=0.7):
            for batch in batches:
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    With the Trainer of transformers, or TRL's SFTTrainer, the optimizer must exist first, and the model is the
    trainer's:

        trainer.create_optimizer()
        with nacre.masking(trainer.model, trainer.optimizer):
            trainer.train()

    The magnitudes are those of all batches whose gradients the step sums up. Batches of a step that a `GradScaler`
    skipped are forgotten as soon as their gradients are set to None (`zero_grad()` with its defaults). Magnitudes are
    summed over the processes of data parallelism; sharded parameters (FSDP, ZeRO) are not supported.

    These trainers clip before the step, so they see the gradients before they are masked; nacre's own loop and the
    released code of MIGU mask first and clip then. To clip after masking here, too, set the trainer's
    `max_grad_norm=0` and register `torch.nn.utils.clip_grad_norm_` as a pre-hook of the optimizer's step inside the
    `with`. Afterwards no hook is left, also after an error.

    Args:
        model: A Hugging Face model whose attention and feed-forward are trained, or one with LoRA by PEFT, whose
            factors then are.
        optimizer: The optimizer that trains it.
        threshold: Share of each map's output features that is left out of a step.
        mask: `gradient` masks the gradient; `update` also keeps masked features where they are.
        components: Roles of the linear maps that are masked.
        tokens: Whose outputs count.
        count: How many features are kept; see `nacre methods seq_ft+migu` for all of these settings.

    Yields:
        The object whose `masks` are those of the newest step.

    Raises:
        ModelError: The optimizer trains no linear map of the model.
        RecipeError: A setting is out of range.
        TrainingError: There is no optimizer; or, from a step, the model was not called before it.
    """
    check_threshold(threshold)
    model, optimizer = _unwrapped_model(model), _unwrapped_optimizer(optimizer)
    maps = with_roles(trained_feature_maps(model), components)
    parameters = [parameter for each in maps for parameter, _ in each.parameters if parameter.requires_grad]
    _check_trained(parameters, optimizer)
    step = MaskedStep(maps, mask)
    if threshold == 0:
        yield step
        return
    kept = [kept_count(each.features, threshold, count) for each in maps]
    with ExitStack() as stack:
        magnitudes = Magnitudes(model, maps, tokens)
        stack.callback(magnitudes.close)
        window = StepMagnitudes(magnitudes, parameters)
        stack.callback(window.close)

        def before(*_: object) -> None:
            sums = summed_over_processes(window.take())
            step.before([largest(total, number) for total, number in zip(sums, kept, strict=True)])

        def after(*_: object) -> None:
            step.after()

        for handle in (optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)):
            stack.callback(handle.remove)
        yield step


class StepMagnitudes:
    """Magnitudes of the batches whose gradients are summed in the parameters' `grad`.

    A foreign loop does not say when a step begins. The gradients do: a batch that arrives while no parameter has one is
    the first of its step, and whatever was counted before belongs to gradients that were thrown away.
    """

    def __init__(self, magnitudes: Magnitudes, parameters: Sequence[nn.Parameter]) -> None:
        """Register a hook on every parameter.

        Args:
            magnitudes: Counts batch by batch.
            parameters: Those of the measured maps.
        """
        self.magnitudes = magnitudes
        self.parameters = parameters
        self.sums: list[Tensor] | None = None
        self.handles = [
            parameter.register_hook(self._arrives)  # type: ignore[no-untyped-call]
            for parameter in parameters
        ]

    def take(self) -> list[Tensor]:
        """Sums of this step, [features] for each map; the next step begins from zero.

        Raises:
            TrainingError: No gradient came from a call of the model.
        """
        if self.sums is None:
            raise TrainingError(
                "The optimizer steps, and no gradient has come from a call of the model that nacre.masking was given: "
                "give it the model that is trained (of a Trainer: trainer.model)."
            )
        sums, self.sums = self.sums, None
        return sums

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self.handles:
            handle.remove()

    def _arrives(self, gradient: Tensor) -> None:
        """Before a gradient is added to what its parameter has."""
        if not self.magnitudes.any:
            return  # another gradient of this batch has come before
        new = self.magnitudes.take()
        if self.sums is None or all(parameter.grad is None for parameter in self.parameters):
            self.sums = new
        else:
            self.sums = [total + more for total, more in zip(self.sums, new, strict=True)]


def _unwrapped_model(model: nn.Module) -> nn.Module:
    while isinstance(model, DistributedDataParallel):
        model = model.module
    return model


def _unwrapped_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    if optimizer is None:
        raise TrainingError("There is no optimizer yet: call trainer.create_optimizer() before nacre.masking.")
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _check_trained(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    steps = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in steps for parameter in parameters):
        raise ModelError(
            "The optimizer moves no trained linear map of this model: give nacre.masking the model and the optimizer "
            "that belong together."
        )
