"""Learners whose earlier slots stay in their files: the same answers, and memory that does not grow with the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.tiny import perturb, tiny_host, tiny_task
from nacre.adapters.gated import Gated
from nacre.adapters.route import Route
from nacre.adapters.sites import PlacedSites
from nacre.adapters.slots_on_disk import SlotPiece, SlotsOfSite, SlotsOnDisk, is_stack
from nacre.errors import CheckpointError, ModelError, RecipeError, TrainingError
from nacre.functional.segments import NONE, Segments
from nacre.learning import checkpoint
from nacre.learning.contents import Contents
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.manifest import Binding, hash_of_manifest, write_manifest
from nacre.registry import build_method

OPTIM = Optim(batch_size=4, learning_rate=1e-2, log_every=1, max_target_length=8)
TASKS = [
    tiny_task("animals"),
    tiny_task("birds", labels=("red", "green")),
    tiny_task("fish", labels=("maybe", "no", "blue")),
    tiny_task("plants", labels=("blue", "red")),
]
CPU = torch.device("cpu")


def learned(name: str, architecture: str, tasks: int = len(TASKS)) -> Learner:
    parameters = {"reduction": 4} if name == "demix" else {}
    learner = Learner(tiny_host(architecture), build_method(name, parameters), seed=5, optim=OPTIM)
    for number, task in enumerate(TASKS[:tasks]):
        learner.learn(task)
        perturb(learner.host.model, number)  # so that slots differ by more than a few steps
    return learner


def placed(learner: Learner) -> PlacedSites:  # type: ignore[type-arg]
    assert isinstance(learner.adapter, PlacedSites)
    return learner.adapter


@pytest.mark.parametrize("in_memory", [0, 1, 3])
@pytest.mark.parametrize(
    ("name", "architecture"),
    [("epi", "t5"), ("epi", "llama"), ("epi", "roberta"), ("demix", "llama"), ("de_lora", "t5")],
)
def test_answers_are_the_same_to_the_bit(name: str, architecture: str, in_memory: int, tmp_path: Path) -> None:
    learned(name, architecture).save(tmp_path / "saved")
    whole = Learner.load(tmp_path / "saved", tiny_host(architecture))
    paged = Learner.load(tmp_path / "saved", tiny_host(architecture), slots_in_memory=in_memory)
    rows = [row for task in TASKS for row in whole.encode(task.examples("test"))]
    slots = torch.tensor([(3 * number) % 5 - 1 for number in range(len(rows))])
    assert set(slots.tolist()) == {NONE, 0, 1, 2, 3}
    assert whole.answer(TASKS) == paged.answer(TASKS)
    disk = paged.adapter.on_disk
    assert disk is not None
    assert len(disk.in_memory) <= in_memory
    with torch.no_grad():
        expected, found = ([], [])
        for learner, results in ((whole, expected), (paged, found)):
            for task in TASKS:
                results.append(learner.label_scores(learner.encode(task.examples("test")), list(task.labels or ())))
            with learner.under(Route(slots=slots)):  # four slots in one batch
                results.append(learner.predictions(rows)[0])
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert len(disk.in_memory) <= in_memory
    assert disk.read >= 3


def test_what_is_in_memory_does_not_grow_with_the_tasks(tmp_path: Path) -> None:
    """Counted in bytes of the tensors that the sites and the store hold, after answers by every slot."""

    def held(tasks: int, in_memory: int | None) -> int:
        learner = Learner(tiny_host("llama"), build_method("epi"), seed=5, optim=OPTIM)
        for seed in range(tasks):
            learner.adapter.grow()
            learner.adapter.fresh(seed)
        learner.save(tmp_path / f"{tasks}")
        learner = Learner.load(tmp_path / f"{tasks}", tiny_host("llama"), slots_in_memory=in_memory)
        rows = learner.encode(TASKS[0].examples("test"))[:2]
        for slot in range(tasks):
            with torch.no_grad(), learner.under(Route(slots=torch.tensor([slot, NONE]))):
                learner.predictions(rows)
        sites = placed(learner).sites.values()
        tensors = [tensor for site in sites for tensor in site.slots.state_dict().values()]
        disk = learner.adapter.on_disk
        if disk is not None:
            assert disk.in_memory == [tasks - 3, tasks - 2]
            tensors += [tensor for kept in disk._kept.values() for tensor in kept.values()]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    assert held(4, 2) == held(12, 2)
    assert held(12, 2) * 3 < held(12, None)


@pytest.mark.parametrize("architecture", ["t5", "roberta"])
def test_a_stage_of_a_run_is_read_through_the_stages_before_it(architecture: str, tmp_path: Path) -> None:
    """Each stage holds the slots that are new."""
    learner, outline, previous = learned("epi", architecture, 0), None, None
    for number, task in enumerate(TASKS):
        learner.learn(task)
        perturb(learner.host.model, number)
        held = Contents.of(learner.snapshot())
        if outline is None or previous is None:
            outline = held.outline()
        else:
            held, outline = held.since(outline, previous.name)
        folder = tmp_path / f"{number:02}"
        folder.mkdir()
        checkpoint.write_files(held, folder)
        write_manifest(folder, Binding("0" * 64, None if previous is None else hash_of_manifest(previous)))
        previous = folder
    stacks = [
        [tensor.shape[0] for name, tensor in load_file(tmp_path / f"{number:02}" / "adapter.safetensors").items()
         if is_stack(name)]
        for number in range(len(TASKS))
    ]  # fmt: skip
    assert set(stacks[3]) == {1}
    assert previous is not None
    paged = Learner.load(previous, tiny_host(architecture), slots_in_memory=1)
    assert paged.answer(TASKS) == learner.answer(TASKS)
    assert paged.snapshot().differences(learner.snapshot()) == []
    before = {name: tensor.clone() for name, tensor in learner.adapter.tensors().items()}
    paged.save(tmp_path / "again")
    after = Learner.load(tmp_path / "again", tiny_host(architecture)).adapter.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def store(folder: Path, in_memory: int, rows: tuple[int, ...] = (5,)) -> tuple[SlotsOnDisk, Tensor]:
    """One stack of five slots in as many files as there are numbers of rows."""
    stack = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    slots, after, pieces = SlotsOnDisk(in_memory), 0, []
    for number, count in enumerate(rows):
        file = folder / f"{number}.safetensors"
        save_file({"site.past_down": stack[after : after + count].contiguous()}, file)
        pieces.append(SlotPiece(file, "site.past_down", after))
        after += count
    slots.add("site.past_down", pieces)
    return slots, stack


@pytest.mark.parametrize("rows", [(5,), (2, 1, 2)])
def test_slots_that_answered_last_stay(rows: tuple[int, ...], tmp_path: Path) -> None:
    slots, stack = store(tmp_path, 2, rows)
    seen = []
    for needed in ((0,), (1,), (0,), (2,), (0, 1, 3), (4,)):
        with slots.brought(needed, CPU):
            found = SlotsOfSite(slots, "site", 5).take("past_down", Segments(needed))
            assert torch.equal(found, stack[list(needed)])
        seen.append((slots.in_memory, slots.read))
    assert seen == [([0], 1), ([0, 1], 2), ([1, 0], 2), ([0, 2], 3), ([1, 3], 5), ([3, 4], 6)]
    assert torch.equal(slots.whole("site.past_down"), stack)


def test_a_batch_inside_another_takes_nothing_from_it(tmp_path: Path) -> None:
    slots, stack = store(tmp_path, 1)
    with slots.brought((0, 1), CPU):
        with slots.brought((2, 3), CPU):
            pass
        assert torch.equal(slots.take("site.past_down", Segments((1, 0))), stack[:2])
    assert len(slots.in_memory) == 1


def test_a_file_may_lose_its_name(tmp_path: Path) -> None:
    """What was opened is what is read."""
    slots, stack = store(tmp_path, 0)
    (tmp_path / "0.safetensors").unlink()
    save_file({"site.past_down": torch.zeros(5, 2, 3)}, tmp_path / "0.safetensors")
    with slots.brought((3,), CPU):
        assert torch.equal(slots.take("site.past_down", Segments((3,))), stack[3:4])


def test_damaged_slots_are_refused_when_they_are_read(tmp_path: Path) -> None:
    learned("epi", "llama", 3).save(tmp_path / "saved")
    file = tmp_path / "saved" / "adapter.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if is_stack(name))
    tensors[name][1] = torch.inf
    save_file(tensors, file)
    write_manifest(tmp_path / "saved")
    paged = Learner.load(tmp_path / "saved", tiny_host("llama"), slots_in_memory=1)
    rows = paged.encode(TASKS[0].examples("test"))[:1]
    with torch.no_grad():
        with paged.under(Route(slots=torch.tensor([0]))):
            paged.predictions(rows)
        with pytest.raises(CheckpointError, match="not finite in slot 1"), paged.under(Route(slots=torch.tensor([1]))):
            pass
    tensors[name] = tensors[name][:, :1].contiguous()
    save_file(tensors, file)
    write_manifest(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=rf"'{name}' is float32 \[2, 1, 16\], and float32 \[2, 8, 16\] is needed"):
        Learner.load(tmp_path / "saved", tiny_host("llama"), slots_in_memory=1)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    learned("epi", "llama", 2).save(tmp_path / "epi")
    learned("inc_lora", "llama", 2).save(tmp_path / "inc_lora")
    learned("mocl", "llama", 1).save(tmp_path / "mocl")
    with pytest.raises(RecipeError, match="slots_in_memory: -1 is not a number of slots"):
        Learner.load(tmp_path / "epi", tiny_host("llama"), slots_in_memory=-1)
    for name in ("inc_lora", "mocl"):
        with pytest.raises(RecipeError, match=f"{name} has no slots of which one answers a row alone"):
            Learner.load(tmp_path / name, tiny_host("llama"), slots_in_memory=1)
    paged = Learner.load(tmp_path / "epi", tiny_host("llama"), slots_in_memory=1)
    with pytest.raises(TrainingError, match="load it without slots_in_memory to learn more tasks"):
        paged.learn(TASKS[2])
    assert paged.answer(TASKS[:2])
    rows = paged.encode(TASKS[0].examples("test"))[:1]
    with pytest.raises(ModelError, match="All slots answer together here"), paged.under(Route(torch.ones(1, 2))):
        pass
    with pytest.raises(ModelError, match="All slots answer together here"), paged.under(Route()):
        paged.predictions(rows)
    gated = Gated(2, 4.0).place(tiny_host("llama").body)
    with pytest.raises(ModelError, match="All slots answer together here"):
        next(iter(gated.sites.values())).leave_on_disk(SlotsOfSite(SlotsOnDisk(1), "site", 1))
    with pytest.raises(ValueError, match="rows do not continue"):
        SlotsOnDisk(1).add("past_down", [SlotPiece(tmp_path / "epi" / "adapter.safetensors", stack_of(tmp_path), 1)])


def stack_of(folder: Path) -> str:
    return next(name for name in load_file(folder / "epi" / "adapter.safetensors") if is_stack(name))
