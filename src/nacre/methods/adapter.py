"""NCL-Adapter: one bottleneck adapter for the whole stream."""

from typing import Literal

from nacre.adapters.bottleneck import Bottleneck
from nacre.functional.bottleneck import Nonlinearity
from nacre.method import Method, method
from nacre.models.roles import Role


@method
def adapter(
    *,
    reduction: int = 16,
    nonlinearity: Nonlinearity = "gelu",
    start: Literal["identity", "near_identity"] = "identity",
    roles: tuple[Role, ...] = ("output", "ffn_out"),
    modules: tuple[str, ...] = (),
) -> Method:
    """Bottleneck adapters in a frozen host, trained on each task in turn and never reset (NCL-Adapter).

    There is one behind every attention and one behind every feed-forward block. Nothing is done against forgetting.

    Equations:
        h <- h + U f(D h + b) + c; D is m x d, U is d x m, m = d / reduction
        (D, b, U, c)_t = train((D, b, U, c)_{t-1}, D_t)

    Args:
        reduction: d / m. An adapter has 2 m d + d + m parameters.
        nonlinearity: f: 'gelu', 'relu' or 'silu' (swish).
        start: 'identity' begins with U = 0, so that the host's function is kept to the bit; 'near_identity' draws D and
            U with deviation 0.01 around 0, cut at two deviations, as first published.
        roles: Behind which linear maps they stand: 'output' is attention's, 'ffn_out' the feed-forward block's. With
            'ffn_out' alone there is one a layer, as in the released code of DAS.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - h is what the linear map gives. The host's dropout, residual addition and norm follow.
        - A decoder's attention to the encoder has an adapter of its own.
        - The host's norms stay frozen, as everything else of it (Houlsby et al. train them).
        - f is GELU, as in the models that the adapters were made for. No source names it for this baseline.

    Sources:
        Houlsby et al. 2019 (arXiv 1902.00751), section 2; as the baseline NCL-Adapter: Ke et al. 2023
        (arXiv 2302.03241). Reduction 16 and learning rate 1e-4 as in the released code of DAS.
    """
    placed = Bottleneck(reduction=reduction, nonlinearity=nonlinearity, start=start, roles=roles, modules=modules)
    return Method(title="NCL-Adapter (Houlsby)", sources=("arXiv 1902.00751", "arXiv 2302.03241"), adapter=placed)
