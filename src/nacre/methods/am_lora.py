"""AM-LoRA: an attentional mixture of the tasks' LoRAs."""

from typing import Literal

from nacre.adapters.gated import Gated
from nacre.functional.gating import Activation
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.penalty import GroupL1
from nacre.parts.soft_threshold import SoftThreshold
from nacre.parts.start_offset import StartOffset
from nacre.per_task import PerTask, all_values


@method
def am_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    dropout_on: Literal["all", "new"] = "all",
    selectors: Literal["all", "new"] = "all",
    selector_start: Literal["kaiming", "zeros", "mean_of_old"] = "kaiming",
    selector_rate: float = 1.0,
    selector_input: Literal["scaled", "unscaled"] = "scaled",
    activation: Activation = "none",
    zero_lora: bool | Literal["learned"] = True,
    keep_gates: int | None = None,
    sparsity: PerTask = 1e-5,
    sparsity_by: Literal["gradient", "proximal"] = "gradient",
    sparsity_reduce: Literal["sum", "mean"] = "sum",
    start_offset: PerTask = 0.0,
    offset_steps: int = 100,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
    cross_attention: bool = True,
) -> Method:
    """Attentional mixture of LoRAs: a softmax over the tasks' LoRAs, for every token at every site.

    Each task gets a LoRA, and earlier ones stay frozen. A gate decides for each token how much of each LoRA's output is
    taken. There is no task identity and no stored data.

    Equations:
        y_i = s B_i A_i x, z_i = w_i . y_i, z_0 = 0
        g = softmax(z_0 .. z_t), h = W x + sum_i g_i y_i (Eqs. 4, 5)
        loss = task loss + sparsity * sum over sites and tasks of |w_i| (Eq. 6)

    Args:
        rank: Dimensions r of each LoRA; 8 in the paper.
        alpha: The LoRAs' scale s is alpha / rank; 32 in the paper.
        dropout: On the LoRAs' input; 0.1 in the paper.
        dropout_on: 'all' drops it for old and new LoRAs with one mask, 'new' for the new one only.
        selectors: 'all' trains every task's w_i on the new task (AR in Fig. 5), 'new' only the newest (NR).
        selector_start: Of w_t: 'kaiming', uniform in +-1/sqrt(d_out); 'zeros'; 'mean_of_old', the mean of w_1 ..
            w_{t-1}.
        selector_rate: Learning rate of the selectors, and of a learned z_0, in multiples of the LoRA's.
        selector_input: What w_i is multiplied with, y_i ('scaled') or y_i / s ('unscaled').
        activation: z_i = w_i . y_i ('none', as in Eq. 4), or its 'tanh' or 'relu' (the text calls the selector
            non-linear).
        zero_lora: true: y_0 = 0 takes part in the softmax with z_0 = 0; false: it does not; 'learned': z_0 is one
            trained number per site, 0 at first.
        keep_gates: k, off by default. At every site only the k tasks whose gates, summed over the batch's tokens,
            are largest are computed. The softmax stays over all tasks, and the others are missing from the sum.
            While a task is learned it is one of the k. With k or fewer tasks nothing changes.
        sparsity: lambda of Eq. 6; a list gives one for each task. Published: 1e-5 for orders 1 to 3; order 4:
            [0, .01, .01, .01, .01, .01, .3, .001, .001, .001, .001, .001, .001, .001, .001]; order 5:
            [.0001, .0001, .001, .001, .001, .001, .001, .001, .001, .001, .01, .01, .01, .01, .01]; order 6: .001.
        sparsity_by: 'gradient' adds the term to the loss; 'proximal' subtracts learning rate * lambda from every
            |w| after each step, down to an exact 0.
        sparsity_reduce: 'sum' as in Eq. 6; 'mean' divides it by the number of entries.
        start_offset: c, one number or one for each task. From the second task on the new score is z_t - c max(0, 1
            - step / offset_steps) while it is learned, so that opening a LoRA takes less from the others.
        offset_steps: Steps over which the offset falls to 0; all of a task's steps if it has fewer.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.
        cross_attention: Whether the roles include a decoder's attention to the encoder.

    Assumed:
        - A softmax for every token and site, because Eq. 5 stands inside one linear map.
        - w_i has d_out numbers and no bias, as the paper's count of 4096 x 1 says; y_i includes s.
        - All w_i are trained, which is better in Fig. 5, and penalized, summed over sites.
        - The zero LoRA has no selector, which could do nothing; w_t begins as a dense layer does.
        - Query and value carry it, as in Fig. 4 ("key and value" stands once in the text), cross-attention's too.
        - Of options that no paper has: a learned z_0 goes on through all tasks and is not penalized.
        - Of options that no paper has: start_offset spares the first task, which takes nothing from another.
        - Of options that no paper has: under keep_gates the scores of tasks left out are constants, so that the
          task loss does not train their selectors in that step; sparsity and the optimizer's momentum still move
          them.

    Note:
        With keep_gates an output depends on the rest of its batch, padding included, because a site cannot tell padding
        apart. How much is left out, in shares of the softmax by site: `evaluation/gates.dropped_gates`.

        Adding a task changes the function before any step is taken, because the new LoRA takes its share of the
        softmax. The gates depend on the input, so nothing can be folded into the host's weights.

    Sources:
        AM-LoRA (arXiv 2409.19611), Eqs. 1 to 6, Fig. 5, and its appendix for the settings; the choices where it is
        ambiguous: docs/fidelity.md. Own options, not the paper's: dropout_on, selector_start, selector_rate,
        selector_input, activation, zero_lora other than true, keep_gates, sparsity_by, sparsity_reduce, start_offset.
    """
    adapter = Gated(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        dropout_on=dropout_on,
        selectors=selectors,
        selector_start=selector_start,
        selector_rate=selector_rate,
        selector_input=selector_input,
        activation=activation,
        zero_lora=zero_lora,
        keep_gates=keep_gates,
        roles=roles,
        modules=modules,
        cross_attention=cross_attention,
    )
    proximal = sparsity_by == "proximal"
    offset = StartOffset(start_offset, offset_steps)
    return Method(
        title="AM-LoRA (attentional mixture of LoRAs)",
        sources=("arXiv 2409.19611",),
        adapter=adapter,
        penalties=() if proximal else (GroupL1("selector", sparsity, sparsity_reduce),),
        gradient_rules=(
            *((SoftThreshold("selector", sparsity, sparsity_reduce),) if proximal else ()),
            *((offset,) if any(all_values(start_offset)) else ()),
        ),
    )
