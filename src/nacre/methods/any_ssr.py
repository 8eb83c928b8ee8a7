"""Any-SSR: a LoRA for each task above the first blocks, and the task told by ridge regression on their output."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.pooled_states import PooledStates, Text
from nacre.models.roles import Role
from nacre.parts.ridge_routing import RidgeRouting


@method
def any_ssr(
    *,
    blocks: int = 4,
    dimension: int | None = 2048,
    relu: bool = True,
    lam: float = 100.0,
    scale: Literal["relative", "absolute"] = "absolute",
    text: Text = "prompt",
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """Any-SSR: a LoRA for each task, alone above the first blocks; least squares on these blocks' output tell which.

    The first blocks carry no LoRA, so that their output is the same whichever task answers. After a task, they read its
    training rows once more. At test they read every input before the answer, and the task is inferred. Task after task
    gives what all rows at once would give, to the bit in any order; no row is kept.

    Equations:
        z = mean over the input's tokens of norm(h_L), h_L the output of block L of the bare model
        u = max(z R, 0), R [d, D] standard normal, drawn once by the seed
        G = sum over all rows u u^T; Q_k = sum over the rows of task k of u
        task of x = argmax_k u . W_k, W = (G + lambda I)^-1 Q
        LoRA k alone, in the blocks above L: h = W_0 x + s B_k A_k x, s = alpha / rank

    Args:
        blocks: L, of the stack that reads the input. In an encoder-decoder model the whole decoder lies above.
        dimension: D, the number of random features; null for z itself, without R and max. As published 10,000, where G
            takes 800 MB in every checkpoint.
        relu: The max; False as released, where R alone is no expansion: the result is a ridge regression on z.
        lam: lambda.
        scale: lambda is 'absolute', lam, as published; or 'relative': lam times the mean of G's diagonal.
        text: What is read: the whole 'prompt', as published, or the 'bare' text, see nearest_mean. Instructions and
            options nearly name the task.
        rank: Dimensions r of each LoRA.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the input of the LoRA that is trained.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - norm is the stack's final norm, as released; encoders without one (BERT) give h_L itself.
        - Padding is left out of the mean, R has a seed, every row is routed by itself, and sums are exact. The release
          averages over padding, solves recursively in float32, and lets the first row of a batch decide.
        - Every class is a task. The release has one more, which turns all LoRAs off, fitted on general text.
        - The first blocks run twice at test, once for the task and once for the answer.
        - Inputs are cut at the length of training's inputs; the release routes by 512 tokens and answers 1024.
        - An encoder-only host's head: while a task is learned and when its LoRA answers, only its labels are open.

    Sources:
        Any-SSR (arXiv 2503.13575), and its released settings.
    """
    adapter = LowRank(
        rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules, above=blocks
    )
    routing = RidgeRouting(
        PooledStates(blocks, text=text, final_norm=True), dimension=dimension, relu=relu, lam=lam, scale=scale
    )
    return Method(
        title="Any-SSR (a LoRA for each task above the first blocks, told by ridge regression)",
        sources=("arXiv 2503.13575",),
        adapter=adapter,
        routing=routing,
    )
