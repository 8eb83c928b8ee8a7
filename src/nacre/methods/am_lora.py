"""AM-LoRA: an attentional mixture of the tasks' LoRAs."""

from typing import Literal

from nacre.adapters.gated import Gated
from nacre.method import Method, recorded
from nacre.models.roles import Role
from nacre.parts.penalty import GroupL1
from nacre.per_task import PerTask


@recorded
def am_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    selectors: Literal["all", "new"] = "all",
    sparsity: PerTask = 1e-5,
    zero_lora: bool = True,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """A LoRA a task, earlier ones frozen; at every site and for every token a softmax over the tasks decides how
    much of each LoRA's output is taken. No task identity, no stored data.

    Equations: y_i = s B_i A_i x, z_i = w_i . y_i, z_0 = 0, g = softmax(z_0 .. z_t), h = W x + sum_i g_i y_i
    (Eqs. 4, 5); loss = task loss + sparsity * sum over sites and tasks of |w_i| (Eq. 6).

    rank: dimensions r of each LoRA. alpha: s = alpha / rank. dropout: one mask on the input of all LoRAs.
    selectors: 'all' trains every task's w_i on the new task (AR in Fig. 5), 'new' only the newest (NR).
    sparsity: lambda of Eq. 6 (1e-5 in orders 1 to 3); a list gives one for each task, as for orders 4 to 6.
    zero_lora: whether y_0 = 0 takes part in the softmax.
    roles: which linear maps carry it; modules: their names' endings instead.

    Note: adding a task changes the function before any step is taken, because the new LoRA takes its share of the
    softmax. The gates depend on the input, so nothing can be folded into the host's weights.

    Sources: AM-LoRA (arXiv 2409.19611), sections 2.3, 2.4, 3.3; the choices where it is ambiguous: docs/fidelity.md.
    """
    adapter = Gated(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        selectors=selectors,
        zero_lora=zero_lora,
        roles=roles,
        modules=modules,
    )
    return Method(
        title="AM-LoRA (attentional mixture of LoRAs)",
        sources=("arXiv 2409.19611",),
        adapter=adapter,
        penalties=(GroupL1("selector", sparsity),),
    )
