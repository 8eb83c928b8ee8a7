"""SeqFT: full fine-tuning, task after task."""

from nacre.adapters.full import Full
from nacre.method import Method, method


@method
def seq_ft() -> Method:
    """Full fine-tuning: all parameters are trained on each task in turn, nothing is held back. The field's lower bound.

    Equations:
        theta_t = train(theta_{t-1}, D_t).

    Note:
        The published scores (28.5 on orders 1 to 3 with T5-large) come from a learning rate that is too high;
        MIGU's grid reaches 75.7 with 1e-4, which is the default here.

    Sources:
        AM-LoRA section 3.2 (SeqFT); MIGU (FT), whose grid over learning rates is in docs/fidelity.md.
    """
    return Method(title="SeqFT", sources=("arXiv 2409.19611, 3.2",), adapter=Full())
