"""CoDe-LoRA against dense weights and loops over rows: folds, experts on their own branch, calibrated labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.outcome import assert_same
from helpers.tiny import outputs, perturb, tiny_host, tiny_task, write_task
from nacre.adapters.low_rank import LowRank, PlacedLowRank
from nacre.adapters.route import Route
from nacre.errors import DataError, ModelError, RecipeError, TrainingError
from nacre.evaluation.settings import Decoding
from nacre.events import Event, TrainingPrepared, Warned, as_document, ignore, is_kept
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.models.host import Host
from nacre.parts.branch_fusion import BranchFusion, FittedTasks
from nacre.parts.calibrated_labels import CalibratedLabels, LabelPriors
from nacre.parts.discriminant_routing import DiscriminantRouting
from nacre.registry import build_method
from nacre.runs.recipe import Recipe
from nacre.runs.run import run
from nacre.tasks.task import Task

OPTIM = Optim(batch_size=4, learning_rate=1e-2, max_target_length=8)
TASKS = [
    tiny_task("animals", rows=24),
    tiny_task("birds", rows=24, labels=("red", "green", "blue")),
    tiny_task("fish", rows=24, labels=("yes", "maybe")),
]


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def learned(
    architecture: str, tasks: Sequence[Task], name: str = "code_lora", decode: str = "free", **settings: object
) -> Learner:
    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model, seed=learner.task_number)

    method = build_method(name, {"rank": 3, "dropout": 0.0, **settings})
    decoding = Decoding.model_validate({"decode": decode})
    host = tiny_host(architecture, torch.float64)
    learner = Learner(host, method, seed=4, optim=OPTIM, decoding=decoding, on_event=watch)
    for task in tasks:
        learner.learn(task)
    return learner


def dense_weights(learner: Learner) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The weights of each expert on its own branch, and of the last branch, by folds of dense matrices."""
    assert isinstance(learner.adapter, PlacedLowRank)
    experts: list[dict[str, Tensor]] = [{} for _ in range(learner.adapter.tasks)]
    last: dict[str, Tensor] = {}
    for name, site in learner.adapter.sites.items():
        downs, ups = site.slots.all_pairs()
        branch = torch.zeros(site.d_out, site.d_in, dtype=torch.float64)
        for number in range(1, len(downs) + 1):
            own = site.scale * ups[number - 1].detach().T @ downs[number - 1].detach()
            experts[number - 1][name] = site.base_weight() + branch + own
            left, sizes, _ = torch.linalg.svd(branch)
            basis = left[:, : int((sizes > 1e-6 * sizes[0]).sum())] if number > 1 else left[:, :0]
            whole = math.sqrt((number - 1) / number) * branch
            whole = whole + math.sqrt(1 / number) * (own - basis @ basis.T @ own)
            left, sizes, right = torch.linalg.svd(whole, full_matrices=False)
            branch = (left[:, :3] * sizes[:3]) @ right[:3]
        last[name] = site.base_weight() + branch
    return experts, last


def with_weights(learner: Learner, architecture: str, weights: dict[str, Tensor]) -> Tensor:
    """Outputs of a plain host with these weights."""
    host = tiny_host(architecture, torch.float64)
    with torch.no_grad():
        for name, weight in weights.items():
            linear = host.body.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(weight)
    if learner.host.family.head is not None:
        plain = Learner(host, build_method("lda"), optim=OPTIM)
        assert plain.host.family.head is not None
        plain.host.family.head.load(learner.host.family.head.tensors(), learner.host.family.head.values())
    return logits(learner, host)


def logits(learner: Learner, host: Host) -> Tensor:
    family = learner.host.family
    rows = learner.encode(TASKS[0].examples("test"))
    return outputs(host, family.batch(rows) if family.is_generative else family.prompts(rows))


def test_experts_and_branch_are_the_dense_weights(architecture: str, tmp_path: Path) -> None:
    """Each expert on the branch it was trained on; a loaded learner the same, to the bit."""
    learner = learned(architecture, TASKS, fusion="none")
    experts, branch = dense_weights(learner)
    routes = [*(Route(slots=torch.tensor([slot])) for slot in range(3)), Route()]
    found = []
    for route, weights in zip(routes, [*experts, branch], strict=True):
        with learner.under(route):
            found.append(logits(learner, learner.host))
        expected = with_weights(learner, architecture, weights)
        assert torch.allclose(found[-1], expected, rtol=0, atol=1e-9)
    assert (found[2] - found[3]).abs().max() > 1e-4, "the last expert and the branch differ"
    learner.save(tmp_path / "saved")
    loaded = Learner.load(tmp_path / "saved", tiny_host(architecture, torch.float64))
    for route, before in zip(routes, found, strict=True):
        with loaded.under(route):
            assert torch.equal(logits(loaded, loaded.host), before)


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_task_is_trained_on_the_frozen_branch(architecture: str, fused: bool) -> None:
    """By the hand-written backward pass, and where hooks wait for the factors: loss and gradients."""
    compared = []

    def watch(event: Event) -> None:
        if not isinstance(event, TrainingPrepared):
            return
        perturb(learner.host.model, seed=learner.task_number)
        if learner.task_number < 3:
            return
        learner.host.model.train()
        assert isinstance(learner.adapter, PlacedLowRank)
        handles = []
        for site in learner.adapter.sites.values():
            if not fused:
                handles.append(site.slots.up.register_forward_hook(lambda *_: None))
        rows = learner.encode(TASKS[2].examples("train")[:4])
        learner.loss_sum(rows).backward()
        for handle in handles:
            handle.remove()
        plain = tiny_host(architecture, torch.float64)
        experts, _ = dense_weights(learner)
        for name, weight in experts[-1].items():
            linear = plain.body.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight = nn.Parameter(weight.detach())
        plain.model.train()
        loss = plain.family.loss_sum(plain.model, plain.on_device(plain.family.batch(rows)))
        loss.backward()
        assert torch.allclose(learner.loss_sum(rows), loss, rtol=0, atol=1e-9)
        for name, site in learner.adapter.sites.items():
            slope = plain.body.get_submodule(name).weight.grad
            assert isinstance(slope, Tensor)
            expected = site.scale * slope @ site.slots.down.weight.detach().T
            assert site.slots.up.weight.grad is not None
            assert torch.allclose(site.slots.up.weight.grad, expected, rtol=0, atol=1e-9)
            site.slots.up.weight.grad = site.slots.down.weight.grad = None
            compared.append(name)

    host = tiny_host(architecture, torch.float64)
    for module in host.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    method = build_method("code_lora", {"fusion": "none", "rank": 3})
    learner = Learner(host, method, seed=4, optim=OPTIM, on_event=watch)
    for task in TASKS:
        learner.learn(task)
    assert compared


def test_after_one_task_it_is_a_plain_lora_to_the_bit(architecture: str) -> None:
    code, plain = (
        learned(architecture, TASKS[:1], name, **more)
        for name, more in (("code_lora", {"fusion": "none"}), ("inc_lora", {}))
    )
    for name, tensor in plain.adapter.tensors().items():
        assert torch.equal(tensor, code.adapter.tensors()[name])
    assert code.answer(TASKS[:1]) == plain.answer(TASKS[:1])


def test_the_past_of_the_branch_stays(architecture: str) -> None:
    learner = learned(architecture, TASKS[:2])
    before = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items() if ".branch_" in name}
    learner.learn(TASKS[2])
    now = learner.adapter.tensors()
    assert before
    for name, tensor in before.items():
        assert torch.equal(now[name][:2], tensor)
        assert now[name][2].any()


def naive_scores(learner: Learner, route: Route, row: object, labels: Sequence[str]) -> list[float]:
    """softmax over the labels' log p of one row that is read alone."""
    with learner.under(route), torch.no_grad():
        scores = learner.label_scores([row], labels)[0].double().tolist()  # type: ignore[list-item]
    shares = [math.exp(score - max(scores)) for score in scores]
    return [share / sum(shares) for share in shares]


def naive_prior(said: list[list[float]]) -> list[float]:
    return [sum(own) / len(said) + 1e-9 for own in zip(*said, strict=True)]


def pmi(said: list[float], prior: list[float]) -> list[float]:
    ratios = [one / other for one, other in zip(said, prior, strict=True)]
    return [math.log(ratio / sum(ratios)) for ratio in ratios]


@pytest.mark.parametrize("fusion", ["calibrated", "full"])
@pytest.mark.parametrize("key", ["routed_task", "true_task"])
def test_labels_are_those_of_a_loop_over_rows(architecture: str, fusion: str, key: str) -> None:
    learner = learned(architecture, [], decode="labels", fusion=fusion, calibration_key=key)
    routing = learner.method.routing
    assert isinstance(routing, DiscriminantRouting)
    branch = Route()
    experts = [Route(slots=torch.tensor([slot])) for slot in range(3)]
    priors, shares = [], []
    for task in TASKS if fusion == "full" else ():
        learner.learn(task)
    for task, expert in zip(TASKS, experts, strict=True):
        if fusion == "calibrated":  # measured at once: where a head grows, later tasks with the same label train it
            learner.learn(task)
        labels, examples = list(task.labels or ()), task.examples("validation")
        rows = learner.encode(examples)
        said = [[naive_scores(learner, route, row, labels) for row in rows] for route in (branch, expert)]
        both = [naive_prior(own) for own in said]
        right = {}
        for share in (0, 0.1, 0.25, 0.5, 1):
            right[share] = 0
            for number, example in enumerate(examples):
                opinions = [pmi(own[number], prior) for own, prior in zip(said, both, strict=True)]
                total = [share * one + (1 - share) * other for one, other in zip(*opinions, strict=True)]
                right[share] += labels[total.index(max(total))] == example.target
        priors.append(both)
        shares.append(max(right, key=lambda share: (right[share], -share)) if fusion == "full" else 0)
    readout = learner.method.readout
    if fusion == "full":
        assert isinstance(readout, BranchFusion)
        fitted = learner.remembered(readout, FittedTasks)
        assert fitted is not None
        assert [own.share for own in fitted.tasks] == shares
        assert [len(own.examples) for own in fitted.tasks] == [4, 4, 4]
        for own, (expected, _) in zip(fitted.tasks, priors, strict=True):
            assert own.branch_offsets.softmax(0).tolist() == pytest.approx(expected, abs=1e-8)
    else:
        assert isinstance(readout, CalibratedLabels)
        measured = learner.remembered(readout, LabelPriors)
        assert measured is not None
        for task, (_, expected) in zip(TASKS, priors, strict=True):
            assert measured.of_tasks[task.name].softmax(0).tolist() == pytest.approx(expected, abs=1e-8)
    answers = learner.answer(TASKS)
    routed = set()
    for number, task in enumerate(TASKS):
        for row, answer in zip(learner.encode(task.examples("test")), answers[number], strict=True):
            states = learner.pooled_states([row], routing.states)
            known = learner.remembered(routing, routing.State)
            assert known is not None
            slots = routing.answer(learner, known, states).slots
            assert slots is not None
            slot = int(slots)
            routed.add(slot)
            owner = slot if key == "routed_task" else number
            labels = list(TASKS[owner].labels or ())
            opinions = [
                pmi(naive_scores(learner, route, row, labels), prior)
                for route, prior in zip((branch, experts[slot]), priors[owner], strict=True)
            ]
            share = shares[owner]
            total = [share * one + (1 - share) * other for one, other in zip(*opinions, strict=True)]
            assert answer == labels[total.index(max(total))]
    assert routed == {0, 1, 2}
    learner.decoding = Decoding(decode="labels", batch_size=1)
    assert learner.answer(TASKS) == answers, "whoever stands beside a row"
    back = [replace(task, test=tuple(reversed(task.test))) for task in TASKS]
    assert learner.answer(back) == [list(reversed(own)) for own in answers]


def test_the_true_task_is_used_exactly_where_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are routed to the first task: its labels compete, or, with true_task, those of each row's own."""
    asked = []

    def first(self: object, learner: Learner, known: object, states: Tensor) -> Route:
        asked.append(len(states))
        return Route(slots=torch.zeros(len(states), dtype=torch.long))

    for key, own in (("routed_task", TASKS[0]), ("true_task", TASKS[1])):
        learner = learned("t5", TASKS[:2], decode="labels", calibration_key=key)
        assert learner.traits["task identity at test"] is (key == "true_task")
        with monkeypatch.context() as patched:
            patched.setattr(DiscriminantRouting, "answer", first)
            asked.clear()
            assert set(learner.answer(TASKS[1:2])[0]) <= set(own.labels or ())
            assert asked == [6], "each row is routed once, however often it is read"
    learner.decoding = Decoding(decode="free")
    with pytest.raises(RecipeError, match="take decode=labels"):
        learner.answer(TASKS[1:2])
    with pytest.raises(RecipeError, match="no label is calibrated"):
        build_method("code_lora", {"fusion": "none", "calibration_key": "true_task"})


def test_calibrated_labels_are_the_prior_rule_among_the_routed_tasks_labels() -> None:
    """Whoever takes no readout gets the same answers by the decoding's own rule."""
    learner = learned("t5", TASKS)
    plain = learned("t5", [], fusion="none")
    plain.decoding = Decoding(decode="labels", label_scores="prior", candidates="routed_task", pseudo_rows=0)
    for task in TASKS:
        plain.learn(task)
    assert learner.answer(TASKS) == plain.answer(TASKS)


def test_what_is_kept_is_declared() -> None:
    kept = {fusion: build_method("code_lora", {"fusion": fusion}).traits for fusion in ("none", "calibrated", "full")}
    assert [own["rehearsal-free"] for own in kept.values()] == [True, True, False]
    assert not any(own["task identity at test"] for own in kept.values())
    learner = learned("t5", TASKS[:2], fusion="full", calibration_rows=3)
    fitted = learner.state.parts["branch_fusion"].tasks
    assert [len(own.examples) for own in fitted] == [3, 3]
    assert [own.expert.shape for own in fitted] == [(3, 2), (3, 3)]


def test_a_task_without_labels_is_written_by_the_routed_expert() -> None:
    free = replace(tiny_task("worms", rows=24), labels=None)
    learner = learned("t5", [TASKS[0], free])
    plain = learned("t5", [TASKS[0], free], fusion="none")
    assert learner.answer([free]) == plain.answer([free])
    assert learner.state.parts["calibrated_labels"].of_tasks.keys() == {"animals"}
    assert set(learner.answer(TASKS[:1])[0]) <= {"yes", "no"}


def test_a_task_without_validation_rows_says_so() -> None:
    said: list[str] = []
    method = build_method("code_lora", {"rank": 3})
    learner = Learner(
        tiny_host("t5"),
        method,
        optim=OPTIM,
        on_event=lambda event: said.append(event.text) if isinstance(event, Warned) else None,
    )
    learner.learn(replace(TASKS[0], validation=()))
    assert any("'animals' has no validation rows" in text for text in said)
    assert set(learner.answer(TASKS[:1])[0]) <= {"yes", "no"}


@pytest.mark.parametrize("fusion", ["calibrated", "full"])
def test_measured_rows_calibrate_nothing(fusion: str) -> None:
    learner = learned("t5", [], fusion=fusion)
    with pytest.raises(DataError, match="The validation rows of task 'animals' are measured"):
        learner.learn(replace(TASKS[0], test=TASKS[0].validation))
    assert learner.state.tasks == []
    learned("t5", [replace(TASKS[0], test=TASKS[0].validation)], fusion="none")


def test_a_head_per_task_knows_no_other_tasks_labels() -> None:
    learner = Learner(tiny_host("roberta"), build_method("code_lora"), optim=OPTIM, head="per_task")
    with pytest.raises(RecipeError, match="take true_task"):
        learner.learn(TASKS[0])
    given = build_method("code_lora", {"calibration_key": "true_task", "fusion": "full"})
    learner = Learner(
        tiny_host("roberta"), given, optim=OPTIM, head="per_task", decoding=Decoding(decode="labels"), seed=4
    )
    for task in TASKS:
        learner.learn(task)
    for task, answers in zip(TASKS, learner.answer(TASKS), strict=True):
        assert set(answers) <= set(task.labels or ())


def test_a_run_that_was_killed_goes_on(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Between two tasks and inside a measurement, with kept rows and a branch."""
    for name in ("animals", "plants", "tools"):
        write_task(tmp_path / "data", name, rows=8)

    def recipe(output: str) -> Recipe:
        return Recipe(
            method="code_lora",
            set={"fusion": "full", "rank": 2},
            stream=["animals", "plants", "tools"],
            data=str(tmp_path / "data"),
            model=str(tiny_model("t5")),
            output=str(tmp_path / output),
            optim=Optim(batch_size=4, learning_rate=1e-2),
        )

    def stopping(place: dict[str, object]) -> Callable[[Event], None]:
        def stop(event: Event) -> None:
            if is_kept(event) and place.items() <= as_document(event).items():
                raise StopIteration

        return stop

    run(recipe("straight"), ignore)
    for place in ({"event": "row", "number": 1}, {"event": "evaluate", "row": 2}):
        with pytest.raises(StopIteration):
            run(recipe("stopped"), stopping(place))
    run(recipe("stopped"), ignore)
    assert_same(tmp_path / "stopped", tmp_path / "straight")


def test_no_task_can_be_taken_out_of_the_branch() -> None:
    learner = learned("t5", TASKS[:2])
    before = learner.answer(TASKS[:2])
    with pytest.raises(ModelError, match="none of them can be taken out"):
        learner.adapter.drop(0)
    with pytest.raises(TrainingError, match="none can be taken out"):
        learner.forget("animals")
    assert learner.answer(TASKS[:2]) == before


def test_a_branch_needs_slots_that_it_takes_in() -> None:
    for settings in ({"slots": "shared"}, {"from_start": True}):
        with pytest.raises(RecipeError, match="branch: it takes in a slot for each task"):
            LowRank(branch=True, **settings)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="here is no branch"):
        replace(build_method("de_lora"), readout=BranchFusion(DiscriminantRouting()))
