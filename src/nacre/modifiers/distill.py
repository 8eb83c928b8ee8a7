"""`+distill`: learning without forgetting, on any method that learns task after task in one set of parameters."""

from nacre.errors import RecipeError
from nacre.method import Method, modifier
from nacre.parts.distillation import NO_ROUTING, Distillation
from nacre.per_task import PerTask


@modifier
def distill(method: Method, *, strength: PerTask = 1.0, temperature: float = 2.0) -> Method:
    """The learner as the last task left it is the teacher of the new task's inputs. No row is stored.

    Equations:
        loss = task loss + strength * mean over the new task's target tokens of KL(p || q)
        p = softmax(z_{t-1}(x) / T), q = softmax(z(x) / T), z_{t-1} the logits of the learner after task t - 1

    Args:
        method: The method to modify.
        strength: lambda; a list gives one for each task.
        temperature: T. There is no factor T^2, as in the source.

    Assumed:
        - Of a language model z are the logits of the target tokens, behind the target's own tokens before them; of a
          masked text those of the hidden tokens. Of a growing head z are the logits of the classes that the teacher
          knows.
        - The divergence differs from the source's cross-entropy by the teacher's entropy, which has no gradient.
        - The teacher answers when a row is learned, not once before: other tokens are hidden in every epoch, and the
          logits of a vocabulary could not be stored. There is no phase in which new classes alone are trained.

    Note:
        A step reads each row once more. Beside full fine-tuning the teacher is a second model in memory.

    Sources:
        Li and Hoiem 2016 (arXiv 1606.09282), Eq. 2 to 4 (Learning without Forgetting; temperature 2, weight 1).
    """
    if not method.curriculum.continues:
        raise RecipeError(
            f"distill has no teacher in {method.display_name}, where no task is learned on top of an earlier one; it "
            "goes with methods that learn task after task, such as seq_ft or seq_lora."
        )
    if method.routing is not None:
        raise RecipeError(f"distill cannot go with {method.display_name}: {NO_ROUTING}.")
    return method.with_batch_term(Distillation(strength, temperature))
