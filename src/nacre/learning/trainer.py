"""The only training loop. Every method goes through it; none edits it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacre import processes
from nacre.errors import CheckpointError, TrainingError
from nacre.events import OnEvent, StepTaken
from nacre.learning.batches import (
    Batches,
    TokenCount,
    as_many_micro_batches,
    in_micro_batches,
    in_order,
    split,
    target_tokens,
)
from nacre.learning.gradients import average_over_processes, clip
from nacre.learning.schedule import rate_factor
from nacre.learning.settings import Optim
from nacre.learning.training_saves import TrainingSaves
from nacre.learning.training_state import TrainingState, give_back, held_by, random_states, set_random_states
from nacre.method import Method
from nacre.models.batch import Batch
from nacre.models.families import Encoded
from nacre.models.sharding import as_part, is_part, own_part, rows_of, whole_of
from nacre.parts.part import Holding, LearnerView, Step

Terms = dict[str, tuple[Tensor, float]]
"""By part: the term before weighting, [], and its weight."""

FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices on which AdamW can update a parameter in one pass over memory."""


@dataclass(frozen=True, eq=False)
class Loss:
    """Of a micro-batch, each as a sum over its target tokens, [].

    Attributes:
        task: The task loss.
        terms: By part, its term before weighting.
    """

    task: Tensor
    terms: dict[str, Tensor]


class Trainee(LearnerView, Protocol):
    """What training needs of a learner."""

    @property
    def method(self) -> Method: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def step(self) -> Step: ...
    @step.setter
    def step(self, step: Step) -> None: ...

    def begin_step(self, step: Step) -> None:
        """Set `step`, and tell all parts that it begins."""
        ...

    def loss(self, model: nn.Module, rows: Sequence[Encoded], batch: Batch) -> Loss:
        """The loss of a micro-batch, from what accelerate made of the host's model."""
        ...


def train(
    learner: Trainee,
    batches: Batches,
    optim: Optim,
    accelerator: Accelerator,
    on_event: OnEvent,
    saves: TrainingSaves | None = None,
) -> TokenCount:
    """Train what the learner says is trainable on one stage's rows. Returns how much that was.

    Args:
        learner: Whom to train.
        batches: The rows, step by step.
        optim: How to train.
        accelerator: Where, and in which precision.
        on_event: Is called with what happens in steps.
        saves: Where training is saved, and goes on if it was; None: it is not saved.

    Raises:
        TrainingError: Naming the step and rows, if the loss or the norm of its gradient is not finite, no token is to
            be predicted, or no trainable parameter takes part; and if the weights are not finite in the end.
    """
    training = Training(learner, batches, optim, accelerator)
    monitor = LossMonitor(batches, optim.log_every, on_event, accelerator)
    first = 0 if saves is None else training.go_on(saves)
    with nullcontext() if saves is None else saves.listening():
        for step in range(first, batches.steps):
            task_loss, terms = training.take(step)
            read = monitor.see(step, task_loss, terms, learner.step.rate, training.gradient_norm)
            if saves is not None and saves.is_due(step + 1, batches.steps, ask=read):
                monitor.check()
                saves.write(training.state(step + 1))
    training.finish()
    _check_weights(training.parameters, batches)
    return training.whole_work()


class Training:
    """Steps on one stage's rows: ``take`` each, in order, then ``finish``."""

    def __init__(self, learner: Trainee, batches: Batches, optim: Optim, accelerator: Accelerator) -> None:
        self.learner, self.batches, self.optim, self.accelerator = learner, batches, optim, accelerator
        self.rate = learner.learning_rate
        groups = learner.trainable()
        self.parameters = [p for group in groups for p in group.parameters]
        optimizer = torch.optim.AdamW(
            [{"params": group.parameters, "lr": self.rate * group.rate} for group in groups],
            lr=self.rate,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=not any(map(is_part, self.parameters)) and all(p.device.type in FUSED for p in self.parameters),
        )
        self.factor = functools.partial(rate_factor, optim.schedule, steps=batches.steps, warmup=optim.warmup)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        self.model = accelerator.prepare_model(learner.host.model, evaluation_mode=True)  # see `gradients`
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.model.train()
        if optim.gradient_checkpointing:
            learner.host.compute_again(True)
        self.work = TokenCount()
        self.holders = [part for part in learner.method.parts if isinstance(part, Holding)]
        self.gradient_norm: Tensor | None = None  # of the newest step, []; None without clipping, or if it was skipped

    def take(self, step: int) -> tuple[Tensor, Terms]:
        """Take one step.

        The loss of a step is the sum over the target tokens of its rows, of the task loss and the batch terms, divided
        by their number over all micro-batches and processes, plus the weighted penalties; so neither accumulation nor
        the number of processes changes it. Penalties are computed in full precision, batch terms inside autocast.

        Returns:
            This process's share of the task loss [], and the terms; the mean over all processes is the whole.
        """
        learner, accelerator, optimizer = self.learner, self.accelerator, self.optimizer
        method, host = learner.method, learner.host
        optimizer.zero_grad()  # here, so that whoever hears of the step finds the gradients it was taken with
        rows = self.batches.at(step)
        count = _count(rows, self.batches, step)
        own_rows, share = _own_share(rows)
        # Rows of like length share a micro-batch: less padding, and the sum over all rows stays what it is.
        if host.is_sharded:
            at_least = self.optim.accumulation
            micro_batches = as_many_micro_batches(own_rows, len(rows), processes.count(), at_least)
        else:
            micro_batches = in_micro_batches(own_rows, self.optim.accumulation, self.optim.split_padding)
        rate = self.rate * self.factor(step)
        learner.begin_step(Step(step, self.batches.steps, rate, takes_part=share > 0, rows=in_order(rows)))
        number = learner.task_number
        penalties = {part.key: (part.value(learner), part.weight(number)) for part in method.penalties}
        pull: Tensor | float = sum(weight * value for value, weight in penalties.values())
        if host.is_sharded and isinstance(pull, Tensor) and pull.requires_grad:
            accelerator.backward(pull)  # by itself: FSDP expects each pass to be gone back before the next one
            pull = 0.0
        weights = {part.key: part.weight(number) for part in method.batch_terms}
        terms = {key: torch.zeros((), device=host.device) for key in weights}
        task_loss = torch.zeros((), device=host.device)
        for place, micro_batch in enumerate(micro_batches, start=1):
            last = place == len(micro_batches)
            with accelerator.autocast():
                batch = host.family.batch(micro_batch)
                if share:
                    self.work.add(*host.family.size(batch))
                sums = learner.loss(self.model, micro_batch, host.on_device(batch))
                # Processes average their gradients: times their number, the sum over all rows is back.
                scale = share * processes.count() / count
                loss = sums.task * scale
                task_loss += loss.detach()
                for key, term in sums.terms.items():
                    loss = loss + term * (weights[key] * scale)
                    terms[key] += term.detach() * scale
                if last:
                    loss = loss + pull
            _check_graph(loss, self.batches, step)
            if last:
                learner.step = replace(learner.step, all_forward=True)
            accelerator.backward(loss)
        average_over_processes(self.parameters)
        accelerator.unscale_gradients(optimizer)
        for rule in method.gradient_rules:
            rule.apply(learner)
        self.gradient_norm = None
        if self.optim.max_grad_norm is not None:
            self.gradient_norm = clip(self.parameters, self.optim.max_grad_norm)
        optimizer.step()
        if accelerator.optimizer_step_was_skipped:  # as fp16 does where a gradient overflows
            self.gradient_norm = None
        else:
            for rule in method.gradient_rules:
                rule.after_step(learner)
            self.schedule.step()
        return task_loss, {**penalties, **{key: (term, weights[key]) for key, term in terms.items()}}

    def whole_work(self) -> TokenCount:
        """How much training all processes have done."""
        works = processes.gathered((self.work.tokens, self.work.positions))
        return TokenCount(sum(tokens for tokens, _ in works), sum(positions for _, positions in works))

    def state(self, step: int) -> TrainingState:
        """Everything that the steps behind the first ``step`` ones depend on. Tensors are not copied."""
        kept = self.optimizer.state
        return TrainingState(
            step=step,
            steps=self.batches.steps,
            weights=[whole_of(parameter.detach()) for parameter in self.parameters],
            moments=[
                {name: whole_of(value) for name, value in kept.get(parameter, {}).items()}
                for parameter in self.parameters
            ],
            rates=[group["lr"] for group in self.optimizer.param_groups],
            schedule=self.schedule.state_dict(),
            scaler={} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            random=processes.gathered(random_states()),
            parts=held_by(self.holders, self.learner),
            work=self.whole_work(),
        )

    def go_on(self, saves: TrainingSaves) -> int:
        """Go on where training was saved. Returns how many steps have been taken by then."""
        if (state := processes.by_first(saves.newest)) is None:
            return 0
        try:
            state.check_fits(self.parameters, self.batches.steps, self.holders, str(saves.folder))
            give_back(self.holders, self.learner, state.parts)
        except CheckpointError as error:
            saves.give_up(error)
            return 0
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, state.weights, strict=True):
                own_part(parameter).copy_(rows_of(weight, parameter))
        moments = [
            {name: _own_moment(parameter, value) for name, value in kept.items()}
            for parameter, kept in zip(self.parameters, state.moments, strict=True)
        ]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(
            {
                "state": {number: kept for number, kept in enumerate(moments) if kept},
                "param_groups": [{**group, "lr": rate} for group, rate in zip(groups, state.rates, strict=True)],
            }
        )
        self.schedule.load_state_dict(state.schedule)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        if processes.rank() < len(state.random):  # of more processes than before, those behind begin as they are
            set_random_states(state.random[processes.rank()])
        self.work = state.work if processes.is_first() else TokenCount()
        last = state.step - 1
        self.learner.step = Step(last, self.batches.steps, self.rate * self.factor(last), all_forward=True)
        saves.went_on(state)
        return state.step

    def finish(self) -> None:
        """Leave the model unwrapped and in evaluation mode."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False).eval()
        if self.optim.gradient_checkpointing:
            self.learner.host.compute_again(False)


@dataclass
class LossMonitor:
    """Reads losses every few steps only, because a reading waits for the device.

    Until then numbers on the device remember the first steps whose loss and whose gradient were not finite, [2].
    """

    batches: Batches
    every: int
    on_event: OnEvent
    accelerator: Accelerator
    first_bad: Tensor | None = field(default=None)

    def see(self, step: int, task_loss: Tensor, terms: Terms, rate: float, gradient_norm: Tensor | None) -> bool:
        """Note a step's losses, and say them if it is time. Returns whether it was."""
        total = task_loss + sum(value.detach() * weight for value, weight in terms.values())
        norm = total if gradient_norm is None else gradient_norm
        finite = torch.stack([total.isfinite(), norm.isfinite()])
        if self.first_bad is None:
            self.first_bad = torch.full_like(finite, self.batches.steps, dtype=torch.long)
        self.first_bad = torch.where(finite, self.first_bad, self.first_bad.clamp(max=step))
        last = step == self.batches.steps - 1
        if step % self.every and not last:
            return False
        self.check()
        shares = torch.stack([task_loss, *(value.detach() for value, _ in terms.values())])
        task, *own = self.accelerator.reduce(shares, reduction="mean").tolist()  # each process saw its own rows
        values: dict[str, Any] = {"task": task}
        for (key, (_, weight)), value in zip(terms.items(), own, strict=True):
            values[key] = value
            values[f"{key}_weighted"] = value * weight
        self.on_event(
            StepTaken(
                step=step + 1,
                steps=self.batches.steps,
                loss=task + sum(values[f"{key}_weighted"] for key in terms),
                terms=values,
                rate=rate,
            )
        )
        return True

    def check(self) -> None:
        """Raise ``TrainingError`` if a loss or a gradient was not finite in any step so far, in any process."""
        assert self.first_bad is not None
        loss, gradient = self.accelerator.gather(self.first_bad).view(-1, 2).amin(0).tolist()
        if (bad := min(loss, gradient)) < self.batches.steps:
            raise processes.said_once(
                TrainingError(
                    f"The {'loss' if loss == bad else 'gradient'} is not finite at {_place(self.batches, bad)}. "
                    "Lower optim.learning_rate or look at the rows."
                )
            )


def _check_weights(parameters: Sequence[nn.Parameter], batches: Batches) -> None:
    """The last step's weights appear in no loss."""
    finite = torch.stack([own_part(parameter.detach()).isfinite().all() for parameter in parameters])
    if not all(processes.gathered(bool(finite.all()))):
        raise processes.said_once(
            TrainingError(
                f"Learning '{batches.where}' ended with weights that are not finite. Lower optim.learning_rate."
            )
        )


def _own_moment(parameter: nn.Parameter, moment: Tensor) -> Tensor:
    """What AdamW keeps of a parameter, with this process's rows of it where it is sharded."""
    if moment.shape != parameter.shape:  # the number of steps
        return moment
    return as_part(rows_of(moment, parameter).to(parameter.device, copy=is_part(parameter)), parameter)


def _count(rows: Sequence[Encoded], batches: Batches, step: int) -> int:
    count = target_tokens(rows)
    if count == 0:
        raise TrainingError(f"All labels are masked at {_place(batches, step)}: there is no target token to learn.")
    return count


def _place(batches: Batches, step: int) -> str:
    numbers = ", ".join(str(index + 1) for index in batches.indices(step))
    return f"step {step + 1} of '{batches.where}', which holds the training rows {numbers}"


def _own_share(rows: Sequence[Encoded]) -> tuple[Sequence[Encoded], int]:
    """This process's rows of a step and their weight.

    When an epoch's last step has fewer rows than there are processes, those left over run a row of another with weight
    0, because all must take part in the exchange.
    """
    shares = split(rows, processes.count())
    if processes.rank() < len(shares):
        return shares[processes.rank()], 1
    return rows[:1], 0


def _check_graph(loss: Tensor, batches: Batches, step: int) -> None:
    if not loss.requires_grad:
        raise TrainingError(
            f"No trainable parameter has a part in the loss of {_place(batches, step)}: the adapter is not in what the "
            "host computes."
        )
