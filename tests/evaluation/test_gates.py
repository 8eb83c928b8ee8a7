"""Mean gates: what the sites compute, averaged over the right tokens, and nothing left behind."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import perturb, tiny_host, tiny_task, write_task, write_tiny_model
from nacre.adapters.gated import PlacedGated
from nacre.errors import NacreError
from nacre.evaluation.gates import SiteGates, has_gates, mean_gates
from nacre.events import ignore
from nacre.files import sha256
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=5)
NAMES = ("animals", "birds")


def learner_of(architecture: str, options: dict[str, object] | None = None, tasks: int = 2) -> Learner:
    """A learner of two tasks in float64, off its start."""
    host = tiny_host(architecture, torch.float64)
    learner = Learner(host, build_method("am_lora", options or {}), optim=OPTIM)
    for name in NAMES[:tasks]:
        learner.learn(tiny_task(name))
    perturb(learner.host.model)
    return learner


def naive(learner: Learner, task: Task) -> dict[str, list[float]]:
    """Shares of (zero, first task, second task) by site: row after row, each LoRA built, each token counted."""
    assert isinstance(learner.adapter, PlacedGated)
    sites = learner.adapter.sites
    rows: dict[str, list[Tensor]] = defaultdict(list)

    def watch(name: str) -> object:
        site = sites[name]

        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for token in inputs[0].reshape(-1, inputs[0].shape[-1]):
                pairs = [(a, b.T) for a, b in zip(site.slots.past_down, site.slots.past_up, strict=True)]
                pairs.append((site.slots.down.weight, site.slots.up.weight))
                outputs = [4.0 * (b @ (a @ token)) for a, b in pairs]  # alpha / rank = 32 / 8
                zero = site.zero_score if site.settings.zero_lora == "learned" else torch.zeros(1)
                scores = torch.stack([w @ y for w, y in zip(site.selector, outputs, strict=True)])
                exponents = torch.exp(torch.cat([zero.to(scores), scores]))
                if not site.settings.zero_lora:
                    exponents[0] = 0
                rows[name].append(exponents / exponents.sum())

        return site.register_forward_pre_hook(note)

    handles = [watch(name) for name in sites]
    with torch.no_grad():
        for row in learner.encode(task.examples("test")):
            learner.loss_sum([row])
    for handle in handles:
        handle.remove()  # type: ignore[attr-defined]
    return {name: torch.stack(found).mean(dim=0).tolist() for name, found in rows.items()}


@pytest.mark.parametrize("options", [{}, {"zero_lora": False}, {"zero_lora": "learned"}], ids=str)
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_mean_gates_are_the_mean_over_every_token(architecture: str, options: dict[str, object]) -> None:
    learner = learner_of(architecture, options)
    for task in (tiny_task("birds"), tiny_task("fish", labels=("yes", "no", "maybe"))):  # the second was not learnt
        found, expected = mean_gates(learner, task), naive(learner, task)
        assert [record.site for record in found] == list(expected)
        for record in found:
            zero, *gates = expected[record.site]
            assert [name for name, _ in record.gates] == list(NAMES)
            assert [share for _, share in record.gates] == pytest.approx(gates, abs=1e-10)
            if options.get("zero_lora", True):
                assert record.zero == pytest.approx(zero, abs=1e-10)
            else:
                assert record.zero is None
    spread = [share for record in found for _, share in record.gates]
    assert max(spread) - min(spread) > 0.05, "all gates alike would show nothing"


def test_which_tokens_count_in_an_encoder_decoder() -> None:
    learner = learner_of("t5", tasks=1)
    rows = learner.encode(tiny_task("birds").examples("test"))
    read, written = (sum(len(ids) for ids in side) for side in ([r.source for r in rows], [r.target for r in rows]))
    assert len({len(row.source) for row in rows}) > 1, "rows of one length would need no padding"
    assert read != written
    for record in mean_gates(learner, tiny_task("birds")):
        from_encoder = record.site.startswith("encoder") or record.site.endswith("EncDecAttention.v")
        assert record.tokens == (read if from_encoder else written)


def test_which_tokens_count_in_a_decoder() -> None:
    learner = learner_of("llama", tasks=1)
    rows = learner.encode(tiny_task("birds").examples("test"))
    assert {record.tokens for record in mean_gates(learner, tiny_task("birds"))} == {sum(row.length() for row in rows)}


def test_where_a_site_lies() -> None:
    records = {record.site: record for record in mean_gates(learner_of("t5", tasks=1), tiny_task())}
    cross = records["decoder.block.1.layer.1.EncDecAttention.v"]
    assert (cross.stack, cross.layer, cross.roles) == ("decoder.block", 1, ("value",))
    (fused,) = {record.roles for record in mean_gates(learner_of("gpt2", tasks=1), tiny_task())}
    assert fused == ("query", "key", "value")
    named = mean_gates(learner_of("llama", {"modules": ["lm_head"]}, tasks=1), tiny_task())
    assert [(record.site, record.stack, record.layer, record.roles) for record in named] == [
        ("lm_head", None, None, ())
    ]


def test_rows_are_taken_at_even_distances() -> None:
    learner, task = learner_of("llama", tasks=1), tiny_task("birds")  # six test rows
    chosen = Task("some", task.train, task.validation, task.test[::2], task.template, task.labels)
    assert mean_gates(learner, task, rows=3) == mean_gates(learner, chosen)
    assert mean_gates(learner, task, rows=99) == mean_gates(learner, task, rows=6) != mean_gates(learner, task, rows=3)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of("t5")
    model, before = learner.host.model, hooks(learner.host.model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    model.train()
    first = mean_gates(learner, tiny_task())  # without dropout, although the model is training
    assert model.training
    assert torch.equal(torch.rand(2), expected)
    model.eval()
    assert mean_gates(learner, tiny_task()) == first
    assert not model.training
    assert hooks(model) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(learner.host.family, "_predictions", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        mean_gates(learner, tiny_task())
    assert hooks(model) == before


def test_there_must_be_gates() -> None:
    fresh = Learner(tiny_host("t5"), build_method("am_lora"), optim=OPTIM)
    plain = Learner(tiny_host("t5"), build_method("inc_lora"), optim=OPTIM)
    plain.learn(tiny_task())
    for learner in (fresh, plain):
        assert not has_gates(learner)
        with pytest.raises(NacreError, match="no gates to look at"):
            mean_gates(learner, tiny_task())


def test_an_encoder_that_knows_none_of_a_tasks_labels() -> None:
    learner = Learner(tiny_host("bert"), build_method("am_lora"), optim=OPTIM)
    learner.learn(tiny_task())
    rows = learner.encode(tiny_task("fish", labels=("maybe",)).examples("test"))
    records = mean_gates(learner, tiny_task("fish", labels=("maybe",)))
    assert {record.tokens for record in records} == {sum(len(row.source) for row in rows)}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("gates")
    for name in NAMES:
        write_task(folder / "data", name, rows=8)
    return Recipe(
        method="am_lora",
        stream=list(NAMES),
        data=str(folder / "data"),
        model=str(write_tiny_model("t5", folder / "model")),
        output=str(folder / "run"),
        optim=OPTIM,
    )


@pytest.fixture(scope="module")
def finished(recipe: Recipe) -> Path:
    run(recipe, ignore)
    return Path(str(recipe.output))


def test_runs_write_them_after_each_stage(finished: Path, recipe: Recipe) -> None:
    assert not (finished / "tasks" / "00-before" / "gates.json").exists()
    for number, name in enumerate(NAMES, start=1):
        folder = finished / "tasks" / f"{number:02d}-{name}"
        document = json.loads((folder / "gates.json").read_text())
        assert list(document["tasks"]) == list(NAMES)
        assert document["rows"] == 8
        assert "gold answer" in document["tokens"]
        listed = json.loads((folder / "manifest.json").read_text())["sha256"]
        assert listed["gates.json"] == sha256(folder / "gates.json")
        learner = Learner.load(folder)
        for task in NAMES:
            rows = tuple(
                json.loads(line) for line in (Path(str(recipe.data)) / task / "test.jsonl").read_text().splitlines()
            )
            made = tiny_task(task, 8)
            assert [row["text"] for row in rows] == [row.text for row in made.test]
            found = mean_gates(learner, made)
            assert [json.loads(json.dumps(asdict(record))) for record in found] == document["tasks"][task]
            assert all(len(record.gates) == number for record in found)
            assert all(isinstance(record, SiteGates) for record in found)


def test_the_same_run_writes_the_same_bytes(finished: Path, recipe: Recipe, tmp_path: Path) -> None:
    run(recipe.model_copy(update={"output": str(tmp_path / "again")}), ignore)
    for name in ("01-animals", "02-birds"):
        there, here = (folder / "tasks" / name / "gates.json" for folder in (finished, tmp_path / "again"))
        assert there.read_bytes() == here.read_bytes()


def test_methods_without_gates_write_none(recipe: Recipe, tmp_path: Path) -> None:
    run(recipe.model_copy(update={"method": "inc_lora", "output": str(tmp_path / "run")}), ignore)
    assert not list((tmp_path / "run").rglob("gates.json"))
