"""Replay: full fine-tuning with a few rows of every past task mixed in."""

from nacre.adapters.full import Full
from nacre.method import Method, recorded
from nacre.parts.rehearsal import Rehearsal


@recorded
def replay(*, fraction: float = 0.02, per_task: int | None = None) -> Method:
    """All parameters are trained on each task in turn, together with stored rows of all past tasks.

    Equations: theta_t = train(theta_{t-1}, D_t + M_1 + ... + M_{t-1}), shuffled together; M_i a random sample of D_i
    without replacement, drawn once, |M_i| = max(1, floor(fraction |D_i|)).

    fraction: share of a task's training rows that is kept (0 keeps none). per_task: so many rows of each task instead.

    The number of steps grows with the rows kept.

    Assumed: 2 % of each task, as in MIGU's replay rows (FTReplay), mixed row by row into the epoch; O-LoRA and AM-LoRA
    state neither size nor mixing for the published row "Replay". A kept sample is drawn once; MIGU's release draws anew
    for each later task, for which all past data would have to be kept.

    Sources: AM-LoRA section 3.2 and O-LoRA section 4 (Replay); MIGU section 4.1 (2 % of past tasks).
    """
    return Method(
        title="Replay (fine-tuning with stored rows)",
        sources=("arXiv 2409.19611, 3.2",),
        adapter=Full(),
        memory=Rehearsal(fraction, per_task),
    )
