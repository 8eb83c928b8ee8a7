"""Replay: full fine-tuning with a few rows of every past task mixed in."""

from dataclasses import replace

from nacre.method import Method, method
from nacre.methods.seq_ft import seq_ft
from nacre.modifiers.replay import replay as with_replay


@method
def replay(*, fraction: float = 0.02, per_task: int | None = None) -> Method:
    """Full fine-tuning on each task in turn, together with stored rows of all past tasks.

    Equations:
        theta_t = train(theta_{t-1}, D_t + M_1 + ... + M_{t-1}), shuffled together
        M_i a random sample of D_i without replacement, drawn once, |M_i| = max(1, floor(fraction |D_i|))

    Args:
        fraction: Share of a task's training rows that is kept; 0 keeps none.
        per_task: Number of rows kept of each task, instead of a share.

    Assumed:
        - 2 % of each task, as in MIGU's replay rows (FTReplay), mixed row by row into the epoch; O-LoRA and AM-LoRA
          state neither size nor mixing for the published row "Replay". A kept sample is drawn once; MIGU's release
          draws anew for each later task, for which all past data would have to be kept.

    Note:
        The number of steps grows with the rows kept.

    Sources:
        AM-LoRA section 3.2 and O-LoRA section 4 (Replay); MIGU section 4.1 (2 % of past tasks).
    """
    rehearsed = with_replay(seq_ft(), fraction=fraction, per_task=per_task)
    return replace(rehearsed, title="Replay (fine-tuning with stored rows)", sources=("arXiv 2409.19611, 3.2",))
