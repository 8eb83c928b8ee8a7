"""DAS: importances against weights that are really scaled, the masks that follow, and the contrast."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.contract import state_of
from helpers.texts import text_host, text_task
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import ModelError, RecipeError
from nacre.events import Event, Warned
from nacre.features.units import UnitSite, gated, open_gates, unit_sites
from nacre.functional.losses import IGNORED
from nacre.functional.soft_masks import contrast, normalized_importance
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.das import das
from nacre.methods.independent import independent
from nacre.methods.seq_ft import seq_ft
from nacre.methods.seq_lora import seq_lora
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.last_states import last_states
from nacre.modifiers.soft_mask import soft_mask
from nacre.parts import soft_mask as part
from nacre.parts.knowledge_contrast import KnowledgeContrast
from nacre.parts.part import BatchTerm, GradientRule, LearnerView, MicroBatch
from nacre.parts.soft_mask import SoftMask, SoftMaskState, measured, proxy_losses, task_losses

OPTIM = Optim(batch_size=4, learning_rate=1e-3, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
ARCHITECTURES = ["t5", "llama", "roberta"]
LAYERS = {"t5": 2 * 3 + 2 * 4, "llama": 2 * 3, "roberta": 2 * 3, "bart": 2 * 3 + 2 * 4, "mistral": 6, "gpt_neo": 6}


def with_dropout(host: Host, rate: float = 0.2) -> Host:
    for module in host.body.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
    return host


def learned(method: Method, host: Host, tasks: Sequence[Any], optim: Optim = OPTIM, **more: Any) -> Learner:
    learner = Learner(host, method, seed=5, optim=optim, **more)
    for task in tasks:
        learner.learn(task)
    return learner


def importance(learner: Learner) -> dict[str, Tensor]:
    state = learner.state.parts["soft_mask"]
    assert isinstance(state, SoftMaskState)
    return state.importance


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@contextmanager
def scaled(host: Host, site: UnitSite, values: Tensor) -> Iterator[None]:
    """The site's units multiplied, by scaling what the weights around them are: no gate takes part."""
    parameters: list[tuple[nn.Parameter, int]] = []
    weight = site.module.weight
    assert isinstance(weight, nn.Parameter)
    by_feature = values.repeat_interleave((weight.shape[1] if site.side == "input" else weight.shape[0]) // site.count)
    if site.side == "input":
        parameters.append((weight, 1))
    else:
        parameters.append((weight, 0))
        if site.module.bias is not None:
            parameters.append((site.module.bias, 0))  # type: ignore[arg-type]
    before = [parameter.data.clone() for parameter, _ in parameters]
    for parameter, axis in parameters:
        shape = [1] * parameter.dim()
        shape[axis] = -1
        parameter.data = parameter.data * by_feature.view(shape)
    try:
        yield
    finally:
        for (parameter, _), value in zip(parameters, before, strict=True):
            parameter.data = value


@pytest.mark.parametrize("architecture", LAYERS)
def test_open_gates_change_nothing_and_closed_ones_do(architecture: str) -> None:
    host = tiny_host(architecture)
    learner = Learner(host, seq_ft(), optim=OPTIM)
    learner.learn(TASKS[0])
    rows = learner.encode(TASKS[0].examples("train"))[:5]
    sites = unit_sites(host.body)
    assert len(sites) == LAYERS[architecture]
    assert len({site.name for site in sites}) == len(sites)
    with torch.no_grad():
        plain, _ = last_states(host, rows)
        gates = open_gates(sites, len(rows))
        with gated(sites, gates):
            opened, _ = last_states(host, rows)
        assert torch.equal(plain, opened)
        for site in sites:
            values = torch.ones(site.count).index_fill(0, torch.tensor([site.count - 1]), 0.0)
            closed = gates | {site.name: torch.stack([torch.ones(site.count)] * 4 + [values])}
            with gated(sites, closed):
                found, _ = last_states(host, rows)
            assert torch.equal(found[:4], plain[:4]), "each row has gates of its own"
            assert not torch.equal(found[4], plain[4]), site.name
            with scaled(host, site, values):
                expected, _ = last_states(host, rows)
            assert (found[4] - expected[4]).abs().max() < 1e-5, site.name
        again, _ = last_states(host, rows)
    assert torch.equal(again, plain), "no hook is left"


def slopes(learner: Learner, site: UnitSite, row: Encoded) -> Tensor:
    """How the row's loss changes as each unit is scaled, from the gradients of the weights that would be scaled."""
    parameters, axis = [site.module.weight], 1 if site.side == "input" else 0
    if axis == 0 and site.module.bias is not None:
        parameters.append(site.module.bias)
    for parameter in parameters:
        parameter.requires_grad_(True)  # type: ignore[operator]
    logits, labels = learner.predictions([row])
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
    gradients = torch.autograd.grad(loss, parameters)  # type: ignore[arg-type]
    found = []
    for unit in range(site.count):
        total = 0.0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            size = parameter.shape[axis] // site.count
            own = range(unit * size, (unit + 1) * size)
            total += sum(float((gradient * parameter).detach().select(axis, place).sum()) for place in own)  # type: ignore[operator]
        found.append(total)
    for parameter in parameters:
        parameter.requires_grad_(False)  # type: ignore[operator]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_importance_is_the_mean_slope_of_each_rows_loss(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 (but for norms that compute in float32), unit by unit and row by row; the same in any batches."""
    learner = learned(seq_ft(), tiny_host(architecture, torch.float64), TASKS[:1])
    rows = learner.encode(TASKS[0].examples("train"))[:4]
    sites = unit_sites(learner.host.body)
    monkeypatch.setattr(part, "ROWS_AT_ONCE", 3)
    found = measured(learner, sites, rows, task_losses)
    monkeypatch.setattr(part, "ROWS_AT_ONCE", 1)
    alone = measured(learner, sites, rows, task_losses)
    canceled = 0
    for site in sites:
        by_row = torch.stack([slopes(learner, site, row) for row in rows])
        expected = by_row.abs().mean(0)
        largest = float(expected.max())
        assert (found[site.name] - expected).abs().max() < 1e-4 * largest, site.name
        assert (found[site.name] - alone[site.name]).abs().max() < 1e-4 * largest, site.name
        canceled += int((by_row.mean(0).abs() < 0.9 * expected).sum())
    assert canceled > 0, "somewhere signed slopes would have canceled"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_general_importance_needs_dropout(architecture: str) -> None:
    """Exactly 0 without it, in every unit and with a warning; above it with it, and the same by the same seed."""

    def general(host: Host) -> tuple[dict[str, Tensor], list[str]]:
        warnings: list[str] = []

        def watch(event: Event) -> None:
            if isinstance(event, Warned):
                warnings.append(event.text)

        learner = Learner(host, soft_mask(seq_ft()), seed=5, optim=OPTIM, on_event=watch)
        before = state_of(learner)
        SoftMask().prepare(learner, TASKS[:1])
        assert same(before, state_of(learner))
        assert not host.model.training
        return importance(learner), warnings

    found, warnings = general(tiny_host(architecture))
    assert all(torch.equal(values, torch.zeros_like(values)) for values in found.values())
    assert any("it has no dropout" in warning for warning in warnings)
    if architecture == "llama":
        return  # its layers have none but that of attention weights
    found, warnings = general(with_dropout(tiny_host(architecture)))
    assert not any("dropout" in warning for warning in warnings)
    assert all(values.min() >= 0 and values.max() <= 1 for values in found.values())
    assert sum(bool(values.any()) for values in found.values()) == len(found)
    assert same(found, general(with_dropout(tiny_host(architecture)))[0])


def test_the_proxy_is_the_divergence_of_two_passes_and_positive_with_dropout() -> None:
    learner = Learner(with_dropout(tiny_host("roberta")), seq_ft(), optim=OPTIM)
    rows = learner.encode(TASKS[0].examples("train"))[:4]
    assert proxy_losses(learner, rows).tolist() == [0.0] * 4, "in evaluation mode"
    learner.host.model.train()
    assert min(proxy_losses(learner, rows).tolist()) > 0


def test_importances_are_joined_by_their_maximum() -> None:
    host = with_dropout(tiny_host("roberta"))
    learner = Learner(host, soft_mask(seq_ft()), seed=5, optim=OPTIM)
    expected: dict[str, Tensor] = {}
    for number, task in enumerate(TASKS):
        if number == 0:
            SoftMask().prepare(learner, [task])
            expected = dict(importance(learner))
            learner.state.parts.clear()
        learner.learn(task)
        new = measured(learner, unit_sites(host.body), learner.encode(task.examples("train")), task_losses)
        expected = {name: torch.maximum(expected[name], normalized_importance(raw)) for name, raw in new.items()}
        for name, values in importance(learner).items():
            assert (values - expected[name]).abs().max() < 1e-5


@dataclass(frozen=True)
class Gradients(GradientRule):
    """Every gradient at its place among the rules, of the newest step."""

    name: str = "first"
    found: dict[str, Tensor] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.name

    def apply(self, learner: LearnerView) -> None:
        self.found.update({n: p.grad.clone() for n, p in learner.host.body.named_parameters() if p.grad is not None})


def expected_share(host: Host, architecture: str, values: dict[str, Tensor], name: str, like: Tensor) -> Tensor | None:
    """1 - I of the unit that a parameter's slice belongs to, by its name; None where nothing is masked."""
    attention = {"t5": r"(.*Attention)\.([qkv])\.", "llama": r"(.*self_attn)\.([qkv])_proj\.",
                 "roberta": r"(.*attention)\.self\.(query|key|value)\."}[architecture]  # fmt: skip
    ending = {"t5": "o", "llama": "o_proj", "roberta": "output.dense"}[architecture]
    if found := re.match(attention, name):
        units = values[f"{found[1]}.{ending}"]
        if like.shape[0] < 16:  # one key and one value for both of Llama's heads
            units = units.max().view(1)
        by_feature = units.repeat_interleave(like.shape[0] // len(units))
    else:
        last = {"t5": r"(.*DenseReluDense)\.(wi_0|wi_1|wo)\.", "llama": r"(.*mlp)\.(gate_proj|up_proj|down_proj)\.",
                "roberta": r"(.*layer\.\d+)\.(intermediate\.dense|output\.dense)\."}[architecture]  # fmt: skip
        out = {"t5": "wo", "llama": "down_proj", "roberta": "output.dense"}[architecture]
        found = re.match(last, name)
        if not found or "attention" in name.lower():
            return None
        by_feature = values[f"{found[1]}.{out}" + ("" if found[2] == out else ".intermediate")]
    return (1 - by_feature).view(-1, *[1] * (like.dim() - 1)).expand_as(like)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_scaled_unit_by_unit(architecture: str) -> None:
    first, second = Gradients("first"), Gradients("second")
    method = seq_ft().with_gradient_rule(first).with_gradient_rule(SoftMask()).with_gradient_rule(second)
    host = tiny_host(architecture)
    learner = learned(method, host, TASKS[:1])
    values = {name: tensor.clone() for name, tensor in importance(learner).items()}
    assert all(bool(tensor.any()) for tensor in values.values())
    learner.learn(TASKS[1])
    masked = 0
    for name, gradient in first.found.items():
        share = expected_share(host, architecture, values, name, gradient)
        if share is None:
            assert torch.equal(second.found[name], gradient), name
        else:
            masked += 1
            assert torch.allclose(second.found[name], gradient * share, rtol=1e-6, atol=0), name
    biases = 2 if architecture == "roberta" else 1
    per_layer = {"t5": (2 * 3 + 2 * 6) + 4 * 3, "llama": 2 * 6, "roberta": 2 * 5}[architecture]
    assert masked == per_layer * biases


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("mask", "decay"), [("gradient", 0.0), ("update", 0.0), ("update", 0.1), ("gradient", 0.1)])
def test_what_matters_wholly_does_not_move(architecture: str, mask: Any, decay: float) -> None:
    """Bit for bit, under AdamW; with weight decay only where the update is masked."""
    optim = OPTIM.model_copy(update={"weight_decay": decay, "epochs": 2})
    host = tiny_host(architecture)
    learner = learned(soft_mask(seq_ft(), mask=mask), host, TASKS[:1], optim)
    for values in importance(learner).values():
        values.fill_(0.25)
        values[: len(values) // 2] = 1.0
    values = {name: tensor.clone() for name, tensor in importance(learner).items()}
    before = {name: parameter.detach().clone() for name, parameter in host.body.named_parameters()}
    learner.learn(TASKS[1])
    fixed = 0
    for name, parameter in host.body.named_parameters():
        share = expected_share(host, architecture, values, name, parameter)
        if share is None:
            continue
        still = share == 0
        fixed += int(still.sum())
        if mask == "gradient" and decay:
            assert not torch.equal(parameter[still], before[name][still]) or not before[name][still].any()
        else:
            assert torch.equal(parameter[still], before[name][still]), name
        if bool((~still).any()):
            assert not torch.equal(parameter[~still], before[name][~still]), name
    assert fixed > 100


def test_masking_the_update_leaves_its_share() -> None:
    """One step: where I = 1/4, three quarters of what AdamW does; AdamW undoes a factor on the gradient."""
    optim = OPTIM.model_copy(update={"batch_size": 12, "max_grad_norm": None})
    moved = {}
    for kind in ("gradient", "update", "none"):
        method = seq_ft() if kind == "none" else soft_mask(seq_ft(), mask=kind)  # type: ignore[arg-type]
        host = tiny_host("roberta", torch.float64)
        learner = learned(soft_mask(seq_ft()) if kind == "none" else method, host, TASKS[:1], optim)
        for values in importance(learner).values():
            values.fill_(0.0 if kind == "none" else 0.25)
        name = "encoder.layer.0.attention.self.query.weight"
        parameter = dict(host.body.named_parameters())[name]
        before = parameter.detach().clone()
        learner.learn(TASKS[1])
        moved[kind] = parameter.detach() - before
    whole = moved["none"]
    assert (moved["update"] - 0.75 * whole).abs().max() < 1e-9
    assert (moved["gradient"] - whole).norm() < 0.02 * whole.norm()


def test_nothing_important_is_the_base_bit_for_bit() -> None:
    """A first task without dropout: no general importance, and without its weight no contrast."""
    base = state_of(learned(seq_ft(), tiny_host("roberta"), TASKS[:1]))
    for mask in ("gradient", "update"):
        found = learned(das(mask=mask, contrast=0.0), tiny_host("roberta"), TASKS[:1])  # type: ignore[arg-type]
        assert same(base, state_of(found))
    assert not same(base, state_of(learned(das(), tiny_host("roberta"), TASKS[:1])))


@dataclass(frozen=True)
class Against(BatchTerm):
    """The contrast from three passes of their own, the last one with weights that are really scaled."""

    strength: float = 0.0
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        state = learner.state.parts["soft_mask"]  # type: ignore[attr-defined]
        if learner.task_number == 2:
            with torch.no_grad():
                known = []
                for row in batch.rows:
                    pooled = [self.alone(learner, row)]
                    sites = unit_sites(learner.host.body)
                    with self.all_scaled(learner.host, sites, state.importance):
                        pooled.append(self.alone(learner, row))
                    known.append(torch.stack(pooled))
                full, masked = torch.stack(known).unbind(1)
                expected = float(contrast(full, full, masked, 0.05)) * batch.num_target_tokens
                found = float(KnowledgeContrast().value(learner, batch))
            self.pairs.append((found, expected))
        return batch.logits.sum() * 0

    def alone(self, learner: LearnerView, row: Encoded) -> Tensor:
        states, counted = last_states(learner.host, [row])
        return states[0][counted[0]].mean(0)

    @contextmanager
    def all_scaled(self, host: Host, sites: Sequence[UnitSite], values: dict[str, Tensor]) -> Iterator[None]:
        from contextlib import ExitStack

        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(scaled(host, site, values[site.name]))
            yield


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_contrast_of_a_step_against_passes_of_single_rows(architecture: str) -> None:
    against = Against()
    host = tiny_host(architecture, torch.float64)
    learned(das().with_batch_term(against), host, TASKS[:2])
    assert len(against.pairs) >= 3
    for found, expected in against.pairs:
        assert found == pytest.approx(expected, rel=1e-9)
        assert found > 1e-3


def test_texts_are_read_whole_for_states_and_hidden_for_their_loss() -> None:
    host = with_dropout(text_host())
    learner = learned(
        das(), host, [text_task(rows=8), text_task("other", rows=8)], Optim(batch_size=4, max_source_length=16)
    )
    rows = learner.encode(text_task(rows=8).examples("train"))
    hidden = next(row for row in rows if row.text is not None and row.source != row.text.ids)
    seen: list[Tensor] = []
    handle = host.body.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    last_states(host, [hidden])
    handle.remove()
    assert hidden.text is not None
    assert seen[0][0].tolist() == list(hidden.text.ids)
    sizes = [row.num_target_tokens for row in rows]
    by_row = task_losses(learner, rows)
    for row, size, loss in zip(rows, sizes, by_row.tolist(), strict=True):
        assert loss == pytest.approx(float(learner.loss_sum([row])) / size, rel=1e-4)


def test_a_learner_that_was_saved_goes_on_with_the_same_importances(tmp_path: Path) -> None:
    learner = learned(das(), with_dropout(tiny_host("t5")), TASKS[:2])
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", with_dropout(tiny_host("t5")))
    for each in (learner, loaded):
        each.learn(TASKS[2])
    assert same(state_of(learner), state_of(loaded))
    assert same(importance(learner), importance(loaded))


def test_it_stores_no_rows_and_needs_no_task_at_test() -> None:
    assert das().traits["rehearsal-free"]
    assert das().traits["task boundaries in training"]
    assert not das().traits["task identity at test"]
    assert not das().traits["grows with tasks"]


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: soft_mask(seq_lora()), RecipeError, "it masks the host's own weights, unit by unit"),
    (lambda: soft_mask(independent()), RecipeError, "soft_mask has nothing to spare in independent"),
    (lambda: das(importance_rows=0), RecipeError, "importance_rows: 0 is not a positive number"),
    (lambda: das(contrast=-1.0), RecipeError, "cannot be negative"),
    (lambda: das(temperature=0.0), RecipeError, r"temperature: 0\.0 is not positive"),
    (lambda: learned(das(), tiny_host("gpt2"), TASKS[:1]), ModelError, "computes query, key, value together"),
    (lambda: learned(das(), tiny_host("gpt_neox"), TASKS[:1]), ModelError, "computes query, key, value together"),
]


@pytest.mark.parametrize(("do", "error", "says"), REFUSED)
def test_what_makes_no_sense_is_refused(do: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        do()
