"""EPI: an own adapter for each task, and the task told by the nearest class."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.adapters.prompt import Prompt
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.nearest_class import NearestClass


@method
def epi(
    *,
    slot: Literal["lora", "prompt"] = "lora",
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    prompt_length: int = 16,
    tolerance: float = 1e-4,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """EPI: parameters of its own for each task; at test the nearest class tells which ones answer.

    Nothing is shared between tasks but the pretrained model. After a task, the bare model reads its training rows once
    more for the statistics. At test it reads every input before the answer, and the task is inferred.

    Equations:
        z(x) = mean over the input's tokens of the bare model's last hidden states
        S = mean over the tasks of (the mean over a task's classes of their unbiased covariances)
        score_i(x) = min over classes c of task i of (z - mu_c)^T S^+ (z - mu_c)
        task of x = argmin_i score_i(x)
        LoRA i alone: h = W x + s B_i A_i x, s = alpha / rank; or prompt i alone in front of the input

    Args:
        slot: 'lora', a LoRA for each task, or 'prompt', a soft prompt for each.
        rank: Dimensions r of each LoRA.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the input of the LoRA that is trained.
        prompt_length: Length of each soft prompt ('prompt' only); 16 as published.
        tolerance: Of the pseudo-inverse S^+: eigenvalues up to this share of the largest one are left out.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - Published with a prefix of keys and values in every layer; here it is a LoRA or a prompt at the input. The
          inference of the task does not depend on it.
        - The tolerance is what rounding of float32 states amounts to at a usual width (768 x 1.2e-7); statistics are
          computed in float64. A class with one row has no covariance and is left out of the mean.
        - An encoder-only host's head: while a task is learned and when its parameters answer, only its labels are open.
          Tasks that share a label string share a row of the growing head, which the later one trains on; with
          head=per_task each has its own, and the head is then given the task.
        - A task without labels is one class. Hosts that write are not held to the inferred task's labels.

    Sources:
        Wang et al. 2023 (ACL, long paper 612), and its released settings.
    """
    adapter = (
        LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
        if slot == "lora"
        else Prompt(tokens=prompt_length, slots="per_task", weighted=True)
    )
    return Method(
        title="EPI (parameters for each task, told by the nearest class)",
        sources=("ACL 2023, long paper 612",),
        adapter=adapter,
        routing=NearestClass(tolerance=tolerance),
    )
