"""`+abstention`: what is of no task that was learned is answered by the bare host."""

from dataclasses import replace

from nacre.errors import RecipeError
from nacre.method import Method, modifier
from nacre.parts.abstention import Abstention
from nacre.parts.gaussian_routing import GaussianRouting
from nacre.parts.label_evidence import LabelEvidence


@modifier
def abstention(method: Method, *, known_share: float = 0.99, agreement: float = 0.5) -> Method:
    """A row is known, reworded or foreign, by sums alone. A foreign one is answered by the bare host, bit for bit.

    Equations:
        known: d_prompt <= q_prompt, d_v the squared distance to the nearest pair in view v, q_v(n) = c n^b times a
            quantile, for a prompt of n tokens: the trend of the held-out rows of its task and what they are around it
        reworded: d_bare <= q_bare, and sum over tasks i of p_prompt(i | x) p_bare(i | x) >= agreement
        foreign: all others
        a reworded row is answered by the bare text's evidence alone; a foreign one without evidence and adapter

    Args:
        method: The method to modify: one with +evidence, +gaussian_routing or both.
        known_share: Of a task's held-out rows, the share that counts as near.
        agreement: How probable it must be that prompt and text, each by itself, name the same task.

    Assumed:
        - Thresholds follow from the tasks' own rows; no foreign row is seen.
        - With one task learned both views name it, and the text's distance decides alone.
        - A foreign row of a task with labels is answered among these labels where the decoding says so, and freely
          otherwise. An encoder-only host, which has no answer of its own, gives none.

    Sources:
        Own.
    """
    rule = Abstention(known_share, agreement)
    readout, routing = method.readout, method.routing
    if not isinstance(readout, LabelEvidence) and not isinstance(routing, GaussianRouting):
        raise RecipeError(
            f"abstention has no sums to read in {method.display_name}: put it behind +evidence or +gaussian_routing."
        )
    if isinstance(readout, LabelEvidence):
        readout = replace(readout, abstention=rule)
    if isinstance(routing, GaussianRouting):
        routing = replace(routing, abstention=rule)
    return replace(method, readout=readout, routing=routing)
