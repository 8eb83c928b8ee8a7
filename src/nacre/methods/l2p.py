"""L2P: a pool of prompts, of which each input chooses its own by their keys."""

from typing import Literal

from nacre.adapters.prompt import Prompt
from nacre.errors import RecipeError
from nacre.method import Method, method
from nacre.models.pooled_states import PooledStates
from nacre.parts.prompt_pool import KeyPull, PromptPool
from nacre.per_task import PerTask


@method
def l2p(
    *,
    pool: int = 10,
    prompt_length: int = 10,
    select: int = 4,
    pull: PerTask = 0.5,
    diversify: Literal["off", "frequency", "smoothed"] = "off",
    query_layer: int = -1,
    query_pooling: Literal["mean", "first", "last"] = "mean",
) -> Method:
    """Learning to Prompt: one pool of prompts for all tasks; an input's query chooses those that stand in front of it.

    The host is frozen. No task is given, in training or at test, and the pool does not grow.

    Equations:
        pool P_1 ... P_M in R^{l x d} with keys k_1 ... k_M; q(x): pooled states of the input in the bare host
        gamma(q, k) = 1 - cos(q, k)
        K_x = the N keys with the smallest gamma(q(x), k_i)
            in training, diversified: with the smallest gamma(q(x), k_i) h_i, h_i how often earlier tasks chose P_i
        input: [P_{s_1} ; ... ; P_{s_N} ; E(x)], s_i the numbers in K_x, in rising order
        loss = task loss + lambda mean over rows of sum_{i in K_x} gamma(q(x), k_i)
        The task loss reaches the chosen prompts alone, the second term the chosen keys alone.

    Args:
        pool: M, prompts of the pool.
        prompt_length: l, tokens of a prompt.
        select: N, prompts in front of an input.
        pull: lambda; a list gives one for each task.
        diversify: 'off' chooses in training as at test. 'frequency' multiplies gamma by h_i = n_i / sum n, under which
            a prompt that was never chosen comes first; 'smoothed' by (n_i + 1) / (sum n + M).
        query_layer: Of the stack that reads the input: 0 is the embedding, -1 the last layer's output.
        query_pooling: Over the input's tokens without padding: their mean, the first or the last one.

    Assumed:
        - The query is the mean of the last layer's states; the vision models of the paper have a class token
          (`query_pooling=first`).
        - Every row chooses for itself. The release lets a batch vote, so that a row's answer depends on its neighbors.
        - Chosen prompts stand in the order of their numbers, which the paper leaves open.
        - No released code has h_i. The released prompt mask, which fixes the prompts of each task in training, is left
          out.
        - Keys begin uniform between -1 and 1, prompts as the embeddings of random words.
        - The host answers as it does otherwise; the paper classifies by the mean of the prompts' outputs.

    Sources:
        L2P (arXiv 2112.08654), Eqs. 3 to 5; M 10, l 10, N 4 as released for CIFAR-100, lambda 0.5 as for 5-datasets.
    """
    if not 0 < select <= pool:
        raise RecipeError(f"select = {select}: between 1 and {pool}, the prompts of the pool, can be chosen.")
    if prompt_length < 1:
        raise RecipeError(f"prompt_length = {prompt_length}: a prompt has at least one token.")
    routing = PromptPool(pool, prompt_length, select, PooledStates(query_layer, query_pooling), diversify)
    return Method(
        title="L2P (learning to prompt)",
        sources=("arXiv 2112.08654",),
        adapter=Prompt(tokens=pool * prompt_length, placeholders=select * prompt_length),
        routing=routing,
        batch_terms=(KeyPull(pull),),
    )
