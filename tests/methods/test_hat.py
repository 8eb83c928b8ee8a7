"""HAT: the compensated gradient, the annealing, the penalty, what does not move, and whose gates answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.bottleneck import Bottleneck, BottleneckSite
from nacre.adapters.low_rank import LowRank, LowRankSite
from nacre.adapters.route import Route
from nacre.adapters.unit_gates import GatedUnits, HardGates, UnitGates, rows_gated
from nacre.errors import DataError, RecipeError, SlotTaken
from nacre.events import Event, StepTaken, TrainingPrepared, Warned
from nacre.functional.hard_attention import annealed_slope, compensated, newly_used
from nacre.functional.losses import IGNORED
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.methods.seq_lora import seq_lora
from nacre.modifiers.hat import hat
from nacre.parts.hard_attention import HardAttention, NewUnits, UnitsUsed
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch, Reading, Routing
from nacre.per_task import PerTask
from nacre.registry import build_method

TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
HAT = ("hat_adapter", {"reduction": 2})
ALL: dict[str, dict[str, object]] = {"hat": {}, "hat_adapter": {"reduction": 1}, "seq_lora+hat": {"rank": 32}}


def configured(name: str, **settings: object) -> Method:
    """One of `ALL`; the settings are hat's, wherever it takes them."""
    return build_method(name, {**ALL[name], **({"hat": settings} if name.endswith("+hat") else settings)})


@pytest.fixture(params=["t5", "llama", "roberta"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The equations


@pytest.mark.parametrize("slope", [1 / 400, 0.3, 1.0, 20.0])
def test_the_compensated_gradient_is_that_of_a_plain_sigmoid_times_smax(slope: float) -> None:
    """In closed form, by autograd, and by finite differences of the loss."""
    e = (0.4 * drawn(7, seed=1)).requires_grad_()
    target = drawn(7, seed=2)

    def loss(gates: Tensor) -> Tensor:
        return (gates.sin() * target).sum()

    gates = torch.sigmoid(slope * e)
    (gradient,) = torch.autograd.grad(loss(gates), e)
    found = compensated(gradient, e.detach(), slope, 400.0)
    for unit in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[unit] = 1e-6
        upstream = float(loss(gates.detach() + step) - loss(gates.detach() - step)) / 2e-6
        plain = 1 / (1 + math.exp(-float(e[unit].detach())))
        assert float(found[unit]) == pytest.approx(400 * plain * (1 - plain) * upstream, rel=1e-6)


def test_a_value_of_the_compensation() -> None:
    e = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    torch.sigmoid(e / 400).sum().backward()
    assert e.grad is not None
    assert float(compensated(e.grad, e.detach(), 1 / 400, 400.0)) == pytest.approx(94.0014848806, abs=1e-9)


def test_the_compensation_is_finite_where_the_gate_is_closed() -> None:
    e = torch.tensor([-6.0, 6.0], requires_grad=True)
    torch.sigmoid(400 * e).sum().backward()
    assert e.grad is not None
    assert torch.equal(compensated(e.grad, e.detach(), 400.0, 400.0), torch.zeros(2))


def test_the_slope_rises_in_equal_steps() -> None:
    found = [annealed_slope(batch, 5, 400.0) for batch in range(1, 6)]
    assert found == pytest.approx([0.0025, 100.001875, 200.00125, 300.000625, 400.0])
    assert annealed_slope(1, 1, 400.0) == 400.0


def test_the_penalty_is_the_share_of_free_units_taken() -> None:
    gates, used = [drawn(4, seed=1).sigmoid(), drawn(3, seed=2).sigmoid()], [drawn(4, seed=3).sigmoid(), torch.ones(3)]
    taken = free = 0.0
    for own, earlier in zip(gates, used, strict=True):
        for a, big in zip(own.tolist(), earlier.tolist(), strict=True):
            taken += a * (1 - big)
            free += 1 - big
    assert float(newly_used(gates, used)) == pytest.approx(taken / free, abs=1e-12)
    nothing = [torch.zeros_like(each) for each in used]
    assert float(newly_used(gates, nothing)) == pytest.approx(float(torch.cat(gates).mean()), abs=1e-12)
    assert float(newly_used(gates, [torch.ones_like(each) for each in used])) == 0.0


def gated_site(tasks: int, settings: HardGates = HardGates(slope=3.0)) -> BottleneckSite:  # noqa: B008
    torch.manual_seed(0)
    base = nn.Linear(5, 6, dtype=torch.float64).requires_grad_(False)
    site = BottleneckSite(base, Bottleneck(2, gates=settings))
    for task in range(tasks):
        site.grow()
        with torch.no_grad():
            for number, tensor in enumerate(site.parameters_by_group().values()):
                if task == 0 or number >= 4:
                    tensor.copy_(drawn(*tensor.shape, seed=10 * task + number))
    return site


def test_rows_are_gated_by_their_tasks() -> None:
    """Row by row in float64, behind f and on the output; without weights by the newest task under its slope."""
    site, x = gated_site(3), drawn(4, 2, 5, seed=91)
    hidden, output = site.unit_gates()
    for gates in (hidden, output):
        gates.slope = 0.7
    tables = [torch.cat([(3.0 * gates.past).sigmoid(), (0.7 * gates.embedding)[None].sigmoid()])
              for gates in (hidden, output)]  # fmt: skip

    def naive(row: Tensor, task: int) -> Tensor:
        h = site.base(row)
        codes = nn.functional.gelu(h @ site.slots.down.weight.T + site.slots.down.bias) * tables[0][task]
        update: Tensor = (codes @ site.slots.up.weight.T + site.slots.up.bias) * tables[1][task]
        return h + update

    tasks = [0, 2, 1, 0]
    for gates in (hidden, output):
        gates.row_weights = nn.functional.one_hot(torch.tensor(tasks), 3).float()
    expected = torch.stack([naive(row, task) for row, task in zip(x, tasks, strict=True)])
    assert (site(x) - expected).abs().max() <= 1e-12
    for gates in (hidden, output):
        gates.row_weights = None
    assert (site(x) - naive(x, 2)).abs().max() <= 1e-12


def test_the_free_share_lies_between_the_units_of_both_ends() -> None:
    site = gated_site(3)
    hidden, output = (gates.used() for gates in site.unit_gates())
    down, down_bias, up, up_bias = (protected.free() for protected in site.protected())
    for gates, used in zip(site.unit_gates(), (hidden, output), strict=True):
        assert torch.equal(used, torch.stack([torch.sigmoid(3.0 * e) for e in gates.past]).amax(0))
    for j in range(3):
        assert torch.all(down[j] == 1 - hidden[j])
        assert down_bias[j] == 1 - hidden[j]
        for i in range(6):
            assert up[i, j] == 1 - min(output[i], hidden[j])
    assert torch.equal(up_bias, 1 - output)


RANKS = LowRank(rank=3, alpha=6.0, dropout=0.0, slots="shared", gates=HardGates(slope=3.0))


def gated_ranks(tasks: int) -> LowRankSite:
    torch.manual_seed(0)
    site = RANKS.site(nn.Linear(5, 6, dtype=torch.float64).requires_grad_(False))
    for task in range(tasks):
        site.grow()
        site.fresh(task)
        with torch.no_grad():
            for number, tensor in enumerate(site.parameters_by_group().values()):
                if task == 0 or number == 2:
                    tensor.copy_(drawn(*tensor.shape, seed=10 * task + number))
    return site


def test_a_loras_ranks_are_gated_by_the_rows_tasks() -> None:
    """Row by row in float64; without weights by the newest task, and so in training, by the hand-written pass."""
    site, x = gated_ranks(3), drawn(4, 2, 5, seed=91)
    assert site.gates is not None
    site.gates.slope = 0.7
    table = torch.cat([(3.0 * site.gates.past).sigmoid(), (0.7 * site.gates.embedding)[None].sigmoid()])

    def naive(row: Tensor, task: int) -> Tensor:
        update: Tensor = (row @ site.slots.down.weight.T * table[task]) @ site.slots.up.weight.T
        return site.base(row) + 2.0 * update

    tasks = [0, 2, 1, 0]
    expected = torch.stack([naive(row, task) for row, task in zip(x, tasks, strict=True)])
    for training in (False, True):
        site.train(training)
        with rows_gated([site.gates], nn.functional.one_hot(torch.tensor(tasks), 3).double()):
            assert (site(x) - expected).abs().max() <= 1e-12
        assert (site(x) - naive(x, 2)).abs().max() <= 1e-12
    parameters = [*site.parameters_by_group().values()]
    weight = drawn(4, 2, 6, seed=92)
    found = torch.autograd.grad((site(x).sin() * weight).sum(), parameters)
    by_loop = torch.autograd.grad((naive(x, 2).sin() * weight).sum(), parameters)
    for own, other in zip(found, by_loop, strict=True):
        assert (own - other).abs().max() <= 1e-12
        assert other.abs().max() > 1e-3


def test_the_free_share_of_a_lora_is_that_of_its_ranks() -> None:
    site = gated_ranks(3)
    assert site.gates is not None
    used = torch.stack([torch.sigmoid(3.0 * e) for e in site.gates.past]).amax(0)
    down, up = (protected.free().expand_as(protected.parameter) for protected in site.protected())
    for rank in range(3):
        assert torch.all(down[rank] == 1 - used[rank])
        assert torch.all(up[:, rank] == 1 - used[rank])


def test_a_settled_lora_is_one_weight() -> None:
    """Of the row that is chosen: what a copy that is trained further computes."""
    x = drawn(1, 2, 5, seed=91)
    for task in range(3):
        site = gated_ranks(3).eval()
        assert site.gates is not None
        site.gates.row_weights = nn.functional.one_hot(torch.tensor([task]), 3).double()
        expected = site(x)
        site.settle()
        weight = site.effective_weight()
        assert (nn.functional.linear(x, weight, site.base.bias) - expected).abs().max() <= 1e-12


def test_open_gates_are_a_plain_adapter_bit_for_bit() -> None:
    """e at its clamp: sigmoid(400 * 6) is 1."""
    site, x = gated_site(1, HardGates()), drawn(4, 2, 5, seed=91)
    with torch.no_grad():
        for gates in site.unit_gates():
            gates.embedding.fill_(6.0)
    assert torch.equal(site(x), site.base(x) + site.slots.newest(site.base(x)))
    with torch.no_grad():
        for gates in site.unit_gates():
            gates.embedding.fill_(-6.0)
    assert torch.equal(site(x), site.base(x)), "and closed ones are nothing"


# Training


def gated(learner: Learner) -> GatedUnits:
    assert isinstance(learner.adapter, GatedUnits)
    return learner.adapter


def gates_of(learner: Learner) -> list[UnitGates]:
    return list(gated(learner).unit_gates())


def test_the_slope_is_annealed_in_every_epoch_and_over_a_task(architecture: str) -> None:
    for anneal, epoch in (("epoch", 3), ("task", 6)):
        seen: list[float | None] = []
        optim = OPTIM.model_copy(update={"epochs": 2})
        learner = Learner(tiny_host(architecture), build_method("hat_adapter", {"anneal": anneal}), optim=optim)

        def watch(event: Event, learner: Learner = learner, seen: list[float | None] = seen) -> None:
            if isinstance(event, StepTaken):
                seen.append(gates_of(learner)[0].slope)

        learner.on_event = watch
        learner.learn(TASKS[0])
        assert seen == pytest.approx([annealed_slope(step % epoch + 1, epoch, 400.0) for step in range(6)])
        assert gates_of(learner)[0].slope is None, "afterwards the task's gates are those of a learned one"


@pytest.mark.parametrize("name", ALL)
def test_what_earlier_tasks_use_does_not_move_by_a_bit(architecture: str, name: str) -> None:
    """Under AdamW with momentum and weight decay, over many steps; what is free moves. With the gradient masked only,
    as released, what is used moves."""
    optim = OPTIM.model_copy(update={"weight_decay": 0.5, "epochs": 12})

    def moved(mask: str) -> tuple[int, int, int]:
        """Of the numbers in full use, of all those, and of the free ones."""
        learner = Learner(tiny_host(architecture), configured(name, mask=mask), optim=optim)
        learner.learn(TASKS[0])
        learner.learn(TASKS[1])
        before = [protected.parameter.detach().clone() for protected in gated(learner).protected()]
        shares: list[Tensor] = []

        def watch(event: Event) -> None:
            if isinstance(event, StepTaken) and not shares:
                shares.extend(each.free().expand_as(each.parameter) for each in gated(learner).protected())

        learner.on_event = watch
        learner.learn(TASKS[2])
        changes = [each.parameter != old for each, old in zip(gated(learner).protected(), before, strict=True)]
        used = sum(int(change[share == 0].sum()) for change, share in zip(changes, shares, strict=True))
        free = sum(int((~change)[share == 1].sum()) for change, share in zip(changes, shares, strict=True))
        assert sum(int((share == 1).sum()) for share in shares) > 100
        return used, sum(int((share == 0).sum()) for share in shares), free

    used, there, still = moved("update")
    assert there > 500
    assert used == 0
    assert still == 0
    used, _, _ = moved("gradient")
    assert used > 0.9 * there


@pytest.mark.parametrize("name", ["seq_lora+hat", "hat_adapter"])
def test_the_compensated_gradient_of_a_step_is_that_of_the_loss_by_its_gates(name: str) -> None:
    """In float64, by finite differences of the loss and the penalty at the gates, on the second task."""
    optim = Optim(batch_size=12, epochs=2, learning_rate=1e-2, log_every=1, max_target_length=8, max_grad_norm=None)
    extra = {"hat": {"anneal": "task"}} if name == "seq_lora+hat" else {"anneal": "task"}
    small: dict[str, object] = {"rank": 4, "dropout": 0.0} if name == "seq_lora+hat" else {"reduction": 4}
    host = tiny_host("roberta", torch.float64)  # the others' norms compute in float32
    learner = Learner(host, build_method(name, {**small, **extra}), optim=optim)
    learner.learn(TASKS[0])
    expected: dict[int, list[float]] = {}
    steps: list[int] = []

    def slopes(gates: UnitGates, units: list[int]) -> list[float]:
        """By each gate, of the mean over target tokens and the penalty."""
        rows = learner.encode(TASKS[1].examples("train"))
        tokens = sum(row.num_target_tokens for row in rows)
        free = torch.cat([1 - each.used() for each in gates_of(learner)]).sum()
        found = []
        for unit in units:
            by_side = []
            for side in (1e-5, -1e-5):
                gates.fixed = gates.newest().detach().clone()
                gates.fixed[unit] += side
                with torch.no_grad():
                    by_side.append(float(learner.loss_sum(rows)) / tokens)
            gates.fixed = None
            penalty = 0.75 * float((1 - gates.used()[unit]) / free)
            found.append((by_side[0] - by_side[1]) / 2e-5 + penalty)
        return found

    def watch(event: Event) -> None:
        if isinstance(event, TrainingPrepared):
            perturb(learner.host.model)
            for gates in gates_of(learner):
                gates.slope = 1 / 400
            for number, gates in enumerate(gates_of(learner)):
                plain = gates.embedding.detach().sigmoid()
                both = zip(slopes(gates, [0, 1]), (plain * (1 - plain)).tolist(), strict=False)
                expected[number] = [400 * slope * derivative for slope, derivative in both]
        if isinstance(event, StepTaken):
            steps.append(len(steps))
            if len(steps) == 1:
                for number, gates in enumerate(gates_of(learner)):
                    assert gates.embedding.grad is not None
                    assert gates.embedding.grad[:2].tolist() == pytest.approx(expected[number], rel=1e-5, abs=1e-6)

    learner.on_event = watch
    learner.learn(TASKS[1])
    assert len(steps) == 2
    assert max(abs(value) for values in expected.values() for value in values) > 1e-2


@pytest.mark.parametrize("name", ["seq_lora+hat+migu", "seq_lora+migu+hat", "seq_lora+hat+replay"])
def test_what_earlier_tasks_use_stays_beside_other_parts(name: str) -> None:
    """Binary gates, AdamW with decay: logits of the first task are the same to the bit, and free ranks move."""
    optim = OPTIM.model_copy(update={"weight_decay": 0.5, "epochs": 4})
    more = {"replay": {"per_task": 4}} if "replay" in name else {}
    method = build_method(name, {"rank": 32, "hat": {"binary": True}, **more})
    learner = Learner(tiny_host("llama"), method, optim=optim)
    learner.learn(TASKS[0])
    before = read(learner, "animals")
    moved = [protected.parameter.detach().clone() for protected in gated(learner).protected()]
    learner.learn(TASKS[1])
    learner.learn(TASKS[2])
    assert torch.equal(read(learner, "animals"), before)
    pairs = zip(gated(learner).protected(), moved, strict=True)
    assert all(not torch.equal(each.parameter, old) for each, old in pairs)


def test_replayed_rows_are_learned_under_their_own_tasks_gates() -> None:
    seen: list[tuple[list[str], list[int]]] = []

    @dataclass(frozen=True)
    class Watch(BatchTerm):
        strength: PerTask = 0.0

        def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
            if batch.route is not None and batch.route.slots is not None:
                seen.append(([row.task for row in batch.rows], batch.route.slots.tolist()))
            return batch.logits.sum() * 0

    method = build_method("seq_lora+hat+replay", {"replay": {"per_task": 4}}).with_batch_term(Watch())
    learner = Learner(tiny_host("llama"), method, optim=OPTIM)
    for task in TASKS:
        learner.learn(task)
    slots = {task.name: number for number, task in enumerate(TASKS)}
    assert {name for names, _ in seen for name in names} == set(slots)
    assert all([slots[name] for name in names] == chosen for names, chosen in seen)


def test_on_the_first_task_nothing_is_held(architecture: str) -> None:
    """Both masks are the same there, bit for bit."""
    found = []
    for mask in ("update", "gradient"):
        learner = Learner(tiny_host(architecture), build_method(HAT[0], {**HAT[1], "mask": mask}), optim=OPTIM)
        learner.learn(TASKS[0])
        found.append(learner.adapter.tensors())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_descent_moves_the_gates_along_the_compensated_gradient() -> None:
    optim = Optim(batch_size=12, learning_rate=1e-2, log_every=1, max_target_length=8, weight_decay=0.3)
    method = build_method("hat_adapter", {"gates_by": "sgd", "gate_rate": 2.0})
    learner = Learner(tiny_host("llama"), method, optim=optim)
    before: list[Tensor] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepTaken):
            for gates, start in zip(gates_of(learner), before, strict=True):
                assert gates.embedding.grad is not None
                assert torch.equal(gates.embedding, (start - 2e-2 * gates.embedding.grad).clamp(-6, 6))
        else:
            before[:] = [gates.embedding.detach().clone() for gates in gates_of(learner) if gates.is_open]

    learner.on_event = watch
    learner.learn(TASKS[0])
    assert before


def test_embeddings_stay_within_the_clamp() -> None:
    method = build_method("hat_adapter", {"clamp": 0.5})
    learner = Learner(tiny_host("llama"), method, optim=OPTIM)
    learner.learn(TASKS[0])
    assert max(float(gates.embedding.abs().max()) for gates in gates_of(learner)) == 0.5


# Answers


@torch.no_grad()
def read(learner: Learner, task: str, size: int = 8) -> Tensor:
    """What the host makes of the first task's test rows, as if they were of a task: logits of the target's tokens; of
    an encoder, whose head goes on being trained, the first token's state."""
    family = learner.host.family
    rows = [family.encode(example, learner.lengths) for example in TASKS[0].examples("test")]
    found = []
    for start in range(0, len(rows), size):
        batch = family.batch(rows[start : start + size])
        named = type(batch)(batch.tensors, (task,) * batch.size)
        if family.is_generative:
            logits, labels = family.predictions(learner.host.model, named)
            found.append(logits[labels != IGNORED])
            continue
        with family.routed(named):
            inputs = {name: named[name] for name in ("input_ids", "attention_mask")}
            found.append(learner.host.body(**inputs).last_hidden_state[:, 0])
    return torch.cat(found)


def forgotten(architecture: str, method: Method) -> float:
    """The largest change of the first task's logits by two more tasks."""
    learner = Learner(tiny_host(architecture), method, optim=OPTIM.model_copy(update={"epochs": 4}))
    learner.learn(TASKS[0])
    before = read(learner, "animals")
    learner.learn(TASKS[1])
    learner.learn(TASKS[2])
    return float((read(learner, "animals") - before).abs().max())


@pytest.mark.parametrize("name", ALL)
def test_binary_gates_forget_nothing(architecture: str, name: str) -> None:
    """Logits of a task's rows are the same to the bit; with gates of 0.98, nearly."""
    assert forgotten(architecture, configured(name, binary=True)) == 0
    if name == "seq_lora+hat":
        without = forgotten(architecture, build_method("seq_lora", ALL[name]))
        assert forgotten(architecture, configured(name)) < 0.05 * without
    else:
        assert forgotten(architecture, configured(name)) <= 0.05


@pytest.mark.parametrize("name", ALL)
def test_the_task_decides_which_gates_answer(architecture: str, name: str) -> None:
    """Each name answers as if its task had just been learned last; another name gives other answers."""
    learner = Learner(tiny_host(architecture), configured(name, binary=True), optim=OPTIM)
    just_learned = {}
    for task in TASKS:
        learner.learn(task)
        just_learned[task.name] = read(learner, task.name)
    for task in TASKS:
        assert torch.equal(read(learner, task.name), just_learned[task.name])
    assert not torch.allclose(read(learner, "animals"), read(learner, "birds"), atol=1e-3)
    assert torch.equal(read(learner, "never learned"), read(learner, "fish")), "the newest gates"
    assert learner.traits["task identity at test"]
    with pytest.raises(DataError, match="given_task must be given the task of every input at test"):
        learner.predict("the big dog", task="")


@pytest.mark.parametrize("name", ALL)
def test_answers_do_not_depend_on_the_batch(architecture: str, name: str) -> None:
    learner = Learner(tiny_host(architecture), configured(name), optim=OPTIM)
    for task in TASKS:
        learner.learn(task)
    assert torch.allclose(read(learner, "birds", 1), read(learner, "birds", 6), atol=1e-4)
    family = learner.host.family
    rows = [family.encode(task.examples("test")[0], learner.lengths) for task in TASKS]
    together, labels = learner.predictions(rows)
    for place, row in enumerate(rows):
        alone, own = learner.predictions([row])
        if family.is_generative:
            assert torch.allclose(together[place][labels[place] != IGNORED], alone[0][own[0] != IGNORED], atol=1e-4)
        else:
            assert torch.allclose(together[place], alone[0], atol=1e-4)


def test_a_task_learned_again_has_its_last_gates() -> None:
    learner = Learner(tiny_host("llama"), build_method("hat_adapter", {"reduction": 2, "binary": True}), optim=OPTIM)
    learner.learn(TASKS[0])
    learner.learn(TASKS[1])
    first = read(learner, "animals")
    learner.learn(TASKS[0], again=True)
    again = read(learner, "animals")
    assert not torch.equal(again, first)
    assert torch.equal(again, read(learner, "never learned")), "the newest"


# Limits


def test_crowded_units_are_said() -> None:
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Warned):
            said.append(event.text)

    learner = Learner(tiny_host("llama"), build_method("hat_adapter"), optim=OPTIM, on_event=listen)
    for task in [*TASKS, *(tiny_task(name) for name in ("worms", "bees", "cats", "dogs"))]:
        learner.learn(task)
    remembered = learner.state.parts["hard_attention"]
    assert isinstance(remembered, UnitsUsed)
    assert len(remembered.shares) == 7
    assert remembered.shares == sorted(remembered.shares)
    assert remembered.shares[-1] > 0.95
    assert any("of the gated units, so that little is left to learn" in text for text in said)


def test_what_makes_no_sense_is_refused() -> None:
    for part in (HardAttention(), NewUnits()):
        add = seq_lora().with_gradient_rule if isinstance(part, HardAttention) else seq_lora().with_penalty
        with pytest.raises(RecipeError, match="it needs units with a gate for each task"):
            add(part)  # type: ignore[operator]
    with pytest.raises(RecipeError, match=r"slope: 0\.5 is below 1"):
        build_method("hat_adapter", {"slope": 0.5})
    with pytest.raises(RecipeError, match=r"clamp: 0\.0 is not positive"):
        build_method("hat_adapter", {"clamp": 0.0})
    with pytest.raises(RecipeError, match=r"gate_rate: 0\.0 is not positive"):
        build_method("hat_adapter", {"gate_rate": 0.0})
    for adapter in (Bottleneck, LowRank):
        with pytest.raises(RecipeError, match="every task has a slot of its own"):
            adapter(slots="per_task", gates=HardGates())


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("inc_lora+hat", {}, "hat needs units that all tasks share, and in inc_lora are none that could have gates: "),
        ("demix+hat", {}, "hat needs units that all tasks share, and in demix are none"),
        ("lfpt5+hat", {}, "hat needs units that all tasks share, and in lfpt5 are none"),
        ("am_lora+hat", {}, "hat needs units that all tasks share, and in am_lora are none"),
        ("joint+hat", {}, "hat has nothing to share out in joint, where no task is learned on top of an earlier one"),
        ("independent+hat", {"train": "lora"}, "hat has nothing to share out in independent"),
        ("hat_adapter+hat", {}, "hat_adapter already has a gate on each unit for each task: leave out"),
        ("adapter+hat", {"hat": {"units": ["ffn"]}}, "units=ffn chooses among the host's own units, and adapter"),
        ("seq_ft+hat", {"hat": {"units": []}}, "nothing is gated"),
        ("ewc+hat", {}, "elastic_weights cannot be a part of ewc[+]hat"),
        ("das+hat", {}, "soft_mask cannot be a part of das[+]hat: .* here they are frozen or gated"),
        ("seq_lora+hat+distill", {}, "distill cannot go with seq_lora[+]hat"),
        ("seq_lora+distill+hat", {}, "hat cannot go with seq_lora[+]distill: the teacher is a copy of the model"),
        ("seq_lora+hat+copy_init", {}, "here all tasks share one slot"),
    ],
)
def test_the_modifier_is_refused_where_it_makes_no_sense(
    name: str, parameters: dict[str, object], sentence: str
) -> None:
    with pytest.raises((RecipeError, SlotTaken), match=sentence):
        build_method(name, parameters)


def test_a_second_routing_is_refused() -> None:
    method = replace(seq_lora(), routing=Anywhere())
    with pytest.raises(SlotTaken, match=r"already has a routing \(Anywhere\(\)\).*Drop GivenTask\(\)"):
        hat(method)


@dataclass(frozen=True)
class Anywhere(Routing):
    def route(self, learner: LearnerView, reading: Reading) -> Route | None:
        return None
