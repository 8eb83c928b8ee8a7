"""MoCL: modules of all tasks, composed by the input's similarity to learned task vectors."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.adapters.prompt import Prompt
from nacre.method import Method, method
from nacre.models.pooled_states import PooledStates
from nacre.models.roles import Role
from nacre.parts.key_matching import KeyMatching, Matching
from nacre.per_task import PerTask


@method
def mocl(
    *,
    slot: Literal["lora", "prompt"] = "lora",
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    prompt_length: int = 50,
    sharpness: float | None = 8.0,
    matching: PerTask = 1.0,
    matching_of: Literal["cosine", "weight"] = "cosine",
    composes: Literal["given", "predicted", "all"] = "given",
    key_start: Literal["uniform", "normal"] = "uniform",
    key_rate: float = 1.0,
    query_layer: int = -1,
    query_pooling: Literal["mean", "first", "last"] = "mean",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """MoCL: a module and a task vector for each task; an input's similarity to the vectors weights all modules.

    New tasks reuse earlier modules, which stay frozen with their vectors. Nothing of earlier tasks is stored or
    replayed. The bare model reads every input once more, for the query.

    Equations:
        q(x) = mean over the input's tokens of the bare model's last hidden states, c_i = cos(q, v_i)
        w = softmax(kappa c) over i <= j, j the row's task
        h = W x + sum_i w_i s B_i A_i x, s = alpha / rank; or the prompt sum_i w_i P_i in front of the input
        loss = task loss + eta mean over rows of (1 - c_t)
        Of task t, its module and v_t are trained. At test j is given, argmax_i c_i, or the newest task.

    Args:
        slot: 'lora', a LoRA for each task, or 'prompt', a soft prompt for each.
        rank: Dimensions r of each LoRA; 4 in the paper for Llama.
        alpha: The LoRAs' scale s is alpha / rank; 16 in the paper for Llama.
        dropout: On the input of the LoRA that is trained.
        prompt_length: Length of each soft prompt ('prompt' only); 50 in the paper for T5.
        sharpness: kappa, 8 as released; null is the 'direct' variant, w = c.
        matching: eta; a list gives one for each task.
        matching_of: The matching term's 1 - c_t ('cosine', all released scripts) or 1 - w_t ('weight').
        composes: At test: modules up to the row's 'given' task, as in the reported results; up to the 'predicted' one,
            argmax_i c_i; or 'all'. With the last two no task is known at test. Say which one a number is of.
        key_start: Of v_t: 'uniform' in [0, 1) as released, where all cosines begin high, or 'normal'.
        key_rate: Learning rate of v_t, in multiples of the modules'.
        query_layer: Of the stack that reads the input: 0 is the embedding, -1 the last layer's output.
        query_pooling: Over the input's tokens without padding: their mean, the first or the last one.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - Published with a prefix of keys and values in every layer, or with LoRA; here LoRA, or a prompt at the input.
        - Each row has its own weights, and s stays. The release averages weights over a batch for LoRA, drops s when
          modules are composed, and composes up to the largest predicted task of a batch.
        - Queries are those of the pretrained model (the released one for Llama is initialized at random), without
          padding.
        - The module and v_t of the last step are kept, not those of the best epoch.
        - The optional orthogonality of the vectors is left out.

    Sources:
        MoCL (arXiv 2404.00790), section 3, and its released settings; data budgets there are 16 rows per class.
    """
    adapter = (
        LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
        if slot == "lora"
        else Prompt(tokens=prompt_length, slots="per_task", weighted=True)
    )
    routing = KeyMatching(PooledStates(query_layer, query_pooling), sharpness, composes, key_start, key_rate)
    return Method(
        title="MoCL (modular and compositional continual learning)",
        sources=("arXiv 2404.00790",),
        adapter=adapter,
        routing=routing,
        batch_terms=(Matching(matching, matching_of),),
    )
