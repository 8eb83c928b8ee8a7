"""What nacre costs, part by part, as ratios measured in one process: see measuring.py for how.

    make bench                                                  every part on T5-small's shape, float32
    python benchmarks/bench.py --parts steps --past 1 50 --rounds 3
    python benchmarks/bench.py --shape llama-60m --mixed-precision bf16 --parts steps full
    python benchmarks/bench.py --shape llama-2-7b --dtype bfloat16 --device cuda --parts steps --only am_lora

Prints a table and writes it (--output) as JSON, with the machine, the versions and the command, and as a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import accelerate
import answering
import between_tasks
import mixed_rows
import peft
import torch
import training
import transformers
from hosts import SHAPES, Hosts
from measuring import Measured, Variant, measure
from plot import draw

import nacre

PARTS = ("steps", "full", "starts", "sensitivity", "evaluation", "decision", "sorting", "rows", "saving", "memory")


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    device, dtype = torch.device(chosen.device), getattr(torch, chosen.dtype)
    hosts = Hosts(chosen.shape, dtype, device)
    if chosen.peak is not None:
        return print_peak(hosts, chosen)
    found: dict[str, list[Measured]] = {}
    for part in chosen.parts:
        print(f"\n{part}", flush=True)
        if part == "memory":
            names = training.low_rank(hosts, sorted({min(chosen.past), max(chosen.past)}), chosen.mixed_precision)
            found[part] = memory(chosen, [name for name in names if wanted(name, chosen)])
        else:
            found[part] = measure(made(part, hosts, chosen), chosen.rounds, device)
        show(found[part])
        if chosen.output is not None:  # after each part, so that a run that is stopped leaves what it has
            write(chosen, found)
    return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="t5-small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the host's weights")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no", help="autocast in training steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--past", type=int, nargs="+", default=[1, 5, 15, 50], help="numbers N of past tasks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", help="variants whose name begins like that; references are always there")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json, and OUTPUT.svg with the steps")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def made(part: str, hosts: Hosts, chosen: argparse.Namespace) -> dict[str, Variant]:
    """The part's variants, ready to run."""
    if part in ("steps", "full"):
        makers = (
            training.full(hosts, chosen.mixed_precision)
            if part == "full"
            else training.low_rank(hosts, chosen.past, chosen.mixed_precision)
        )
        return {name: make() for name, make in makers.items() if wanted(name, chosen)}
    several = [tasks for tasks in chosen.past if tasks > 1] or chosen.past
    variants = {
        "starts": lambda: between_tasks.starts(hosts, chosen.past),
        "sensitivity": lambda: between_tasks.sensitivities(hosts, several),
        "evaluation": lambda: answering.adapted(hosts, chosen.past),
        "decision": lambda: answering.decision(hosts),
        "sorting": lambda: answering.sorting(hosts),
        "rows": lambda: mixed_rows.mixed(hosts, chosen.past),
        "saving": lambda: between_tasks.saving(hosts, sorted({min(chosen.past), max(chosen.past)})),
    }[part]()
    return {name: variant for name, variant in variants.items() if wanted(name, chosen)}


def wanted(name: str, chosen: argparse.Namespace) -> bool:
    references = (training.PEFT, training.FULL, between_tasks.STEP, answering.BARE, answering.READING, answering.RANDOM)
    references += (mixed_rows.PEFT,)
    return chosen.only is None or name.startswith((*references, *chosen.only))


def memory(chosen: argparse.Namespace, names: list[str]) -> list[Measured]:
    """Peak main memory of a process of its own for each, beside PEFT's; large blocks are given back at once there."""
    peaks = {}
    for name in names:
        command = [sys.executable, __file__, "--shape", chosen.shape, "--dtype", chosen.dtype, "--peak", name]
        command += ["--mixed-precision", chosen.mixed_precision, "--device", chosen.device]
        command += ["--past", *map(str, chosen.past)]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks[name] = float(answer.stdout.split()[-1])
    base = peaks[training.PEFT]
    return [
        Measured(name, training.PEFT, [peak / base], [], extra={"peak_mb": peak / 1e6}) for name, peak in peaks.items()
    ]


def print_peak(hosts: Hosts, chosen: argparse.Namespace) -> None:
    """The most memory that this process, or the GPU, has had after three steps of one variant."""
    variant = training.low_rank(hosts, chosen.past, chosen.mixed_precision)[chosen.peak]()
    for _ in range(3):
        variant.run()
    print(torch.cuda.max_memory_allocated() if hosts.first.device.type == "cuda" else peak_bytes())


def peak_bytes() -> int:
    """Of this process. Linux's ``ru_maxrss`` would go on counting the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def show(found: list[Measured]) -> None:
    print(f"{'':<46}{'median':>8}{'min':>8}{'max':>8}{'s':>9}{'saved MB':>10}{'peak MB':>9}")
    for one in found:
        line = f"{one.name:<46}{one.median:>8.3f}{min(one.ratios):>8.3f}{max(one.ratios):>8.3f}"
        line += f"{min(one.seconds):>9.3f}" if one.seconds else " " * 9
        line += f"{one.saved / 1e6:>10.1f}" if one.saved is not None else " " * 10
        line += f"{one.extra['peak_mb']:>9.0f}" if "peak_mb" in one.extra else ""
        print(line.rstrip(), flush=True)


def write(chosen: argparse.Namespace, found: Mapping[str, list[Measured]]) -> None:
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    written = document(chosen, found)
    chosen.output.with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n")
    if "steps" in found:
        draw(written, chosen.output.with_suffix(".svg"))


def document(chosen: argparse.Namespace, found: Mapping[str, list[Measured]]) -> dict[str, object]:
    device = torch.device(chosen.device)
    return {
        **surroundings(device),
        "shape": chosen.shape,
        "dtype": chosen.dtype,
        "mixed_precision": chosen.mixed_precision,
        "device": device.type,
        "rounds": chosen.rounds,
        "parts": {part: [asdict(one) for one in measured] for part, measured in found.items()},
    }


def surroundings(device: torch.device) -> dict[str, object]:
    """The command, without this machine's folders; the machine and the versions."""
    words = [f"PATH/{Path(word).name}" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "python": platform.python_version(),
        "versions": {
            module.__name__: str(module.__version__) for module in (nacre, torch, transformers, peft, accelerate)
        },
    }


def processor() -> str:
    """The processor's own name where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"one thread of {names[0]}" if names else f"one thread of {platform.processor() or platform.machine()}"


if __name__ == "__main__":
    main()
