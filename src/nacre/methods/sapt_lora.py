"""SAPT-LoRA: one attention over task keys weights the LoRAs of all tasks, in training and at test."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.attentive_reflection import KeptInputs, Reflection
from nacre.parts.part import Memory
from nacre.parts.pseudo_inputs import PseudoInputs
from nacre.parts.shared_attention import SharedAttention
from nacre.parts.wording import Wording
from nacre.per_task import PerTask


@method
def sapt_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.0,
    reflection: PerTask = 0.1,
    fraction: float = 0.02,
    inputs: Literal["pseudo", "real"] = "pseudo",
    generator_steps: int = 5000,
    generator_rate: float = 1e-3,
    draws: int = 4,
    top_k: int | None = 20,
    max_length: int = 512,
    cue: str = "Write an example.",
    separator: str = "Answer:",
    attention_width: int = 100,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """SAPT-LoRA: a LoRA and a key for each task; one attention over the keys weights all LoRAs at every site.

    The same weights of a row hold in all layers, in training and at test, and no task is given at test. On inputs of
    earlier tasks the attention is held where those tasks left it. A generator of each task writes these inputs, so that
    no row is kept; an encoder-only host cannot write, and takes `inputs=real`.

    Equations:
        e(x) = in each dimension the largest of the input's word embeddings
        q(x) = LayerNorm(SiLU(W_2 W_1 e)), a(x) = softmax(K q / sqrt(d)), K = [k_1 .. k_t]
        h = W x + sum_i a_i(x) s B_i A_i x, s = alpha / rank
        loss = task loss + lambda sum_{i<t} mean over inputs x' of task i of KL(abar_i || a(x'))
        abar_i = mean of a over task i's training inputs once it is learned, 0 for later keys
        Of task t, its LoRA, k_t, W_1, W_2 and the layer norm are trained.
        x' ~ p(. | G; R_i), and R_i, a further LoRA in the bare host, is taught after task i: -log p("x A y" | G; R_i)

    Args:
        rank: Dimensions r of each LoRA; 8 in the paper for long streams.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the input of the LoRA that is trained; 0 in the paper.
        reflection: lambda; a list gives one for each task. Published: 0.1 (T5, long), 0.5 (T5, SuperNI), 2 and 1
            (Llama).
        fraction: As many inputs x' of a task are read as this share of its rows, at least one; 2 % in the paper. 0
            reads none, and nothing is held.
        inputs: `pseudo`: generators write the inputs. `real`: inputs of the training rows are kept, without answers,
            and no generator is taught.
        generator_steps: Steps that each generator is taught for, in whole epochs; 5000 in the paper.
        generator_rate: Its learning rate.
        draws: Samples for each input that is to be read.
        top_k: Among so many most likely words each is drawn; null draws among all.
        max_length: Tokens of a written row, at most.
        cue: G, what a generator reads; {task} would stand for the task's name.
        separator: A, what stands between text and answer.
        attention_width: Inner dimensions of the query's projection.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - A generator learns text and answer, as the release does, and a sample counts if the separator stands in it
          once and the answer is one of the task's labels; of what counts, the first ones are kept. The task's
          instruction is not written, but put around the text as in a row. Answers are not used.
        - R_i has the form of a task's LoRA, and the task's batch size and schedule; where its steps end inside an
          epoch, it finishes that. A text too long to be written loses its end.
        - Generators are kept, and write anew before each later task, from other seeds. The release writes one set for
          each task beforehand.
        - G is words. The release reads a constant of up to five tokens.
        - abar is a mean over training inputs, each with the same share; the release takes its dev rows, which are its
          test rows, and a mean of batch means.
        - The second term is the mean over all inputs x' in every step, not over a batch of them. It is not multiplied
          by the number of accumulated micro-batches, as it is in the release.
        - Padding has no part in e(x). With one task the weight is 1, so that keys and projection are trained from the
          second task on.
        - Keys begin uniform between -1 and 1, W_1 and W_2 as dense layers do.

    Sources:
        SAPT (arXiv 2401.08295), section 3, and its released settings.
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
    writes = inputs == "pseudo" and fraction != 0
    memory: Memory = KeptInputs(fraction)
    if writes:
        wording = Wording(cue, separator, max_length)
        memory = PseudoInputs(fraction, adapter, generator_steps, generator_rate, wording, draws, top_k)
    return Method(
        title=f"SAPT-LoRA (shared attention, with {'written' if writes else 'kept'} inputs)",
        sources=("arXiv 2401.08295",),
        adapter=adapter,
        routing=SharedAttention(attention_width),
        memory=memory,
        penalties=(Reflection(reflection),),
    )
