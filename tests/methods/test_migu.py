"""MIGU as a part: what it measures, what it leaves alone, and that nothing of it stays behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.contract import VARIANTS
from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.errors import ModelError, NacreError, RecipeError, TrainingError
from nacre.events import Event, StepTaken, TrainingPrepared
from nacre.features.magnitudes import Magnitudes
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.roles import ROLES
from nacre.parts.magnitude_mask import MagnitudeMask
from nacre.parts.part import GradientRule
from nacre.registry import METHODS, build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1)
BASES = ("seq_ft", "seq_lora", "inc_lora")
ROWS = [Encoded((5, 6, 7, 8, 9, 1), (9, 12, 1), False), Encoded((10, 11, 1), (10, 1), False)]


@dataclass(frozen=True)
class Watch(GradientRule):
    """Sees every step's gradients as the optimizer does, masked and clipped."""

    see: Callable[[Learner], None]

    def after_step(self, learner: Learner) -> None:  # type: ignore[override]
        self.see(learner)


def learner_of(method: str, architecture: str = "t5", optim: Optim = OPTIM, seed: int = 7, **migu: object) -> Learner:
    parameters = {"migu": migu} if "+migu" in method else {}
    return Learner(tiny_host(architecture), build_method(method, parameters), seed=seed, optim=optim)


def learnt(learner: Learner, tasks: int = 2) -> dict[str, Tensor]:
    for number in range(tasks):
        learner.learn(tiny_task(f"task {number}"))
    return {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def masks_of(learner: Learner) -> list[dict[str, Tensor]]:
    """Filled with the masks of every step that is taken from now on."""
    masks: list[dict[str, Tensor]] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken) and "magnitude_mask" in learner.resources:
            masks.append(dict(learner.resources["magnitude_mask"].step.masks))

    learner.on_event = watch
    return masks


# Neutral settings


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("base", BASES)
def test_threshold_zero_is_the_base_method(base: str, architecture: str) -> None:
    masked = learner_of(f"{base}+migu", architecture, threshold=0.0, first_task=True)
    assert same(learnt(masked), learnt(learner_of(base, architecture)))


@pytest.mark.parametrize("base", BASES)
def test_the_first_task_is_masked_only_if_asked_for(base: str) -> None:
    plain = learnt(learner_of(base), tasks=1)
    assert same(learnt(learner_of(f"{base}+migu"), tasks=1), plain)
    assert not same(learnt(learner_of(f"{base}+migu", first_task=True), tasks=1), plain)
    assert not same(learnt(learner_of(f"{base}+migu")), learnt(learner_of(base)))


def test_a_threshold_for_each_task() -> None:
    """None on the second, 0.5 on the third."""
    listed = learner_of("inc_lora+migu", threshold=(0.9, 0.0, 0.5))
    assert same(learnt(listed), learnt(learner_of("inc_lora")))
    masks = masks_of(listed)
    listed.learn(tiny_task("third"))
    assert all(int(mask.sum()) == len(mask) - len(mask) // 2 for mask in masks[0].values())
    with pytest.raises(RecipeError, match="threshold lists 3 value"):
        listed.learn(tiny_task("fourth"))


# The two modes


@pytest.mark.parametrize("base", BASES)
def test_masked_features_keep_their_bits_in_update_mode_only(base: str) -> None:
    """With momentum and weight decay: in every step, every masked slice, and no slice that is kept."""
    optim = OPTIM.model_copy(update={"weight_decay": 0.1, "epochs": 2})
    finals = {}
    for mode in ("update", "gradient"):
        learner = learner_of(f"{base}+migu", optim=optim, mask=mode)
        learner.learn(tiny_task("task 0"))
        before: dict[int, Tensor] = {}
        masked_moved, kept_still, steps = 0, 0, 0

        def watch(event: Event, learner: Learner = learner, before: dict[int, Tensor] = before) -> None:
            nonlocal masked_moved, kept_still, steps
            maps = learner.adapter.feature_maps()
            if isinstance(event, StepTaken):
                masks = learner.resources["magnitude_mask"].step.masks
                assert masks.keys() == {found.name for found in maps}
                steps += 1
                for found in maps:
                    for parameter, axis in found.parameters:
                        same_bits = parameter.detach() == before[id(parameter)]
                        still = same_bits.movedim(axis, 0).flatten(1).all(1) if same_bits.dim() > 1 else same_bits
                        masked_moved += int((~still & ~masks[found.name]).sum())
                        # A's gradient is zero in the first step, as B is.
                        kept_still += int((still & masks[found.name]).sum()) if steps > 1 else 0
            if isinstance(event, TrainingPrepared | StepTaken):
                before.update({id(p): p.detach().clone() for found in maps for p, _ in found.parameters})

        learner.on_event = watch
        learner.learn(tiny_task("task 1"))
        assert steps == 6
        assert kept_still == 0
        assert masked_moved == 0 if mode == "update" else masked_moved > 0
        finals[mode] = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    assert not same(finals["update"], finals["gradient"])


def test_what_is_not_attention_or_feed_forward_is_never_masked() -> None:
    """Embeddings (tied to the head) and norms get the gradient that they would have without masks."""
    found: dict[str, dict[str, Tensor]] = {}
    for method in ("seq_ft", "seq_ft+migu"):

        def see(learner: Learner, method: str = method) -> None:
            found[method] = {n: p.grad.clone() for n, p in learner.host.model.named_parameters()}

        parameters = {"migu": {"first_task": True}} if "+" in method else {}
        watched = build_method(method, parameters).with_gradient_rule(Watch(see))
        Learner(tiny_host("t5"), watched, optim=Optim(batch_size=99, max_grad_norm=None)).learn(tiny_task())
    masked_names = {f"{one.name}.weight" for one in learner_of("seq_ft").adapter.feature_maps()}
    for name, gradient in found["seq_ft"].items():
        masked = found["seq_ft+migu"][name]
        assert torch.equal(gradient, masked) == (name not in masked_names), name
        assert ((masked == 0) | (masked == gradient)).all()
    assert sorted(name for name in found["seq_ft"] if name not in masked_names and "norm" not in name) == [
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "lm_head.weight" if "lm_head.weight" in found["seq_ft"] else "shared.weight",
        *(["shared.weight"] if "lm_head.weight" in found["seq_ft"] else []),
    ]


# What is measured


def magnitudes_of(host: Host, batches: list[list[Encoded]], tokens: str = "non_padding", **options: object) -> Tensor:
    """The sums of all feature maps of full fine-tuning, one after the other."""
    learner = Learner(host, build_method("seq_ft"), optim=OPTIM)
    learner.adapter.grow()
    engine = Magnitudes(host.body, learner.adapter.feature_maps(), tokens, **options)  # type: ignore[arg-type]
    for rows in batches:
        host.family.loss_sum(host.model, host.family.batch(rows)).backward()
    engine.close()
    return torch.cat(engine.take())


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "gpt2", "gpt_neox"])
def test_padding_does_not_count(architecture: str) -> None:
    """Two rows of unlike lengths, in one batch and each alone: source and target are padded."""
    apart = magnitudes_of(tiny_host(architecture, torch.float64), [[row] for row in ROWS])
    together = magnitudes_of(tiny_host(architecture, torch.float64), [ROWS])
    assert (together - apart).abs().max() <= 1e-10 * apart.abs().max()
    assert (apart > 0).all()
    everything = magnitudes_of(tiny_host(architecture, torch.float64), [ROWS], "all")
    # All but those of Llama's first layer, where the padding token's embedding is zero.
    assert (everything > together * (1 + 1e-6)).float().mean() > 0.8
    alone = magnitudes_of(tiny_host(architecture, torch.float64), [[row] for row in ROWS], "all")
    assert (alone - apart).abs().max() <= 1e-10 * apart.abs().max(), "there is no padding in a batch of one"


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_every_way_to_tell_the_decoders_padding_gives_the_same(architecture: str) -> None:
    found = []
    for way in ("ids", "labels", "mask", "positions"):
        host = tiny_host(architecture, torch.float64)
        learner = Learner(host, build_method("seq_ft"), optim=OPTIM)
        learner.adapter.grow()
        engine = Magnitudes(host.model, learner.adapter.feature_maps())
        batch = dict(host.family.batch(ROWS))
        labels = batch.pop("labels")
        if way == "labels":
            del batch["decoder_input_ids"]
            host.model(**batch, labels=labels)
        elif way == "mask":
            host.model(**batch, decoder_attention_mask=(labels != IGNORED).long())
        elif way == "positions":
            host.model(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"])
        else:
            host.model(**batch)
        found.append(torch.cat(engine.take()))
    for other in found[1:]:
        assert (other - found[0]).abs().max() <= 1e-10 * found[0].max()


def test_a_batch_that_hides_the_decoders_padding_is_refused() -> None:
    host = tiny_host("t5")
    learner = Learner(host, build_method("seq_ft"))
    learner.adapter.grow()
    maps = learner.adapter.feature_maps()
    batch = host.family.batch(ROWS)
    embedded = host.model.get_input_embeddings()(batch["decoder_input_ids"])
    engine = Magnitudes(host.model, maps)
    with pytest.raises(TrainingError, match=r"decoder's tokens are padding is unknown.*tokens=all"):
        host.model(input_ids=batch["input_ids"], decoder_inputs_embeds=embedded)
    with pytest.raises(TrainingError, match=r"attention_mask is not a \[batch, tokens\] mask"):
        host.model(
            input_ids=batch["input_ids"],
            attention_mask=torch.ones(2, 1, 6, 6),
            decoder_input_ids=batch["decoder_input_ids"],
        )
    assert not engine.open, "after an error, nothing counts that does not belong to a call of the model"


def test_outputs_of_another_shape_than_the_tokens_are_refused() -> None:
    host = tiny_host("llama")
    maps = Learner(host, build_method("seq_ft")).adapter.feature_maps()
    Magnitudes(host.model, maps)
    with pytest.raises(TrainingError, match=r"q_proj gave outputs of shape \[1, 3, 16\] for \[1, 5\] tokens"):
        host.model(input_ids=torch.tensor([[3, 5, 6]]), attention_mask=torch.ones(1, 5))


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_does_not_count_twice(architecture: str, reentrant: bool) -> None:
    plain = magnitudes_of(tiny_host(architecture, torch.float64), [ROWS, ROWS[:1]])
    host = tiny_host(architecture, torch.float64)
    host.model.train()
    for module in host.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    host.model.activation_checkpointing_enable({"use_reentrant": reentrant})
    host.model.enable_input_require_grads()
    calls = []
    linear = next(module for module in host.model.modules() if isinstance(module, nn.Linear))
    linear.register_forward_hook(lambda *_: calls.append(1))
    assert (magnitudes_of(host, [ROWS, ROWS[:1]]) - plain).abs().max() <= 1e-10 * plain.max()
    assert len(calls) == 4, "two batches, and each one's second computation"


def test_passes_that_belong_to_no_step_do_not_count() -> None:
    host = tiny_host("t5", torch.float64)
    learner = Learner(host, build_method("seq_ft"))
    learner.adapter.grow()
    engine = Magnitudes(host.model, learner.adapter.feature_maps())
    with torch.no_grad():
        learner.loss_sum(ROWS)
    assert not engine.any
    host.model.get_encoder()(input_ids=torch.tensor([[5, 6, 1]]))
    assert not engine.any
    assert sum(total.sum() for total in engine.take()) == 0
    learner.loss_sum(ROWS)
    assert engine.any


def test_a_map_that_is_called_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4, dtype=torch.float64)
            self.config = tiny_host("llama").model.config

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.linear(x)[..., :3])

    from nacre.adapters.adapter import FeatureMap

    model, x = Twice(), torch.randn(2, 5, 3, dtype=torch.float64)
    found = FeatureMap("linear", "linear", (), model.linear, ((model.linear.weight, 0),))
    engine = Magnitudes(model, [found])
    model(x)
    first = model.linear(x)
    expected = (first.abs() + model.linear(first[..., :3]).abs()).sum((0, 1))
    assert torch.allclose(engine.take()[0], expected, rtol=1e-12)
    model(x)
    assert torch.allclose(engine.take_means()[0], expected / 20, rtol=1e-12)


def test_gated_loras_are_measured_though_their_a_is_not_called() -> None:
    """AM-LoRA multiplies all tasks' A at once; A x of the newest counts all the same."""
    host = tiny_host("llama", torch.float64)
    learner = Learner(host, build_method("am_lora", {"rank": 3}), optim=OPTIM)
    for task in ("one", "two"):
        learner.learn(tiny_task(task))
    learner.adapter.grow()
    learner.adapter.fresh(1)
    perturb(host.model)
    engine = Magnitudes(host.model, learner.adapter.feature_maps())
    expected: dict[str, Tensor] = {}

    def watch(name: str):  # type: ignore[no-untyped-def]
        def hook(site, args, output):  # type: ignore[no-untyped-def]
            expected[f"{name}.down"] = (args[0] @ site.slots.down.weight.T).abs().sum((0, 1)).detach()
            expected[name] = output.abs().sum((0, 1)).detach()

        return hook

    for name, site in learner.adapter.sites.items():
        site.register_forward_hook(watch(name))
    learner.loss_sum(ROWS[:1])
    for found, total in zip(engine.maps, engine.take(), strict=True):
        assert torch.allclose(total, expected[found.name], rtol=1e-12), found.name


@pytest.mark.parametrize("base", BASES)
def test_accumulation_does_not_change_the_masks(base: str) -> None:
    """Neither does which rows share a micro-batch, and so their padding."""
    found = []
    for accumulation in (1, 3):
        optim = Optim(batch_size=6, accumulation=accumulation, learning_rate=1e-2, log_every=1)
        parameters = {} if base == "seq_ft" else {"dropout": 0.0}
        method = build_method(f"{base}+migu", {**parameters, "migu": {"first_task": True}})
        learner = Learner(tiny_host("t5", torch.float64), method, seed=1, optim=optim)
        masks = masks_of(learner)
        learner.learn(tiny_task())
        found.append(masks)
    assert len(found[0]) == len(found[1]) == 2
    for one, other in zip(*found, strict=True):
        assert same(one, other)


def masks_of_uneven_steps(base: str) -> list[dict[str, Tensor]]:
    """Eight rows in steps of six and two: in the last, one of three processes has no row of its own."""
    own = {} if base == "seq_ft" else {"dropout": 0.0}
    migu = {"first_task": True, "clusters": 0 if base == "seq_ft" else 3}
    optim = Optim(batch_size=6, accumulation=2, epochs=2, learning_rate=1e-3, log_every=1)
    method = build_method(f"{base}+migu", {**own, "migu": migu})
    learner = Learner(tiny_host("t5", torch.float64), method, seed=2, optim=optim)
    masks = masks_of(learner)
    learner.learn(tiny_task(rows=8))
    return masks


WORKER = """
import os, sys, torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[1].split(os.pathsep)
from test_migu import masks_of_uneven_steps
from accelerate import PartialState
found = {base: masks_of_uneven_steps(base) for base in ("seq_ft", "inc_lora")}
assert PartialState().num_processes == 3
torch.save(found, f"{sys.argv[2]}-{PartialState().process_index}.pt")
"""


@pytest.mark.long
def test_three_processes_make_the_masks_of_one(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = ["-m", "torch.distributed.run", "--nproc-per-node", "3", "--master-port", str(port)]
    done = subprocess.run(
        [sys.executable, *group, str(script), os.pathsep.join(sys.path), str(tmp_path / "masks")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for base in ("seq_ft", "inc_lora"):
        alone = masks_of_uneven_steps(base)
        assert len(alone) == 4
        for process in (0, 1, 2):
            for one, other in zip(alone, torch.load(tmp_path / f"masks-{process}.pt")[base], strict=True):
                assert same(one, other)


# Which maps


@pytest.mark.parametrize(
    ("components", "endings"),
    [
        (("ffn_in", "ffn_gate"), {"wi_0", "wi_1"}),
        (("ffn_in", "ffn_gate", "ffn_out"), {"wi_0", "wi_1", "wo"}),
        (("query",), {"q"}),
        (("key",), {"k"}),
        (("value",), {"v"}),
        (("output",), {"o"}),
        (("query", "key", "value", "output"), {"q", "k", "v", "o"}),
        (ROLES, {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}),
    ],
)
def test_the_components_of_table_5(components: tuple[str, ...], endings: set[str]) -> None:
    learner = learner_of("seq_ft+migu", first_task=True, components=list(components))
    masks = masks_of(learner)
    learner.learn(tiny_task())
    assert {name.rsplit(".", 1)[-1] for name in masks[0]} == endings


def test_features_of_gpt2_lie_along_the_second_axis() -> None:
    """Its Conv1D stores weights as [d_in, d_out]; biases go with their features."""
    seen = []

    def see(learner: Learner) -> None:
        for name, mask in learner.resources["magnitude_mask"].step.masks.items():
            linear = learner.host.model.get_submodule(name)
            assert linear.weight.shape[1] == len(mask)
            assert (linear.weight.grad[:, ~mask] == 0).all()
            assert (linear.bias.grad[~mask] == 0).all()
            assert linear.weight.grad[:, mask].abs().sum() > 0
            seen.append(name.rsplit(".", 1)[-1])

    method = build_method("seq_ft+migu", {"migu": {"first_task": True}}).with_gradient_rule(Watch(see))
    Learner(tiny_host("gpt2"), method, optim=OPTIM).learn(tiny_task())
    assert set(seen) == {"c_attn", "c_proj", "c_fc"}


def test_the_feature_maps_of_a_low_rank_adapter() -> None:
    learner = learner_of("inc_lora", "llama")
    assert learner.adapter.feature_maps() == []
    learner.adapter.grow()
    maps = {found.name: found for found in learner.adapter.feature_maps()}
    for name, site in learner.adapter.sites.items():
        assert maps[f"{name}.down"].parameters == ((site.slots.down.weight, 0),)
        assert maps[f"{name}.down"].features == 8
        assert maps[name].parameters == ((site.slots.up.weight, 0),)
        assert maps[name].roles == (("query",) if name.endswith("q_proj") else ("value",))
    assert len(maps) == 2 * len(learner.adapter.sites)


def test_components_without_a_map_are_named() -> None:
    learner = learner_of("seq_lora+migu", first_task=True, components=["ffn_in"])
    with pytest.raises(RecipeError, match="no trained linear map is ffn_in; here are query, value"):
        learner.learn(tiny_task())


def test_an_unknown_architecture_cannot_be_masked_as_a_whole_but_its_named_maps_can() -> None:
    host = tiny_host("llama")
    host.model.config.model_type = "never-heard-of"
    learner = Learner(host, build_method("seq_ft+migu", {"migu": {"first_task": True}}), optim=OPTIM)
    with pytest.raises(ModelError, match="'never-heard-of' are attention and feed-forward is not known"):
        learner.learn(tiny_task())
    learner.remove()
    named = {"modules": ["q_proj"], "migu": {"first_task": True}}
    learner = Learner(host, build_method("seq_lora+migu", named), optim=OPTIM)
    masks = masks_of(learner)
    learner.learn(tiny_task())
    assert len(masks[0]) == 4


def test_an_unknown_encoder_decoder_counts_all_tokens_or_none() -> None:
    for tokens in ("non_padding", "all"):
        host = tiny_host("t5")
        host.model.config.model_type = "never-heard-of"
        named = {"modules": ["SelfAttention.q"], "migu": {"first_task": True, "tokens": tokens}}
        learner = Learner(host, build_method("seq_lora+migu", named), optim=OPTIM)
        if tokens == "all":
            learner.learn(tiny_task())
            return
        with pytest.raises(ModelError, match="padding cannot be left out: count all tokens"):
            learner.learn(tiny_task())
        assert hooks(host.model) == 0


# Clusters and controls


@pytest.mark.parametrize("by", ["weight", "magnitude"])
@pytest.mark.parametrize("base", ["seq_ft", "inc_lora"])
def test_whole_clusters_are_kept(base: str, by: str) -> None:
    pytest.importorskip("sklearn")
    learner = learner_of(f"{base}+migu", clusters=4, cluster_by=by, threshold=0.5)
    masks = masks_of(learner)
    learnt(learner)
    groups = learner.state.parts["magnitude_mask"].groups
    assert masks
    assert groups.keys() == masks[0].keys()
    for step in masks:
        for name, mask in step.items():
            assert len(groups[name].unique()) == 4
            kept = {int(group) for group in groups[name][mask]}
            assert int(mask.sum()) >= len(mask) - len(mask) // 2
            assert all((int(group) in kept) == bool(here) for group, here in zip(groups[name], mask, strict=True))
    assert any(not same(masks[0], later) for later in masks[1:])


def test_clusters_hold_features_that_are_alike() -> None:
    """Three kinds of rows, far apart: k-means finds them; and so it does with magnitudes."""
    pytest.importorskip("sklearn")
    from nacre.features.clusters import feature_clusters

    kinds = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0])
    points = 10 * torch.eye(3, 5)[kinds] + 0.1 * torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    found = feature_clusters(points, 3, seed=2**40)
    for left in range(8):
        for right in range(8):
            assert (found[left] == found[right]) == (kinds[left] == kinds[right])
    assert len(feature_clusters(points[:2], 3, seed=1).unique()) == 2, "not more clusters than features"


def test_profiles_are_mean_magnitudes_by_row() -> None:
    from nacre.features.clusters import effective_rows
    from nacre.parts.magnitude_mask import magnitude_profiles

    learner = Learner(tiny_host("t5", torch.float64), build_method("inc_lora", {"rank": 3}), optim=OPTIM)
    learner.learn(tiny_task("one"))
    learner.learn(tiny_task("two"))
    maps = learner.adapter.feature_maps()
    examples = tiny_task("three").examples("train")[:3]
    profiles = magnitude_profiles(learner, maps, examples, "non_padding")
    assert hooks(learner.host.model) == 0
    for number, row in enumerate(learner.encode(examples)):
        seen: dict[str, Tensor] = {}
        handles = [
            found.module.register_forward_hook(
                lambda _, args, output, name=found.name, seen=seen: seen.update(
                    {name: output.abs().mean((0, 1)).detach()}
                )
            )
            for found in maps
        ]
        learner.loss_sum([row])
        for handle in handles:
            handle.remove()
        for found, profile in zip(maps, profiles, strict=True):
            assert torch.allclose(profile[:, number], seen[found.name], rtol=1e-10), found.name
    x = torch.randn(4, 16, dtype=torch.float64)
    for found in maps:
        assert torch.allclose(x @ effective_rows(found).T, found.module(x), rtol=1e-10, atol=1e-12)


def test_clusters_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    learner = learner_of("seq_lora+migu", clusters=2, first_task=True)
    with pytest.raises(NacreError, match=r"pip install 'nacre\[clusters\]'"):
        learner.learn(tiny_task())


def test_random_masks_have_the_same_size_and_come_from_the_seed() -> None:
    def masks(seed: int) -> list[dict[str, Tensor]]:
        learner = learner_of("inc_lora+migu", seed=seed, by="random", first_task=True)
        found = masks_of(learner)
        learner.learn(tiny_task())
        return found

    first, again, other = masks(1), masks(1), masks(2)
    assert len(first) == 3
    for step in first:
        for mask in step.values():
            assert int(mask.sum()) == len(mask) - int(0.7 * len(mask))
    assert all(same(one, two) for one, two in zip(first, again, strict=True))
    assert not same(first[0], first[1])
    assert not same(first[0], other[0])
    assert hooks(learner_of("inc_lora+migu", by="random").host.model) == 0


@pytest.mark.parametrize("by", ["weight", "gradient"])
def test_masks_by_weight_and_by_gradient(by: str) -> None:
    """The kept rows have the larger L1 norms: of W + s B A before the step, or of the gradient."""
    optim = Optim(batch_size=12, learning_rate=1e-2, max_grad_norm=None, log_every=1)
    learner = learner_of("inc_lora+migu", optim=optim, by=by)
    norms: dict[str, Tensor] = {}

    def see(plain: Learner) -> None:
        if by == "gradient" and plain.task_number == 2:
            for name, site in plain.adapter.sites.items():
                norms[f"{name}.down"], norms[name] = (
                    m.weight.grad.abs().sum(1) for m in (site.slots.down, site.slots.up)
                )

    method = build_method("inc_lora").with_gradient_rule(Watch(see))
    plain = Learner(tiny_host("t5"), method, seed=7, optim=optim)

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared) and by == "weight":
            for name, site in plain.adapter.sites.items():
                norms[f"{name}.down"] = site.slots.down.weight.abs().sum(1)
                past = torch.einsum("trd,tro->od", site.slots.past_down, site.slots.past_up)
                whole = site.base.weight + 4.0 * (past + site.slots.up.weight @ site.slots.down.weight)
                norms[name] = whole.abs().sum(1)

    plain.learn(tiny_task("one"))
    learner.learn(tiny_task("one"))
    plain.on_event = watch
    masks = masks_of(learner)
    plain.learn(tiny_task("two"))
    learner.learn(tiny_task("two"))
    assert len(masks) == 1
    for name, mask in masks[0].items():
        assert int(mask.sum()) == len(mask) - int(0.7 * len(mask))
        if norms[name].max() > 0:  # A has no gradient before B has moved
            assert norms[name][mask].min() >= norms[name][~mask].max() * (1 - 1e-5), name


# Nothing stays behind


@pytest.mark.parametrize("base", BASES)
def test_no_hook_is_left_after_learning(base: str) -> None:
    learner = learner_of(f"{base}+migu", first_task=True)
    during = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            during.append(hooks(learner.host.model))

    learner.on_event = watch
    learner.learn(tiny_task())
    assert all(number > 10 for number in during)
    assert hooks(learner.host.model) == 0
    assert learner.resources == {}


def test_no_hook_is_left_after_an_error() -> None:
    learner = learner_of("seq_lora+migu", first_task=True)

    def stop(event: Event) -> None:
        if isinstance(event, StepTaken):
            raise KeyboardInterrupt

    learner.on_event = stop
    with pytest.raises(KeyboardInterrupt):
        learner.learn(tiny_task())
    assert hooks(learner.host.model) == 0
    assert learner.resources == {}
    learner.remove()
    assert same(dict(learner.host.model.state_dict()), dict(tiny_host("t5").model.state_dict()))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "bart", "gpt_neox"])
@pytest.mark.parametrize("base", ["seq_ft", "inc_lora"])
def test_it_works_on_other_hosts(base: str, architecture: str) -> None:
    learner = learner_of(f"{base}+migu", architecture, first_task=True, mask="update")
    masks = masks_of(learner)
    learner.learn(tiny_task())
    assert len(masks) == 3
    assert all(0 < int(mask.sum()) < len(mask) for mask in masks[-1].values())


# Wrong settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 1.0}, r"threshold: 1.0 is not in \[0, 1\)"),
        ({"threshold": (0.5, -0.1)}, r"threshold: -0.1 is not in"),
        ({"clusters": -1}, "clusters: -1 is negative"),
        ({"clusters": 3, "by": "random"}, "by=random has none"),
        ({"mask": "frozen"}, "migu: mask"),
        ({"components": ["questions"]}, "migu: components"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(NacreError, match=sentence):
        build_method("seq_lora+migu", {"migu": settings})


def test_rows_of_weights_need_an_update_that_does_not_depend_on_the_input() -> None:
    for settings in ({"by": "weight"}, {"clusters": 4}):
        with pytest.raises(RecipeError, match="here the update depends on the input"):
            build_method("am_lora+migu", {"migu": settings})
    build_method("am_lora+migu", {"migu": {"clusters": 4, "cluster_by": "magnitude"}})


def test_where_every_task_is_the_first_it_must_be_asked_for() -> None:
    for base in ("joint", "independent"):
        with pytest.raises(RecipeError, match=r"every task is the first: set migu\.first_task=true"):
            build_method(f"{base}+migu")
        assert build_method(f"{base}+migu", {"migu": {"first_task": True}}).gradient_rules


def test_it_needs_no_task_boundaries_if_it_masks_from_the_start() -> None:
    assert not MagnitudeMask(first_task=True).needs_boundaries
    assert MagnitudeMask().needs_boundaries
    assert MagnitudeMask(first_task=True, clusters=2).needs_boundaries
    assert MagnitudeMask(first_task=True, threshold=(0.1, 0.2)).needs_boundaries


@pytest.mark.parametrize("name", METHODS.names())
def test_an_adapter_says_whether_it_trains_linear_maps(name: str) -> None:
    """Where none is trained there is nothing to mask, which is said before anything runs."""
    method = build_method(*VARIANTS[name])
    if not method.adapter.groups:
        return
    learner = Learner(tiny_host("t5"), method, optim=OPTIM)
    learner.adapter.grow()
    assert bool(learner.adapter.feature_maps()) == method.adapter.trains_maps
    if not method.adapter.trains_maps:
        with pytest.raises(RecipeError, match="masks features of the linear maps that are trained, and here no"):
            build_method(f"{name}+migu")
