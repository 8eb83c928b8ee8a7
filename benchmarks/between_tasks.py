"""What happens once a task, beside one training step of plain PEFT LoRA: the start of a task, LB-CL's sensitivities,
saving and loading."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from baselines import peft_lora, plain_step
from hosts import Hosts
from learners import fill, learner_with
from measuring import Variant

from nacre.adapters.slotted import low_rank_in
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Template

STEP = "one step of PEFT LoRA"


def _steps(hosts: Hosts) -> dict[str, Variant]:
    made = {}
    for name in (STEP, f"{STEP}, again"):
        host = hosts.frozen()
        made[name] = Variant(plain_step(host, peft_lora(host), hosts.rows()), STEP)
    return made


def starts(hosts: Hosts, past: Sequence[int]) -> dict[str, Variant]:
    """From the last step of one task to the first of the next: freezing, folding, opening the next slot, getting the
    parts ready. There is one more past task in each round."""
    made = _steps(hosts)
    for method in ("inc_lora", "o_lora", "am_lora", "lb_cl"):
        for tasks in past:
            learner = learner_with(hosts.frozen(), method, tasks - 1, Optim())
            made[f"{method}, from N={tasks} on"] = Variant(
                _start_of(learner),
                STEP,
                before=lambda learner=learner: fill(learner, learner.adapter.tasks),  # type: ignore[misc]
            )
    return made


def _start_of(learner: Learner) -> Callable[[], None]:
    def start() -> None:
        learner.adapter.freeze()
        learner.adapter.grow()
        learner.adapter.fresh(0)
        for part in learner.method.parts:
            part.begin(learner, [])
        learner.resources.clear()

    return start


def sensitivities(hosts: Hosts, past: Sequence[int]) -> dict[str, Variant]:
    """LB-CL's pass over 8 rows of 128 tokens."""
    made = _steps(hosts)
    text = " ".join(f"w{4 + number}" for number in range(122))
    task = Task("bench", tuple(Row(f"{text} w{500 + n}", "w7 w8 w9") for n in range(8)), (), (), Template(""), None)
    for tasks in past:
        learner = learner_with(hosts.frozen(), "lb_cl", tasks - 1, Optim())
        learner.adapter.grow()  # and leave the new slot empty, as it is then
        start = learner.method.start
        assert isinstance(start, SensitivityStart)
        names = list(low_rank_in(learner.adapter).sites)

        def run(start: SensitivityStart = start, learner: Learner = learner, names: list[str] = names) -> None:
            start.sensitivities(learner, [task], names)

        made[f"lb_cl, N={tasks}"] = Variant(run, STEP)
    return made


def saving(hosts: Hosts, past: Sequence[int], folder: Path | None = None) -> dict[str, Variant]:
    """The whole learner to disk, and from disk into a learner in a host that is there; hashes included."""
    place = folder or Path(tempfile.mkdtemp(prefix="nacre-bench-"))
    made = _steps(hosts)
    for method in ("inc_lora", "am_lora"):
        for tasks in past:
            learner = learner_with(hosts.frozen(), method, tasks, Optim())
            learner.adapter.freeze()
            learner.state.tasks = [f"task{number}" for number in range(tasks + 1)]
            there = place / f"{method}{tasks}"
            learner.save(there)
            empty = Learner(hosts.frozen(), learner.method)
            made[f"save {method}, N={tasks}"] = Variant(lambda learner=learner, there=there: learner.save(there), STEP)  # type: ignore[misc]
            made[f"load {method}, N={tasks}"] = Variant(
                lambda empty=empty, there=there: empty.restore(checkpoint.read(there)),  # type: ignore[misc]
                STEP,
            )
    return made
