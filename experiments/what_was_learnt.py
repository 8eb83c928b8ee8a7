"""What runs have learnt, from their folders: how large the update of the weights has become, and who is let through.

    python experiments/what_was_learnt.py MODEL RUN [RUN ...]

For each stage of runs with summed LoRAs: ||sum of all updates|| / ||W|| and ||newest update|| / ||W||, over all sites
together. For gated runs, after the last task: the mean gate of the task's own LoRA on its inputs, the mean of the
largest gate of each site, and what uniform gates would be; and how alike a LoRA's mean outputs y_i on two tasks' inputs
are, as a cosine, over all sites, LoRAs and pairs of tasks (a selector w_i sees nothing but y_i). docs/results.md and
docs/fidelity.md quote them.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from nacre.adapters.gated import PlacedGated
from nacre.features.site_inputs import read_site_inputs
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.models.families import Encoded
from nacre.models.loading import load_host
from nacre.runs.recipe import read_recipe
from nacre.tasks.task import Task

SCALES = {"lb_cl": 1.0}
"""s of the updates; the other methods' default is alpha / rank = 4."""


def update_sizes(run: Path, weights: dict[str, Tensor]) -> list[str]:
    """A line for each stage."""
    method = json.loads((run / "results.json").read_text())["method"]
    scale = SCALES.get(method.partition("+")[0], 4.0)
    lines = []
    for stage in sorted(run.glob("tasks/*/adapter.safetensors")):
        tensors = checkpoint.read(stage.parent).owners["adapter"].tensors
        whole = newest = base = torch.zeros(())
        for site in sorted(name.removesuffix(".past_down") for name in tensors if name.endswith(".past_down")):
            update = _update(tensors, site)
            earlier = [
                (up.T * tensors[f"{site}.past_sigma"][i] if f"{site}.past_sigma" in tensors else up.T) @ down
                for i, (down, up) in enumerate(
                    zip(tensors[f"{site}.past_down"], tensors[f"{site}.past_up"], strict=True)
                )
            ]
            if f"{site}.origin_down" in tensors:  # updates that count from their start
                pairs = list(zip(tensors[f"{site}.origin_down"], tensors[f"{site}.origin_up"], strict=True))
                starts = [up.T @ down for down, up in pairs]
                earlier, update = [*earlier, *(-start for start in starts[:-1])], update - sum(starts[-1:])
            whole = whole + (scale * (update + sum(earlier))).square().sum()
            newest = newest + (scale * update).square().sum()
            base = base + weights[f"{site}.weight"].float().square().sum()
        sizes = f"all {(whole / base).sqrt():.3f}, newest {(newest / base).sqrt():.3f}"
        lines.append(f"  after {stage.parent.name}: {sizes}")
    return lines


def _update(tensors: Mapping[str, Tensor], site: str) -> Tensor:
    """B_t A_t, or U_t diag(sigma_t) V_t, [d_out, d_in]."""
    up = tensors[f"{site}.up.weight"]
    if f"{site}.sigma" in tensors:
        up = up * tensors[f"{site}.sigma"]
    return up @ tensors[f"{site}.down.weight"]


def gates(run: Path) -> list[str]:
    """One line, of the last stage's gates."""
    files = sorted(run.glob("tasks/*/gates.json"))
    tasks = json.loads(files[-1].read_text())["tasks"]
    sites = [(task, dict(site["gates"])) for task, found in tasks.items() for site in found]
    own = statistics.mean(values[task] for task, values in sites)
    largest = statistics.mean(max(values.values()) for _, values in sites)
    return [f"  own gate {own:.3f}, largest gate of a site {largest:.3f}, uniform {1 / (len(tasks) + 1):.3f}"]


@torch.no_grad()
def alikeness(run: Path, model: Path) -> str:
    """How alike the LoRAs' mean outputs on the tasks' inputs are, of the last stage, on 32 test rows of each task."""
    learner = Learner.load(sorted(run.glob("tasks/*"))[-1], load_host(str(model)))
    assert isinstance(learner.adapter, PlacedGated)
    means = [_mean_inputs(learner, task) for task in read_recipe(run / "recipe.yaml", {}, ()).tasks()]
    found = []
    for name, site in learner.adapter.sites.items():
        down, up = site.slots.all_pairs()
        inputs = torch.stack([by_site[name] for by_site in means]).to(down)  # [tasks, d_in]
        outputs = torch.einsum("nd,trd,tro->tno", inputs, down, up)  # y_i on each task's mean input, without the scale
        for first, second in itertools.combinations(range(len(means)), 2):
            found.append(torch.cosine_similarity(outputs[:, first], outputs[:, second], dim=-1))
    cosines = torch.cat(found).double()
    return f"  cosine of y_i on two tasks: mean {cosines.mean():.3f}, lowest tenth below {cosines.quantile(0.1):.3f}"


def _mean_inputs(learner: Learner, task: Task) -> dict[str, Tensor]:
    """The mean over the tokens that each site reads; what a linear map makes of it is its mean output."""
    sums: dict[str, tuple[Tensor, int]] = {}

    def add(name: str, inputs: Tensor) -> None:
        total, number = sums.get(name, (torch.zeros(()), 0))
        sums[name] = (total + inputs.double().sum(0), number + len(inputs))

    rows = sorted(learner.encode(task.examples("test")[:32]), key=Encoded.length)
    read_site_inputs(learner.host, rows, list(learner.adapter.sites), add, batch_size=4)
    return {name: total / number for name, (total, number) in sums.items()}


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    weights = load_file(Path(sys.argv[1]) / "model.safetensors")
    for run in map(Path, sys.argv[2:]):
        print(run.name)
        if any(run.glob("tasks/*/gates.json")):
            print("\n".join([*gates(run), alikeness(run, Path(sys.argv[1]))]))
        else:
            print("\n".join(update_sizes(run, weights)))


if __name__ == "__main__":
    main()
