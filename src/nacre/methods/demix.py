"""DEMIX: a bottleneck adapter for each domain, begun as a copy of the nearest earlier one."""

from typing import Literal

from nacre.adapters.bottleneck import Bottleneck
from nacre.functional.bottleneck import Nonlinearity
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.expert_mixture import ExpertMixture
from nacre.parts.given_task import GivenTask
from nacre.parts.nearest_expert import NearestExpert


@method
def demix(
    *,
    reduction: int = 16,
    nonlinearity: Nonlinearity = "gelu",
    start: Literal["identity", "near_identity"] = "identity",
    sample: int = 10_000,
    answer_by: Literal["task", "mixture"] = "task",
    roles: tuple[Role, ...] = ("output", "ffn_out"),
    modules: tuple[str, ...] = (),
) -> Method:
    """A bottleneck adapter for each task; it begins as a copy of the earlier one that predicts the task best.

    Earlier adapters stay frozen. The task is given in training and at test, where its own adapter answers alone; or all
    of them predict a text together, whose task is unknown.

    Equations:
        h <- h + U_t f(D_t h + b_t) + c_t for rows of task t
        adapter t begins as adapter k* = argmin over k < t of the perplexity of the task's first rows under adapter k
        mixture: p(x_n | x_<n) = sum_k p(k | x_<n) p(x_n | x_<n, k), p(k | x_<n) proportional to p(x_<n | k)

    Args:
        reduction: d / m, see adapter.
        nonlinearity: f: 'gelu', 'relu' or 'silu' (swish).
        start: How the first adapter begins, see adapter.
        sample: How many of a task's first training rows choose k*, at most.
        answer_by: What answers: the adapter of the given 'task'; or, of unlabeled text in a decoder-only host, the
            'mixture' of all by their posterior.
        roles: Behind which linear maps the adapters stand, see adapter.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - Perplexity is that of what the task trains: hidden or next tokens of unlabeled text, the same ones under every
          adapter and without dropout; otherwise the targets, given the inputs. In an encoder-only host the rows of new
          classes are fresh then, so that the choice says little where no class was known before.
        - Of equal perplexities the older adapter is taken.
        - The mixture's prior is uniform, and begins anew with every chunk of a text.
        - A task that was never learned is answered by the newest adapter.

    Sources:
        Gururangan et al. 2022 (arXiv 2108.05036); with adapters: Ke et al. 2023 (arXiv 2302.03241), whose released code
        stops before the copy; 10,000 chunks and reduction 16 as there.
    """
    adapter = Bottleneck(
        reduction=reduction,
        nonlinearity=nonlinearity,
        start=start,
        slots="per_task",
        roles=roles,
        modules=modules,
    )
    return Method(
        title="DEMIX (an adapter a domain)",
        sources=("arXiv 2108.05036", "arXiv 2302.03241"),
        adapter=adapter,
        start=NearestExpert(sample),
        routing=GivenTask() if answer_by == "task" else None,
        readout=ExpertMixture() if answer_by == "mixture" else None,
    )
