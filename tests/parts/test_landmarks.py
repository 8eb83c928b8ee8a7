"""Which parts say whose a row is, and where the tasks' labels lie."""

from __future__ import annotations

import pytest
import torch

from helpers.tiny import tiny_host, tiny_task
from nacre.events import ignore
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.parts.evidence_posterior import Posterior, posterior
from nacre.parts.evidence_sums import ReadsSums, Sums
from nacre.parts.landmarks import Landmarks
from nacre.registry import build_method


@pytest.mark.parametrize(
    ("method", "settings", "infers"),
    [
        ("epi", {}, True),
        ("any_ssr", {}, True),
        ("code_lora", {}, True),
        ("latent_lora", {}, True),
        ("inc_lora+gaussian_routing", {}, True),
        ("inc_lora+gaussian_routing", {"gaussian_routing": {"top": 2}}, True),
        ("am_lora+gaussian_routing", {}, False),  # gates follow no slot
        ("mocl", {"composes": "all"}, True),
        ("mocl", {"composes": "predicted"}, True),
        ("mocl", {"composes": "predicted", "sharpness": None}, False),
        ("mocl", {"composes": "given"}, False),
        ("demix", {}, False),
        ("l2p", {}, False),
        ("sapt_lora", {}, False),
    ],
)
def test_a_routing_says_whether_it_infers_the_task(method: str, settings: dict[str, object], infers: bool) -> None:
    made = build_method(method, settings)
    assert made.routing is not None
    assert made.routing.infers_task(made.adapter) is infers


def test_a_readout_says_whether_it_leaves_rows_to_the_host() -> None:
    readouts = [build_method(name).readout for name in ("lda", "seq_ft+evidence", "seq_ft+evidence+abstention")]
    assert [readout is not None and readout.abstains for readout in readouts] == [False, False, True]


def test_labels_lie_where_the_sums_that_decide_have_their_means() -> None:
    host, method = tiny_host("t5"), build_method("inc_lora+gaussian_routing", {"gaussian_routing": {"views": "both"}})
    optim = Optim(batch_size=4, max_target_length=8)
    learner = Learner(host, method, optim=optim, on_event=ignore)
    (part,) = (part for part in method.parts if isinstance(part, ReadsSums))
    assert part.landmarks(learner) is None
    for name in ("plants", "animals"):
        learner.learn(tiny_task(name))
    known = learner.remembered(part, Sums)
    assert known is not None
    solved = posterior(learner, part.sums, known)
    found = part.landmarks(learner)
    assert isinstance(found, Landmarks)
    assert list(found.pairs) == [(task, label) for task in ("animals", "plants") for label in ("no", "yes")]
    row, text = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at = torch.cat([row @ solved.solved["prompt"][0], text @ solved.solved["bare"][0]])
    said = solved.log_evidence({"prompt": row[None], "bare": text[None]}, "both") * solved.temperatures["both"]
    assert torch.allclose(-2 * said[0], (found.whitened - at).square().sum(1))
    some = Posterior([("a", ""), ("b", "x")], {"bare": (torch.eye(2), torch.eye(2))}, {})
    alone = some.landmarks("bare")
    assert alone is not None
    assert (alone.pairs, alone.whitened.tolist()) == ([("b", "x")], [[0.0, 1.0]])
    assert Posterior([("a", "")], {"bare": (torch.eye(2), torch.eye(2)[:1])}, {}).landmarks("bare") is None
    learner.forget("animals")
    learner.forget("plants")
    assert part.landmarks(learner) is None
