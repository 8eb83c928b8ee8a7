"""CoDe-LoRA: routed experts, each on top of a consolidated branch, and labels scored without their prior."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.errors import RecipeError
from nacre.method import Method, method
from nacre.models.pooled_states import Layer, PooledStates, Text
from nacre.models.roles import Role
from nacre.parts.branch_fusion import BranchFusion
from nacre.parts.calibrated_labels import CalibratedLabels
from nacre.parts.discriminant_routing import DiscriminantRouting
from nacre.parts.expert_labels import CalibrationKey


@method
def code_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.0,
    fusion: Literal["none", "calibrated", "full"] = "calibrated",
    calibration_key: CalibrationKey = "routed_task",
    calibration_rows: int | None = None,
    shrinkage: float | Literal["oas"] = 0.01,
    support: int | None = 1000,
    text: Text = "bare",
    layer: Layer = -1,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """An expert for each task on top of one branch that took in the earlier ones; labels are scored, not written.

    After a task its LoRA is kept as an expert, and folded into the branch. At test `de_lora`'s router chooses the
    expert, which answers on the branch that it was trained on. As published (fusion=full, calibration_key=true_task)
    validation rows of all tasks are kept, and the true task of a test row is used three times: for the labels that
    compete, their prior and the weight a. The default does neither.

    Equations:
        Training of task t: h = W x + Co_{t-1} x + E_t x, E_t = s B_t A_t, s = alpha / rank, only E_t is trained
        E'_t = (B_t - U U^T B_t) A_t s, U the left singular vectors of Co_{t-1}, Co_0 = 0
        Co_t = rank_r(sqrt((t - 1) / t) Co_{t-1} + sqrt(1 / t) E'_t), an exact truncated SVD
        L_b(c | x) = log p of label c with its end token; expert: W + Co_{k-1} + E_k of the routed task k, branch:
            W + Co_T
        q_b(c) = mean of softmax_c(L_b) over the validation rows of the labels' task + 1e-9
        PMI_b = log softmax_c(log softmax_c(L_b) - log q_b(c))
        answer = argmax_c a PMI_branch(c) + (1 - a) PMI_expert(c), c of the routed or the true task
        a = of 0, 0.1, 0.25, 0.5, 1 the best on those validation rows, of equals the smallest

    Args:
        rank: Dimensions r of each LoRA and of the branch; 8 as published.
        alpha: The LoRAs' scale s is alpha / rank; 32 as published.
        dropout: On the input of the LoRA that is trained; 0 as released.
        fusion: 'calibrated': a = 0, q of the expert alone, measured after its task; no row is kept. 'full': as above,
            fitted anew after each task on validation rows that are kept. 'none': answers are the expert's, written or
            chosen among labels as `decoding` says.
        calibration_key: Whose labels compete, with their q and a: those of the 'routed_task', or of the row's
            'true_task', as published, which must be given at test; it takes decode=labels.
        calibration_rows: Validation rows of a task that are read, drawn by the seed; null: all, as released.
        shrinkage: Of the router's covariance; 0.01 as released. 'oas': by the oracle approximating shrinkage.
        support: Rows of a task that the router reads, drawn by the seed; 1000 as released. null: all.
        text: What the router reads: the text alone ('bare', as released), or the whole 'prompt'.
        layer: Of the router's states; 0 is the embedding, -1 the last layer's output.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - The released code, not the paper's text, where they differ: the branch is frozen while an expert is trained,
          the expert is what is folded, and the SVD is exact. The router is de_lora's, and nothing falls back to the
          branch.
        - A task's q and a are those of its own expert, also for a row that is routed to another one.
        - With routed_task the labels that `decoding` offers are not looked at: a row that is routed to another task
          gets one of that task's labels.
        - A task without labels is written by the routed expert, and so is a row that is routed to one. A task without
          validation rows has no q and a: its labels' scores are taken as they are, and a warning says so.
        - The branch after each task is kept beside the experts, which doubles what is stored: a loaded learner has the
          same bits on any machine, as replayed folds would not. Folds are computed in float64.

    Note:
        Cutting the branch to rank r loses energy with each task. The projection is on outputs alone: U spans nothing
        of E'_t, while the row spaces of both may coincide. With a = 0 the branch still lies below the experts.

    Sources:
        CoDe-LoRA (EMNLP 2026, arXiv 2610.08312), and its released settings.
    """
    if fusion == "none" and calibration_key == "true_task":
        raise RecipeError("calibration_key: with fusion=none no label is calibrated; take calibrated or full.")
    routing = DiscriminantRouting(states=PooledStates(layer, text=text), shrinkage=shrinkage, support=support)
    readout = {"none": None, "calibrated": CalibratedLabels, "full": BranchFusion}[fusion]
    return Method(
        title="CoDe-LoRA (routed experts on a consolidated branch)",
        sources=("arXiv 2610.08312",),
        adapter=LowRank(rank=rank, alpha=alpha, dropout=dropout, roles=roles, modules=modules, branch=True),
        routing=routing,
        readout=None if readout is None else readout(routing, calibration_key, calibration_rows),
    )
