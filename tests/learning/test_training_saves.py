"""A training that was saved between two steps, and goes on there, ends as one that nothing stopped: bit for bit."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.contract import HELD, held_method, methods_first, refused
from helpers.tiny import tiny_host, tiny_task
from nacre.errors import TrainingError
from nacre.events import Event, OnEvent, StepTaken, TrainingContinued, TrainingSaved, Warned, ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.learning.snapshot import Snapshot
from nacre.learning.training_saves import TENSORS, VALUES, TrainingSaves
from nacre.manifest import MANIFEST, Binding
from nacre.method import Method
from nacre.models.host import Host
from nacre.registry import build_method
from nacre.tasks.task import Task

torch.set_num_threads(1)

OPTIM = Optim(
    batch_size=4,
    epochs=2,
    accumulation=2,
    learning_rate=1e-2,
    schedule="cosine",
    warmup=0.2,
    max_target_length=8,
    log_every=1,
)
STEPS = 6  # of twelve rows
TASKS = [tiny_task(name) for name in ("animals", "birds", "fish")]
HERE, ELSEWHERE = Binding("0" * 64, "1" * 64), Binding("0" * 64, "2" * 64)
ANSWERS = ("dog Answer : yes", "stone Answer : no", "hen Answer : yes")


class Stop(Exception):
    """What stands for a crash."""


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that no tiny host would write, by their seeds."""

    def sample(self: Host, rows: Sequence[object], count: int, *, seeds: Sequence[int], **_: object) -> list[list[str]]:
        return [[f"the {ANSWERS[seed % 3]}"] for seed in seeds]

    monkeypatch.setattr(Host, "sample", sample)


def saves_in(folder: Path, every: int | None = 1, on_event: OnEvent = ignore, of: Binding = HERE) -> TrainingSaves:
    return TrainingSaves(folder / "training", of, every, on_event)


def stopping(step: int) -> OnEvent:
    """Raises when this step is saved."""

    def stop(event: Event) -> None:
        if isinstance(event, TrainingSaved) and event.step == step:
            raise Stop

    return stop


def learner_of(
    method: str | Method, after: Snapshot | None = None, architecture: str = "t5", optim: Optim = OPTIM
) -> Learner:
    built = build_method(method) if isinstance(method, str) else method
    host = tiny_host(architecture)
    for module in host.model.modules():  # so that every step draws
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    learner = Learner(host, built, optim=optim, seed=3)
    if after is not None:
        learner.restore(after)
    return learner


def curriculum(method: Method) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """What is learned before, and what is stopped."""
    first, *others = (stage.tasks for stage in method.curriculum.stages(TASKS[:2]))
    return (first, others[0]) if method.curriculum.continues else ((), first)


def check(method: Method, folder: Path, stops: Sequence[int], architecture: str = "t5", optim: Optim = OPTIM) -> None:
    """Learn a task that is stopped after these steps, and compare with one that nothing stopped."""
    before, tasks = curriculum(method)
    after = None
    if before:
        learner = learner_of(method, None, architecture, optim)
        learner.learn(*before)
        after = learner.snapshot()
    straight = learner_of(method, after, architecture, optim)
    straight.learn(*tasks)
    for step in stops:
        torch.manual_seed(step)  # what the caller draws has no part in it
        stopped = learner_of(method, after, architecture, optim)
        with pytest.raises(Stop):
            stopped.learn(*tasks, saves=saves_in(folder, on_event=stopping(step)))
    again, told = learner_of(method, after, architecture, optim), list[Event]()
    again.on_event = told.append
    again.learn(*tasks, saves=saves_in(folder, on_event=told.append))
    assert [event.step for event in told if isinstance(event, TrainingContinued)] == [stops[-1]]
    steps = [event.step for event in told if isinstance(event, StepTaken)]
    assert steps == list(range(stops[-1] + 1, straight.step.of + 1))
    assert again.snapshot().differences(straight.snapshot()) == []
    assert (again.work, again.step) == (straight.work, straight.step)


TRAINED = tuple(variant for variant in HELD if held_method(variant).trains)


@pytest.mark.parametrize("variant", methods_first(TRAINED))
def test_every_method_goes_on_where_it_was_stopped(variant: str, tmp_path: Path) -> None:
    """In the second epoch, when every kind of state has moved; parts that hold some and do not say so fail here."""
    check(held_method(variant), tmp_path, [STEPS // 2 + 1])


@pytest.mark.long
@pytest.mark.parametrize("variant", TRAINED)
@pytest.mark.parametrize("architecture", ["t5", "llama", "roberta"])
def test_on_every_family_from_the_first_and_after_the_last_step(
    variant: str, architecture: str, tmp_path: Path
) -> None:
    if refused(held_method(variant), architecture):
        pytest.skip("the method needs a host that writes")
    check(held_method(variant), tmp_path / "first", [1], architecture)
    check(held_method(variant), tmp_path / "last", [STEPS], architecture)


@pytest.mark.parametrize("architecture", ["llama", "roberta"])
@pytest.mark.parametrize("variant", ["am_lora+migu", "l2p-diversified", "der_pp-small"])
def test_some_on_other_families(variant: str, architecture: str, tmp_path: Path) -> None:
    check(held_method(variant), tmp_path, [STEPS // 2 + 1], architecture)


@pytest.mark.parametrize("stops", [[1], [STEPS], [1, 2, 5]], ids=["first", "last", "again and again"])
@pytest.mark.parametrize("variant", ["seq_ft", "am_lora", "lb_cl", "der_pp-small"])
def test_wherever_it_was_stopped(variant: str, stops: list[int], tmp_path: Path) -> None:
    check(held_method(variant), tmp_path, stops)


@pytest.mark.parametrize(
    "changes",
    [
        {"mixed_precision": "bf16"},
        {"schedule": "linear", "warmup": 0.0, "weight_decay": 0.1, "max_grad_norm": None},
        {"schedule": "constant", "betas": (0.5, 0.9), "split_padding": None},
    ],
    ids=["bf16", "linear", "constant"],
)
def test_however_it_is_trained(changes: dict[str, Any], tmp_path: Path) -> None:
    check(build_method("am_lora+migu"), tmp_path, [4], optim=OPTIM.model_copy(update=changes))


def test_the_loss_scale_of_fp16_is_kept(tmp_path: Path) -> None:
    """A step that overflowed is skipped, and the scale after it is another: both must come back."""
    if not torch.cuda.is_available():
        pytest.skip("fp16 with a loss scale needs a GPU")
    check(build_method("seq_lora"), tmp_path, [4], optim=OPTIM.model_copy(update={"mixed_precision": "fp16"}))


def test_the_comparison_sees_what_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, all of the tests above could compare nothing: each thing that is left out changes the result."""
    from nacre.learning import trainer

    for name, instead in (
        ("set_random_states", lambda states: None),
        ("give_back", lambda parts, learner, held: None),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(trainer, name, instead)
            with pytest.raises(AssertionError):
                check(held_method("der_pp-small"), tmp_path / name, [4])


# ---- when it is saved


def steps_saved(every: int | None, folder: Path) -> list[int]:
    saved: list[Event] = []
    learner_of("inc_lora").learn(TASKS[0], saves=saves_in(folder, every, saved.append))
    return [event.step for event in saved if isinstance(event, TrainingSaved)]


@pytest.mark.parametrize(("every", "steps"), [(None, []), (1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (6, [6]), (100, [6])])
def test_every_so_many_steps_and_after_the_last(every: int | None, steps: list[int], tmp_path: Path) -> None:
    assert steps_saved(every, tmp_path) == steps


def test_saving_changes_nothing(tmp_path: Path) -> None:
    one, other = learner_of("am_lora+migu"), learner_of("am_lora+migu")
    one.learn(TASKS[0])
    other.learn(TASKS[0], saves=saves_in(tmp_path))
    assert other.snapshot().differences(one.snapshot()) == []


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    """Readings of the loss are far apart, and the save looks itself."""
    learner = learner_of("seq_ft", optim=OPTIM.model_copy(update={"log_every": 100}))
    saved: list[Event] = []

    def break_it(event: Event) -> None:
        saved.append(event)
        if isinstance(event, TrainingSaved) and event.step == 2:
            with torch.no_grad():
                next(iter(learner.trainable()[0].parameters)).fill_(torch.nan)

    with pytest.raises(TrainingError, match="The loss is not finite at step 3 of 'animals'"):
        learner.learn(TASKS[0], saves=saves_in(tmp_path, on_event=break_it))
    assert [event.step for event in saved if isinstance(event, TrainingSaved)] == [1, 2]


# ---- Ctrl-C


def pressing(step: int, times: int = 1) -> OnEvent:
    """Presses Ctrl-C while a step is taken."""

    def press(event: Event) -> None:
        if isinstance(event, StepTaken) and event.step == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return press


@pytest.fixture
def usual_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_the_step_that_is_being_taken(tmp_path: Path, usual_handler: None) -> None:
    straight = learner_of("inc_lora")
    straight.learn(TASKS[0])
    saved: list[Event] = []
    stopped = learner_of("inc_lora")
    stopped.on_event = pressing(3)
    with pytest.raises(KeyboardInterrupt):
        stopped.learn(TASKS[0], saves=saves_in(tmp_path, None, saved.append))
    assert [event.step for event in saved if isinstance(event, TrainingSaved)] == [3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = learner_of("inc_lora")
    again.learn(TASKS[0], saves=saves_in(tmp_path, None))
    assert again.snapshot().differences(straight.snapshot()) == []


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, usual_handler: None) -> None:
    stopped = learner_of("inc_lora")
    stopped.on_event = pressing(3, times=2)
    with pytest.raises(KeyboardInterrupt):
        stopped.learn(TASKS[0], saves=saves_in(tmp_path, None))
    assert not (tmp_path / "training").exists()


def test_somebody_elses_handler_stays(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        learner = learner_of("inc_lora")
        learner.on_event = pressing(3)
        learner.learn(TASKS[0], saves=saves_in(tmp_path, None))
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
    assert not (tmp_path / "training").exists()


def test_a_thread_that_is_not_the_main_one_trains_and_saves(tmp_path: Path) -> None:
    """Only the main thread can listen for signals."""
    thread = threading.Thread(target=steps_saved, args=(4, tmp_path))
    thread.start()
    thread.join()
    assert json.loads((tmp_path / "training" / VALUES).read_text())["state"]["step"] == STEPS


# ---- what cannot be used


def stopped_at(step: int, folder: Path) -> None:
    with pytest.raises(Stop):
        learner_of("inc_lora").learn(TASKS[0], saves=saves_in(folder, on_event=stopping(step)))


def went_on(folder: Path, method: str = "inc_lora", of: Binding = HERE, task: Task = TASKS[0], **optim: Any) -> str:
    """Learn after that; what was said of the save: its step, a warning, or nothing."""
    told: list[Event] = []
    learner = learner_of(method, optim=OPTIM.model_copy(update=optim))
    learner.learn(task, saves=saves_in(folder, None, told.append, of))
    straight = learner_of(method, optim=OPTIM.model_copy(update=optim))
    straight.learn(task)
    assert learner.snapshot().differences(straight.snapshot()) == []
    found = [str(event.step) for event in told if isinstance(event, TrainingContinued)]
    return " ".join([*found, *(event.text for event in told if isinstance(event, Warned))])


def test_a_save_of_something_else_is_not_used(tmp_path: Path) -> None:
    stopped_at(3, tmp_path)
    assert went_on(tmp_path, of=ELSEWHERE) == ""
    assert not (tmp_path / "training").exists()


@pytest.mark.parametrize("file", [TENSORS, VALUES, MANIFEST])
@pytest.mark.parametrize("how", ["a byte", "half", "empty", "gone"])
def test_a_damaged_save_is_named_and_not_used(file: str, how: str, tmp_path: Path) -> None:
    stopped_at(3, tmp_path)
    place = tmp_path / "training" / file
    content = place.read_bytes()
    middle = len(content) // 2
    if how == "gone":
        place.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        place.write_bytes({"a byte": flipped, "half": content[:middle], "empty": b""}[how])
    said = went_on(tmp_path)
    if (file, how) == (MANIFEST, "gone"):  # a folder without one was never complete
        assert said == ""
    elif (file, how) == (MANIFEST, "a byte") and not said:
        pytest.fail("a changed manifest was believed")
    else:
        assert file in said
        assert said.endswith("The task is learned from its beginning.")


@pytest.mark.parametrize(
    "other",
    [{"method": "seq_ft"}, {"epochs": 3}, {"task": TASKS[1], "batch_size": 3}],
    ids=["method", "epochs", "rows"],
)
def test_a_save_that_does_not_fit_is_not_used(other: dict[str, Any], tmp_path: Path) -> None:
    """Its binding says that it does: whoever bound it was wrong."""
    stopped_at(3, tmp_path)
    assert "training of other parameters, rows or parts" in went_on(tmp_path, **other)


def test_a_save_that_was_exchanged_while_a_process_was_killed_is_put_back(tmp_path: Path) -> None:
    stopped_at(3, tmp_path)
    (tmp_path / "training").rename(tmp_path / ".training.999999999.former.partial")
    assert went_on(tmp_path) == "3"
