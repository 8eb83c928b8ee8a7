"""SAPT-LoRA: one attention over task keys weights the LoRAs of all tasks, in training and at test."""

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.attentive_reflection import KeptInputs, Reflection
from nacre.parts.shared_attention import SharedAttention
from nacre.per_task import PerTask


@method
def sapt_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.0,
    reflection: PerTask = 0.1,
    fraction: float = 0.02,
    attention_width: int = 100,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """SAPT-LoRA: a LoRA and a key for each task; one attention over the keys weights all LoRAs at every site.

    The same weights of a row hold in all layers, in training and at test, and no task is given at test. On inputs of
    earlier tasks the attention is held where those tasks left it. The inputs are real ones that were kept, without
    answers; the paper's are generated.

    Equations:
        e(x) = in each dimension the largest of the input's word embeddings
        q(x) = LayerNorm(SiLU(W_2 W_1 e)), a(x) = softmax(K q / sqrt(d)), K = [k_1 .. k_t]
        h = W x + sum_i a_i(x) s B_i A_i x, s = alpha / rank
        loss = task loss + lambda sum_{i<t} mean over kept inputs of task i of KL(abar_i || a(x))
        abar_i = mean of a over task i's training inputs once it is learned, 0 for later keys
        Of task t, its LoRA, k_t, W_1, W_2 and the layer norm are trained.

    Args:
        rank: Dimensions r of each LoRA; 8 in the paper for long streams.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the input of the LoRA that is trained; 0 in the paper.
        reflection: lambda; a list gives one for each task. Published: 0.1 (T5, long), 0.5 (T5, SuperNI), 2 and 1
            (Llama).
        fraction: Share of a task's inputs that is kept, at least one; 2 % of pseudo inputs in the paper. 0 keeps none,
            and nothing is held.
        attention_width: Inner dimensions of the query's projection.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - Kept inputs are drawn from the training rows. The paper's generator, a further LoRA for each task, is left
          out: this variant is the bound that pseudo inputs approach.
        - abar is a mean over training inputs, each with the same share; the release takes its dev rows, which are its
          test rows, and a mean of batch means.
        - The second term is the mean over all kept inputs in every step, not over a batch of them. It is not multiplied
          by the number of accumulated micro-batches, as it is in the release.
        - Padding has no part in e(x). With one task the weight is 1, so that keys and projection are trained from the
          second task on.
        - Keys begin uniform between -1 and 1, W_1 and W_2 as dense layers do.

    Sources:
        SAPT (arXiv 2401.08295), section 3, and its released settings.
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
    return Method(
        title="SAPT-LoRA (shared attention, with kept inputs)",
        sources=("arXiv 2401.08295",),
        adapter=adapter,
        routing=SharedAttention(attention_width),
        memory=KeptInputs(fraction),
        penalties=(Reflection(reflection),),
    )
