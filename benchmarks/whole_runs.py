"""What a whole run costs in seconds of the processor: `nacre run` beside two ways to do the same with PEFT.

    python benchmarks/whole_runs.py --data $NACRE_DATA/long_sequence --model PATH/minilm-b2b --rounds 3

Each way is a process of its own with one thread, started in turns; printed is the median of the user and system seconds
of each, start-up included. All of them learn the same rows of order1 (256 a task) and answer the same 200 test rows of
every task before any learning and after each task. The ways with PEFT train a LoRA a task and merge it when the next
one begins (IncLoRA): a loop as short as it can be, and transformers' Seq2SeqTrainer.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RATE = 1e-3
LENGTH = 128
"""Tokens of an input, at most."""
RANK, ALPHA = 8, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=256)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--way", choices=["loop", "trainer"], help="be one of the processes")
    chosen = parser.parse_args()
    if chosen.way is not None:
        continually(chosen, {"loop": by_loop, "trainer": by_trainer}[chosen.way])
        return
    ways = {
        "nacre, inc_lora": nacre(chosen, "inc_lora"),
        "nacre, am_lora": nacre(chosen, "am_lora"),
        "PEFT, a loop": [sys.executable, __file__, *sys.argv[1:], "--way", "loop"],
        "PEFT, Seq2SeqTrainer": [sys.executable, __file__, *sys.argv[1:], "--way", "trainer"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name, command in ways.items():
            seconds[name].append(processor_seconds(command))
            print(f"{name}: {seconds[name][-1]:.1f}", flush=True)
    least = statistics.median(seconds["PEFT, a loop"])
    print(f"\n| | CPU seconds, median of {chosen.rounds} | of the loop's |\n|---|---|---|")
    for name, found in seconds.items():
        print(f"| {name} | {statistics.median(found):.1f} | {statistics.median(found) / least:.2f} |")


def nacre(chosen: argparse.Namespace, method: str) -> list[str]:
    """The command line of a run."""
    sizes = ["--limit-train", str(chosen.train), "--limit-test", str(chosen.test)]
    return [
        *(sys.executable, "-m", "nacre", "run", "--method", method, "--stream", "order1", "--data", chosen.data),
        *("--model", chosen.model, *sizes, "--set", f"optim.learning_rate={RATE}"),
        *("--set", f"optim.max_source_length={LENGTH}"),
    ]


def processor_seconds(command: Sequence[str]) -> float:
    """User and system seconds of a command, in a folder of its own and with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def continually(chosen: argparse.Namespace, train: Callable[..., None]) -> None:
    """Learn task after task with PEFT, and answer all tasks before and after each."""
    import peft
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from nacre.learning.settings import Optim
    from nacre.runs.recipe import Recipe

    optim = Optim()
    sizes = {"limit_train": chosen.train, "limit_test": chosen.test}
    tasks = Recipe.model_validate({"method": "inc_lora", "stream": "order1", "data": chosen.data, **sizes}).tasks()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    # In float32, as nacre computes: by itself transformers takes the stored type, and float16 is slow on a processor.
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(chosen.model, dtype=torch.float32)
    longest = {task.name: max(len(tokenizer(label)["input_ids"]) for label in task.labels or ()) for task in tasks}

    def rows(task: Any, split: str) -> list[dict[str, Any]]:
        examples = task.examples(split)
        inputs = tokenizer([each.input for each in examples], truncation=True, max_length=LENGTH)
        targets = tokenizer(text_target=[each.target for each in examples])["input_ids"]
        found = zip(inputs["input_ids"], inputs["attention_mask"], targets, strict=True)
        return [{"input_ids": ids, "attention_mask": mask, "labels": labels} for ids, mask, labels in found]

    def measure() -> list[float]:
        return [answered(model, tokenizer, task, rows(task, "test"), longest[task.name] + 2) for task in tasks]

    print(measure())
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="SEQ_2_SEQ_LM"
    )
    for task in tasks:
        model = peft.get_peft_model(model, config)
        train(model, tokenizer, rows(task, "train"), optim)
        model = model.merge_and_unload()
        print(task.name, measure())


def answered(model: Any, tokenizer: Any, task: Any, rows: list[dict[str, Any]], max_new_tokens: int) -> float:
    """The share of a task's test rows that are answered right; rows of like length are read together."""
    import torch

    model.eval()
    right = 0
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]["input_ids"]))
    for start in range(0, len(order), 64):
        numbers = order[start : start + 64]
        inputs = [{key: rows[number][key] for key in ("input_ids", "attention_mask")} for number in numbers]
        batch = tokenizer.pad(inputs, return_tensors="pt")
        with torch.inference_mode():
            written = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        right += sum(
            text.strip().lower() == task.test[number].target.lower()
            for number, text in zip(numbers, texts, strict=True)
        )
    return right / len(rows)


def by_loop(model: Any, tokenizer: Any, rows: list[dict[str, Any]], optim: Any) -> None:
    """One epoch, as short as it can be written."""
    import torch
    from transformers import DataCollatorForSeq2Seq

    collate = DataCollatorForSeq2Seq(tokenizer, model=model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)
    model.train()
    order = torch.randperm(len(rows)).tolist()
    for start in range(0, len(order), optim.batch_size):
        batch = collate([rows[number] for number in order[start : start + optim.batch_size]])
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def by_trainer(model: Any, tokenizer: Any, rows: list[dict[str, Any]], optim: Any) -> None:
    """One epoch of transformers' trainer."""
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(Path.cwd() / "trainer"),
        per_device_train_batch_size=optim.batch_size,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        num_train_epochs=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    collate = DataCollatorForSeq2Seq(tokenizer, model=model)
    Seq2SeqTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), data_collator=collate).train()


if __name__ == "__main__":
    main()
