"""InfLoRA: a LoRA for each task that reads only directions which earlier tasks' inputs have no part in."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.input_directions import InputDirections


@method
def inf_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    choose: Literal["data", "random"] = "data",
    energy: float = 0.995,
    steps: int = 15,
    energy_of: Literal["moments", "inputs"] = "moments",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """InfLoRA: a LoRA for each task, its input side given by the data and frozen, outside earlier tasks' inputs.

    All LoRAs are summed, and earlier ones stay frozen. What a new task learns does not reach inputs in the span that is
    kept of earlier tasks. Each task's rows are read twice more, before and after it; of earlier tasks only directions
    are kept.

    Equations:
        h = W x + s sum_{i<=t} B_i A_i x, s = alpha / rank; B_t begins at zero and is trained, A_t is not
        C = mean over the task's tokens of x x^T, read before the task; P = I - M^T M, M the earlier tasks' directions
        A_t = the first r left singular vectors of P C, as rows, over sqrt(3)
        After the task, with C read once more, M takes the fewest left singular vectors of P C with
        ||C||^2 - ||P C||^2 + sum_j s_j^2 >= e_t ||C||^2, s_j their singular values
        e_t = e + (1 - e) (t - 1) / steps

    Args:
        rank: Dimensions r of each update.
        alpha: The updates' scale s is alpha / rank.
        dropout: On the new LoRA's input.
        choose: A_t's directions: of the 'data', as above, or 'random' as in the release of the plain method: drawn,
            times P, each row of length 1 / sqrt(3).
        energy: e, the share of what is read that the directions kept of the first task hold.
        steps: The number of tasks after which e_t is 1; 15 as released, whatever the stream's length.
        energy_of: e is a share of the squared eigenvalues of C, 'moments', as in the released code; or of the 'inputs'
            squared norm, as the text has it: trace C instead of ||C||^2, with P C P's eigenvalues. The same e keeps
            many more directions then, and a stream soon has none left.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - Every map has the moment of what it reads itself; in the release the values of a decoder's attention to the
          encoder have that of the decoder's states.
        - Padding is left out, and all of the task's training rows are read; the release reads at most 1001 batches,
          with padding.
        - Where no direction is left, learning stops with a message; where fewer than r are, the rest of A_t is zero.
        - Dropout as in O-LoRA's pipeline.

    Sources:
        InfLoRA (arXiv 2404.00228), as released with GainLoRA (arXiv 2505.15424) for language models.
    """
    adapter = LowRank(
        rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules, trains="up"
    )
    return Method(
        title="InfLoRA (LoRAs outside earlier tasks' inputs)",
        sources=("arXiv 2404.00228",),
        adapter=adapter,
        start=InputDirections(choose=choose, energy=energy, steps=steps, energy_of=energy_of),
    )
