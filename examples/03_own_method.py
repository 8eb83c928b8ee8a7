"""Write a method: IncLoRA whose gradients shrink from task to task.

    python examples/03_own_method.py

A method is a function that returns a value made of parts. Here one part is new. To give the method a name on the
command line, put the function into a package and name it under the entry point group "nacre.methods".
"""

from dataclasses import dataclass

from nacre import Learner, Method, Optim, load_host, load_tasks
from nacre.adapters.low_rank import LowRank
from nacre.method import method
from nacre.parts.part import GradientRule, LearnerView


@dataclass(frozen=True)
class ShrinkingGradients(GradientRule):
    """Multiplies all gradients of task t by factor^(t - 1)."""

    factor: float

    def apply(self, learner: LearnerView) -> None:
        """Scale the gradients in place, between the backward pass and clipping."""
        for group in learner.adapter.parameter_groups():
            for parameter in group.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.factor ** (learner.task_number - 1))


@method
def careful_lora(*, rank: int = 4, factor: float = 0.5) -> Method:
    """One LoRA per task, summed; later tasks get smaller gradients."""
    return Method(
        title="Careful LoRA",
        sources=("this example",),
        adapter=LowRank(rank=rank, alpha=4.0 * rank, dropout=0.0, slots="per_task"),
        gradient_rules=(ShrinkingGradients(factor),),
    )


tasks = [task.limited(train=160, test=40) for task in load_tasks(["topic", "mood"], data=None)]
learner = Learner(load_host("demo"), careful_lora(factor=0.3), seed=1, optim=Optim(learning_rate=2e-3))
for task in tasks:
    learner.learn(task)
scores = learner.evaluate(tasks)
print(learner.method.name, dict(learner.method.parameters))
print({task.name: f"{score.accuracy:.0%}" for task, score in zip(tasks, scores, strict=True)})
