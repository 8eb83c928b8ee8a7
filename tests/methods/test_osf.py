"""OSF: that the large part of each weight stays after real steps, task after task, and PEFT's layer beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.contract import state_of
from helpers.tiny import outputs, tiny_host, tiny_task
from nacre.adapters.route import Route
from nacre.adapters.spectral import PlacedSpectral, Spectral, SpectralSite
from nacre.errors import ModelError, RecipeError
from nacre.events import Event, TrainingPrepared
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.osf import osf
from nacre.methods.seq_lora import seq_lora
from nacre.models.roles import ROLES
from nacre.parts.protected_spectrum import ProtectedSpectrum

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learner_of(architecture: str, dtype: torch.dtype = torch.float64, **settings: Any) -> Learner:
    return Learner(tiny_host(architecture, dtype), osf(**settings), seed=7, optim=OPTIM)


def sites_of(learner: Learner) -> dict[str, SpectralSite]:
    assert isinstance(learner.adapter, PlacedSpectral)
    return learner.adapter.sites


def weights_of(learner: Learner) -> dict[str, Tensor]:
    return {name: site.effective_weight().clone() for name, site in sites_of(learner).items()}


def protected_in_training(learner: Learner) -> dict[str, tuple[Tensor, Tensor]]:
    """Filled when training of a task begins."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            for name, site in sites_of(learner).items():
                assert site.protected is not None
                found[name] = site.protected

    learner.on_event = watch
    return found


def test_what_the_large_triplets_do_stays_through_every_task(architecture: str) -> None:
    """After AdamW's steps U_h^T W V_h^T is S_h, W v = s u of every large triplet, and the small part has moved."""
    learner = learner_of(architecture, share=(0.3, 0.5, 0.7))
    protected = protected_in_training(learner)
    before = weights_of(learner)
    for number, task in enumerate(TASKS):
        learner.learn(task)
        after = weights_of(learner)
        for name, site in sites_of(learner).items():
            left, right = protected[name]
            _, sizes, _ = torch.linalg.svd(before[name], full_matrices=False)
            kept = int((0.3, 0.5, 0.7)[number] * len(sizes))
            assert left.shape[1] == right.shape[0] == kept
            torch.testing.assert_close(after[name] @ right.T, left * sizes[:kept], rtol=0, atol=1e-12)
            torch.testing.assert_close(left.T @ after[name], sizes[:kept, None] * right, rtol=0, atol=1e-12)
            parameters = site.parameters_by_group()
            assert (left.T @ parameters["left"]).abs().max() < 1e-13
            assert (parameters["right"] @ right.T).abs().max() < 1e-13
            assert (after[name] - before[name]).abs().max() > 1e-3
        before = after


def test_projected_gradients_alone_do_not_keep_adam_out() -> None:
    learner = learner_of("t5", project="gradients")
    protected = protected_in_training(learner)
    learner.learn(TASKS[0])
    left_over = [
        (protected[name][0].T @ site.parameters_by_group()["left"]).abs().max()
        for name, site in sites_of(learner).items()
    ]
    assert min(left_over) > 1e-4


def test_the_function_stays_where_a_task_begins(architecture: str) -> None:
    learner = learner_of(architecture)
    rows = learner.encode(TASKS[0].examples("test"))
    batch = learner.host.family.batch(rows) if learner.host.family.is_generative else learner.host.family.prompts(rows)
    bare = outputs(learner.host, batch)
    learner.adapter.grow()
    torch.testing.assert_close(outputs(learner.host, batch), bare, rtol=0, atol=1e-10)
    learner.adapter.freeze()
    torch.testing.assert_close(outputs(learner.host, batch), bare, rtol=0, atol=1e-10)
    before = weights_of(learner)
    learner.adapter.grow()
    for name, weight in weights_of(learner).items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-12)


def test_a_site_computes_as_its_one_weight_does(architecture: str) -> None:
    """In training by factors, afterwards by one matrix, which is out of date as soon as a factor changes."""
    learner = learner_of(architecture)
    learner.learn(TASKS[0])
    site = next(iter(sites_of(learner).values()))
    x = torch.randn(2, 3, site.d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bias = site.base.bias
    for change in (0.0, 0.1):
        with torch.no_grad():
            site.parameters_by_group()["sizes"].add_(change)
        expected = nn.functional.linear(x, site.effective_weight(), bias)  # type: ignore[arg-type]
        torch.testing.assert_close(site.eval()(x), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(site.train()(x), expected, rtol=0, atol=1e-12)
        site.eval()


def test_a_loaded_learner_goes_on_from_the_same_weights(architecture: str, tmp_path: Path) -> None:
    learner = learner_of(architecture, torch.float32, share=(0.3, 0.5, 0.7))
    for task in TASKS[:2]:
        learner.learn(task)
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture))
    assert loaded.answer(TASKS[:2]) == learner.answer(TASKS[:2])
    for each in (learner, loaded):
        each.learn(TASKS[2])
    assert all(torch.equal(tensor, state_of(loaded)[name]) for name, tensor in state_of(learner).items())


def test_what_is_stored_does_not_grow_and_merges_into_the_weights() -> None:
    learner = learner_of("t5")
    sizes = []
    for task in TASKS:
        learner.learn(task)
        sizes.append(learner.stored_parameters())
    assert len(set(sizes)) == 1
    assert not learner.traits["grows with tasks"]
    merged = learner.merged().state_dict()
    assert all(torch.equal(merged[f"{name}.weight"], weight) for name, weight in weights_of(learner).items())


def test_a_half_precision_host_is_changed_by_less_than_its_rounding() -> None:
    """What is learned is kept and computed in full precision, so that small updates answer."""
    learner = learner_of("llama", torch.bfloat16)
    learner.learn(TASKS[0])
    for name, site in sites_of(learner).items():
        assert site.high.dtype == torch.float32, name
        x = torch.randn(2, site.d_in, dtype=torch.bfloat16)
        expected = (x.float() @ site.effective_weight().T).bfloat16()
        assert site(x).dtype == torch.bfloat16
        torch.testing.assert_close(site(x), expected)


def test_conv1d_weights_are_split_the_right_way_round() -> None:
    learner = learner_of("gpt2")
    bare = {name: site.base_weight().clone() for name, site in sites_of(learner).items()}
    learner.adapter.grow()
    for name, weight in weights_of(learner).items():
        torch.testing.assert_close(weight, bare[name], rtol=0, atol=1e-12)
    learner.remove()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        yield torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator)


def test_pefts_layer_gets_the_same_weight_from_the_same_steps() -> None:
    """With projected gradients alone, by AdamW; and with the rule's second half PEFT's leak is gone."""
    peft = pytest.importorskip("peft")
    if not hasattr(peft, "OSFConfig"):
        pytest.skip("this peft has no OSF")
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(6, 5))
    site = SpectralSite(nn.Linear(6, 5), Spectral(share=0.5), lambda: 1)
    site.base.load_state_dict(host[0].state_dict())
    for parameter in site.base.parameters():
        parameter.requires_grad_(False)
    site.grow()
    model = peft.get_peft_model(host, peft.OSFConfig(effective_rank=2, target_modules=["0"]))
    theirs = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mine = list(site.parameters_by_group().values())
    assert sorted(each.shape for each in theirs) == sorted(each.shape for each in mine)
    rule, view = ProtectedSpectrum(project="gradients"), One(site)
    for parameters in (theirs, mine):
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
        for x, y in batches():
            optimizer.zero_grad()
            found = model(x) if parameters is theirs else site.train()(x)
            nn.functional.mse_loss(found, y).backward()
            if parameters is mine:
                rule.apply(view)  # type: ignore[arg-type]
            optimizer.step()
    merged = model.merge_and_unload()[0].weight
    torch.testing.assert_close(site.effective_weight(), merged.detach(), rtol=0, atol=1e-5)
    assert (merged.detach() - site.base_weight()).abs().max() > 1e-2


class One:
    """A learner as far as the rule sees it."""

    def __init__(self, site: SpectralSite) -> None:
        adapter = PlacedSpectral.__new__(PlacedSpectral)
        adapter.sites = {"0": site}
        self.adapter = adapter


def test_what_makes_no_sense_is_refused() -> None:
    for share in (0.0, 1.0):
        with pytest.raises(RecipeError, match="with 0 nothing stays, and with 1 nothing learns"):
            osf(share=share)
    with pytest.raises(RecipeError, match="it protects large singular vectors"):
        seq_lora().with_gradient_rule(ProtectedSpectrum())
    learner = learner_of("t5", share=(0.5,))
    learner.learn(TASKS[0])
    with pytest.raises(RecipeError, match=r"share lists 1 value\(s\), and this is task 2"):
        learner.learn(TASKS[1])
    with pytest.raises(ModelError, match="nothing that a route could choose from"):
        learner_of("t5").adapter.use(Route(torch.ones(1, 1)))
    host = tiny_host("t5")
    host.body.lm_head = nn.Linear(16, 1)
    with pytest.raises(RecipeError, match="lm_head has a single singular value"):
        Spectral(modules=("lm_head",)).place(host.body)
    quantized = tiny_host("t5")
    quantized.body.lm_head.forward = lambda x: x
    with pytest.raises(ModelError, match="lm_head has no weight whose singular values could be taken"):
        Spectral(modules=("lm_head",)).place(quantized.body)


def test_all_maps_of_attention_and_feed_forward_are_split_and_nothing_else_is_trained() -> None:
    learner = learner_of("t5")
    learner.adapter.grow()
    assert osf().adapter == Spectral(share=0.5, roles=ROLES)
    assert [group.name for group in learner.trainable()] == ["left", "sizes", "right"]
    names = {name.rpartition(".")[2] for name in sites_of(learner)}
    assert names == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    method: Method = learner.method
    assert method.traits["rehearsal-free"]
    assert not method.traits["task identity at test"]
