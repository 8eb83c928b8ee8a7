"""Training steps: every method at N past tasks, beside plain PEFT LoRA; full fine-tuning with and without MIGU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baselines import naive_am_lora, peft_lora, plain_step, products_only
from hosts import Hosts
from learners import learner_with, step_of
from measuring import Variant

from nacre.learning.settings import Optim

PEFT, FULL = "PEFT LoRA", "full fine-tuning"
Make = Callable[[], Variant]


def low_rank(hosts: Hosts, past: Sequence[int], mixed_precision: str) -> dict[str, Make]:
    """Makers by name; the reference first, a second time second."""
    optim, rows = Optim(batch_size=8, split_padding=None, mixed_precision=mixed_precision), hosts.rows()

    def ours(method: str, tasks: int, **parameters: object) -> Make:
        def make() -> Variant:
            learner = learner_with(hosts.frozen(), method, tasks, optim, **parameters)
            return Variant(step_of(learner, rows), PEFT, model=learner.host.model)

        return make

    def theirs(build: Callable[..., object], *arguments: int) -> Make:
        def make() -> Variant:
            host = hosts.frozen()
            model = build(host, *arguments)
            return Variant(plain_step(host, model, rows, mixed_precision), PEFT, model=model)  # type: ignore[arg-type]

        return make

    made: dict[str, Make] = {PEFT: theirs(peft_lora), f"{PEFT}, again": theirs(peft_lora)}
    made["seq_lora"] = ours("seq_lora", 0)
    made["seq_lora+migu"] = ours("seq_lora+migu", 1)
    for tasks in past:
        made[f"inc_lora, N={tasks}"] = ours("inc_lora", tasks)
        made[f"o_lora, N={tasks}"] = ours("o_lora", tasks)
        made[f"lb_cl, N={tasks}"] = ours("lb_cl", tasks)
        made[f"am_lora, N={tasks}"] = ours("am_lora", tasks)
        if tasks >= 5:
            made[f"am_lora keep_gates=5, N={tasks}"] = ours("am_lora", tasks, keep_gates=5)
        made[f"AM-LoRA's large products alone, N={tasks}"] = theirs(products_only, tasks + 1)
        made[f"AM-LoRA, naive, N={tasks}"] = theirs(naive_am_lora, tasks + 1)
        made[f"PEFT with all adapters active, N={tasks}"] = theirs(peft_lora, tasks + 1)
    return made


def full(hosts: Hosts, mixed_precision: str) -> dict[str, Make]:
    """MIGU against the same training without it: in one micro-batch, and in two."""
    made: dict[str, Make] = {}
    for accumulation, note in ((1, ""), (2, ", two micro-batches")):
        for method, name in (("seq_ft", FULL), ("seq_ft", f"{FULL}, again"), ("seq_ft+migu", "seq_ft+migu")):

            def make(method: str = method, accumulation: int = accumulation, note: str = note) -> Variant:
                optim = Optim(
                    batch_size=8, split_padding=None, accumulation=accumulation, mixed_precision=mixed_precision
                )
                learner = learner_with(hosts.own(), method, 1, optim)
                return Variant(step_of(learner, hosts.rows()), FULL + note, model=learner.host.model)

            made[name + note] = make
    return made
