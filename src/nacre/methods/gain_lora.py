"""GainLoRA: InfLoRA with a learned gate for each task, kept shut on earlier tasks' inputs."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.pooled_states import PooledStates, Text
from nacre.models.roles import Role
from nacre.parts.input_directions import InputDirections
from nacre.parts.learned_gates import KeptGates, LearnedGates


@method
def gain_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    gate_width: int = 100,
    restore_norms: bool = False,
    choose: Literal["data", "random"] = "data",
    energy: float = 0.995,
    steps: int = 15,
    energy_of: Literal["moments", "inputs"] = "moments",
    text: Text = "prompt",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """GainLoRA on InfLoRA: every task's LoRA is multiplied by a gate that its inputs open and earlier ones do not.

    LoRAs are InfLoRA's. Gates are one number for each row and task, the same at every site; they need not sum to one.
    Earlier LoRAs and gates stay frozen. At test no task is known.

    Equations:
        h = W x + sum_{i<=t} g_i(p) s B_i A_i x, s = alpha / rank; A_t as in inf_lora, read through all gates
        p = mean over the input's tokens of the word embeddings
        x1 = silu(G_i p), G_i [width, d]; x2 = silu(H_i x1), H_i [d, width]
        g_i(p) = |2 sigmoid(4 cos(x2, k_i)) - 1|
        G_t, H_t begin as G_{t-1}, H_{t-1}; k_t as the first left singular vector of (I - M3^T M3) mean(x2 x2^T)
        After each step: G_t <- G_t - (G_t - G_{t-1}) M1^T M1; H_t alike by M2, k_t by M3, from its start
        M1, M2, M3: earlier tasks' directions of p, x1 and x2, extended after a task as InfLoRA's M

    Args:
        rank: Dimensions r of each update; 4 as published for SuperNI.
        alpha: The updates' scale s is alpha / rank.
        dropout: On the new LoRA's input.
        gate_width: Width of the gates' inner layer.
        restore_norms: After the projection, rows of G, H and k get their lengths back, as released. Then gates are
            not shut on earlier inputs.
        choose: A_t's directions, see inf_lora.
        energy: e of all bases, see inf_lora.
        steps: See inf_lora.
        energy_of: What e is a share of, see inf_lora.
        text: What is read for p: the whole 'prompt', or the 'bare' text, see nearest_mean.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - p is a mean without padding; the release divides by the padded length.
        - The changes are counted from the task's start, which equals the release's counting from step to step without
          its rounding, and also takes weight decay back.
        - A key has the length of the one before it, the first one that of a random draw; a cosine does not see it.
        - InfLoRA's form only: the one on O-LoRA is not released.
        - The gates of the last step are kept, not those of the best epoch on test rows.
        - An encoder-only host's head: all labels compete, in training as frozen rows.

    Sources:
        GainLoRA (arXiv 2505.15424), as released for T5; InfLoRA (arXiv 2404.00228).
    """
    adapter = LowRank(
        rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules, trains="up"
    )
    return Method(
        title="GainLoRA (InfLoRA with gates that are shut on earlier tasks' inputs)",
        sources=("arXiv 2505.15424", "arXiv 2404.00228"),
        adapter=adapter,
        start=InputDirections(choose=choose, energy=energy, steps=steps, energy_of=energy_of),
        gradient_rules=(KeptGates(restore_norms),),
        routing=LearnedGates(
            PooledStates("words", text=text), width=gate_width, energy=energy, steps=steps, energy_of=energy_of
        ),
    )
