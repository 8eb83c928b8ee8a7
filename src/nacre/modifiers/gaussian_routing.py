"""`+gaussian_routing`: sums over the tasks' rows say which task an input is of, and its slot answers."""

from nacre.functional.gaussian_evidence import Along
from nacre.method import Method, modifier
from nacre.models.pooled_states import Layer
from nacre.parts.evidence_sums import SumsSettings, Views
from nacre.parts.gaussian_routing import GaussianRouting


@modifier
def gaussian_routing(
    method: Method,
    *,
    top: int | None = 1,
    zero_score: float = -4.0,
    views: Views = "both",
    layer: Layer = -1,
    ridge: float = 0.3,
    along: Along = "diagonal",
) -> Method:
    """The slots of the likeliest tasks answer a row, by one Gaussian a label on the frozen host's states.

    Equations:
        p(k | x) as in +evidence, p(i | x) = sum of p(k | x) over the labels k of task i
        slots with a sum: h = W x + sum over the m likeliest tasks i of (p(i | x) / their sum) s B_i A_i x
        gated slots (am_lora): g = softmax(z_0 + c_0, z_1 + log p(1 | x), .., z_t + log p(t | x))

    Args:
        method: The method to modify: it has a slot for each task, as inc_lora or am_lora.
        top: m; null: all tasks. Gates weight all of them.
        zero_score: c_0, of am_lora's zero LoRA.
        views: Read the 'prompt', the 'bare' text, or 'both'.
        layer: Of the states; 0 is the embedding, -1 the last layer's output.
        ridge: c of +evidence.
        along: Where c is added, as in +evidence.

    Assumed:
        - In training a row of slots with a sum is answered by its own task's slot alone. Gates see the posterior of the
          tasks up to the one being learned, as at test.
        - log p of a task is not taken to be less than -20.
        - A growing classification head answers with the labels of the slots that take part.

    Sources:
        Own. CoDe-LoRA (arXiv 2610.08312) routes by one Gaussian a task, which `de_lora` does.
    """
    sums = SumsSettings(layer=layer, ridge=ridge, along=along)
    return method.with_routing(GaussianRouting(sums, views, top, zero_score))
