"""MoELoRA: a fixed number of LoRAs, mixed token by token."""

from nacre.adapters.experts import Experts
from nacre.method import Method, method
from nacre.models.roles import Role


@method
def moe_lora(
    *,
    experts: int = 4,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """Mixture of LoRA experts: a dense softmax over all experts, for every token at every site; no balancing term.

    All experts and routers are trained on each task in turn, and nothing protects what they knew. The method knows no
    tasks. It costs `experts` times what one LoRA does.

    Equations:
        g(x) = softmax(W_g x), W_g in R^{E x d_in}
        h = W x + sum_e g_e(x) s B_e A_e x, s = alpha / rank

    Args:
        experts: E. MIGU takes as many as the stream has tasks, which the method cannot know: 4 in orders 1 to 3, 15 in
            orders 4 to 6.
        rank: Dimensions r of each expert.
        alpha: The experts' scale s is alpha / rank.
        dropout: On the experts' input; the router sees it as it is.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - MIGU says "vanilla" only: here all experts contribute, without the top-2 choice, the balancing loss and the
          contrastive loss of the method it names.
        - Rank, scale and rate as of one LoRA, for each expert; routers learn at the same rate.
        - W_g begins at zero: every expert has the share 1/E, and only the random A_e tell experts apart.
        - The router is computed in float32, whatever the host's precision.

    Sources:
        MIGU section 4.1 (the LoRA number equals the task number); MoELoRA (arXiv 2402.12851) without its losses.
    """
    adapter = Experts(rank=rank, alpha=alpha, dropout=dropout, roles=roles, modules=modules, experts=experts)
    return Method(
        title="MoELoRA (dense softmax over LoRA experts, no balancing)",
        sources=("arXiv 2402.12851",),
        adapter=adapter,
    )
