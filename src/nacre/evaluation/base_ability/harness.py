"""lm-eval, the published harness: its tasks over our rows, and a host as it wants to see one.

The library is optional (``pip install 'nacre[ability]'``) and imported when it is needed. Nothing that it changes in
this process stays: environment, log level, tokenizer, the model's mode and generation settings.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nacre.errors import DataError, ModelError
from nacre.evaluation.base_ability.benchmarks import AbilityTask
from nacre.functional.losses import IGNORED
from nacre.models.batch import Batch
from nacre.models.generative import DecoderOnly, Generative
from nacre.models.host import Host
from nacre.models.prefix import with_tokens_behind
from nacre.optional import need

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a HumanEval answer ends: with the function (Chen et al. 2021, section 2)."""

_FOLDERS = {"hellaswag": "hellaswag", "winogrande": "winogrande", "arc_challenge": "arc"}
_NO_POSITIONS = 2048  # what lm-eval takes for a model whose positions are relative


def lm_eval(module: str) -> Any:
    """A module of lm-eval, imported without what its import leaves in the environment.

    Raises:
        NacreError: If it is not installed; the message has the command that installs it.
    """
    before = set(os.environ)
    try:
        return need(f"lm_eval.{module}" if module else "lm_eval", "Measuring base ability", "ability")
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def samples_of(host: Host, task: AbilityTask, batch_size: int, max_new_tokens: int) -> tuple[list[Any], int]:
    """The rows' logs in lm-eval, in their order, and how many inputs had to be cut.

    The host is measured as it is now, in evaluation mode.
    """
    check_host(host)
    evaluator = lm_eval("evaluator")
    training = host.model.training
    try:
        with _quiet():
            model = _model_class()(host, batch_size, max_new_tokens)
            asked = {task.name: _harness_task(task, max_new_tokens)}
            # One task, so that requests are batched by length within it, and no result depends on its neighbours.
            found = evaluator.evaluate(model, {"tasks": asked}, bootstrap_iters=0, log_samples=True)
    finally:
        host.model.train(training)
    return list(found["samples"][task.name]), model.cut


def check_host(host: Host) -> None:
    """Raise ``ModelError`` unless the host gives continuations a likelihood."""
    if not isinstance(host.family, Generative):
        raise ModelError(
            f"base_ability: '{host.name}' is {host.family.name}, and gives no likelihood to a continuation: measure a "
            "decoder-only or encoder-decoder model."
        )


def positions(host: Host) -> int:
    """How many tokens the host takes at once, behind its virtual ones."""
    config: Any = host.model.config
    parts = (config, getattr(config, "encoder", None), getattr(config, "decoder", None))
    limits = [getattr(part, "max_position_embeddings", None) for part in parts]
    return min((int(limit) for limit in limits if limit), default=_NO_POSITIONS) - len(host.family.prefix_of(""))


def room(host: Host, task: AbilityTask, max_new_tokens: int) -> int:
    """How many tokens an answer may have.

    So many, or what the longest prompt leaves of the host's positions; half of them if that is nothing.
    """
    limit = positions(host)
    if not isinstance(host.family, DecoderOnly):
        return min(max_new_tokens, limit - 1)  # the decoder has positions of its own
    longest = max(len(host.family.source_ids(document["prompt"])) for document in task.documents)
    return min(max_new_tokens, limit - longest if limit > longest else limit // 2)


def _harness_task(task: AbilityTask, max_new_tokens: int) -> Any:
    """lm-eval's own task, with our rows in the place of the dataset's."""

    def rows(**_: object) -> dict[str, Any]:
        datasets = need("datasets", "Measuring base ability", "ability")
        return {"test": datasets.Dataset.from_list([dict(document) for document in task.documents])}

    changes: dict[str, Any] = {
        "task": task.name,
        "custom_dataset": rows,
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "num_fewshot": 0,
    }
    if task.name == "humaneval":
        # Ours, not the library's: importing its module downloads a metric and runs a program (docs/fidelity.md).
        manager = lm_eval("tasks").TaskManager(include_defaults=False)
        return manager.load([changes | _humaneval(max_new_tokens)])["tasks"][task.name]
    if task.cleaned:
        changes["process_docs"] = None
    folder = Path(str(lm_eval("").__file__)).parent / "tasks" / _FOLDERS[task.name]
    manager = lm_eval("tasks").TaskManager(include_defaults=False, include_path=str(folder))
    return manager.load([{"group": "base_ability", "task": [changes]}])["tasks"][task.name]


def _humaneval(max_new_tokens: int) -> dict[str, Any]:
    """The published task but for its metric: the prompt as it is, greedy, one answer."""
    return {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "canonical_solution",
        "generation_kwargs": {"until": list(STOPS), "max_gen_toks": max_new_tokens, "do_sample": False},
        "metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}],
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no log lines: nacre says itself what happens. Errors are raised as before."""
    logs = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@cache
def _model_class() -> Any:
    """lm-eval's Hugging Face model, of a host: made when the library is there."""
    huggingface, helpers = lm_eval("models.huggingface"), lm_eval("models.utils_hf")

    class HostModel(huggingface.HFLM):  # type: ignore[misc, name-defined]
        """The host's model with its adapters, its tokenizer's copy, and its family's way of reading a text."""

        def __init__(self, host: Host, batch_size: int, max_new_tokens: int) -> None:
            self.host = host
            self.new_tokens = max_new_tokens
            self.cut = 0
            causal = isinstance(host.family, DecoderOnly)
            model: Any = host.model
            tokenizer = copy.deepcopy(host.tokenizer)  # lm-eval gives it a padding token and turns its side
            tokenizer.clean_up_tokenization_spaces = False  # "a ." is not "a." in a program
            super().__init__(
                pretrained=model,
                tokenizer=tokenizer,
                backend="causal" if causal else "seq2seq",
                max_length=positions(host),
                batch_size=batch_size,
                # Sums of many log-probabilities: never in half precision.
                softmax_dtype=str(torch.promote_types(model.dtype, torch.float32)).removeprefix("torch."),
                # The cache of one-token continuations looks a request up by its tokens and may cut it elsewhere.
                logits_cache=False,
            )

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
            """As the host reads it: some tokenizers close a text with an end token, and a prompt must stay open."""
            if add_special_tokens is False:
                return list(self.tokenizer.encode(string, add_special_tokens=False))
            return list(self.host.family.source_ids(string))

        def tok_batch_encode(
            self, strings: Sequence[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: object
        ) -> tuple[Tensor, Tensor]:
            rows = [self.tok_encode(string) for string in strings]
            kept = [row[-left_truncate_len:] if left_truncate_len else row for row in rows]
            self.cut += sum(len(row) < len(whole) for row, whole in zip(kept, rows, strict=True))
            width = max(map(len, kept))

            def padded(values: Sequence[Sequence[int]], fill: int) -> Tensor:
                empty = [[fill] * (width - len(value)) for value in values]
                pairs = zip(empty, values, strict=True) if padding_side == "left" else zip(values, empty, strict=True)
                return torch.tensor([[*first, *second] for first, second in pairs])

            return padded(kept, self.host.family.pad), padded([[1] * len(row) for row in kept], 0)

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
            """The text of a continuation.

            It is decoded behind another token, because some tokenizers drop a text's first space, which in a program is
            a part of the indentation.
            """
            guard = self.tokenizer.encode("x", add_special_tokens=False)
            ids = list(tokens) if isinstance(tokens, list | tuple) else [tokens]
            plain = str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
            if self.backend != "causal" or not guard:
                return plain
            before = str(self.tokenizer.decode(guard, skip_special_tokens=skip_special_tokens))
            whole = str(self.tokenizer.decode([*guard, *ids], skip_special_tokens=skip_special_tokens))
            return whole[len(before) :] if whole.startswith(before) else plain

        def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> Any:
            for (_, choice), context, continuation in requests:
                if not 0 < len(continuation) <= self.max_length:
                    raise DataError(
                        f"base_ability: the choice '{choice.strip()[:60]}' has {len(continuation)} tokens in "
                        f"'{self.host.name}', which takes 1 to {self.max_length}."
                    )
                read = len(context) if self.backend == "seq2seq" else len(context) + len(continuation) - 1
                self.cut += read > self.max_length
            # In the order in which lm-eval reads them: its batches are consecutive runs of it.
            whole = [(list(context), [*context, *continuation]) for _, context, continuation in requests]
            self.unread = iter(sorted(whole, key=lambda row: (-len(row[1]), row[1])))
            return super()._loglikelihood_tokens(requests, **kwargs)

        def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
            batch = self._batch(inps, attn_mask, labels)
            ids, mask = self._prompted(inps, attn_mask)
            # A decoder that reads virtual tokens gives logits for them, too.
            count = ids.shape[1] - inps.shape[1] if attn_mask is None else 0
            with self.host.family.routed(batch):
                logits: Tensor = super()._model_call(ids, mask, labels)
            return logits[:, count:]

        def _prompted(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
            """A batch [B, S] and its mask, if it has one, with the virtual tokens of every row: [B, S + k]."""
            family = self.host.family
            prefix = ids.new_tensor(family.prefix_of("")).expand(len(ids), -1)
            if mask is not None and family.prefix_is_behind:
                return with_tokens_behind(ids, mask, prefix)
            return torch.cat([prefix, ids], 1), None if mask is None else torch.cat([torch.ones_like(prefix), mask], 1)

        def _batch(self, inps: Tensor, attn_mask: Tensor | None, labels: Tensor | None) -> Batch:
            """What a router is shown of a call. lm-eval gives a decoder neither mask nor labels."""
            rows = [next(self.unread) for _ in inps]
            if attn_mask is None or labels is None:
                attn_mask, labels = torch.zeros_like(inps), torch.full_like(inps, IGNORED)
                for number, (context, whole) in enumerate(rows):
                    read = whole[-(self.max_length + 1) :]
                    attn_mask[number, : len(read) - 1] = 1
                    targets = len(whole) - len(context)
                    labels[number, len(read) - targets : len(read) - 1] = inps[
                        number, len(read) - targets : len(read) - 1
                    ]
            tensors = {"input_ids": inps, "attention_mask": attn_mask, "labels": labels}
            return Batch(tensors, ("",) * len(inps))

        def _model_generate(
            self, context: Tensor, max_length: int, stop: list[str], attention_mask: Tensor, **_: object
        ) -> Tensor:
            """Write greedily, whatever the model's own generation settings say.

            lm-eval would let a decoder of its own write as many tokens more as the prompt has.
            """
            # Between virtual tokens and a short row there is padding, which nobody sees and no position counts.
            ids, mask = self._prompted(context, attention_mask)
            assert mask is not None
            count = ids.shape[1] - context.shape[1] if self.backend == "causal" else 0
            start = count + context.shape[1] if self.backend == "causal" else 1
            stopping = helpers.stop_sequences_criteria(self.tokenizer, stop, start, len(context))
            family = self.host.family
            assert isinstance(family, Generative)
            inputs = {"input_ids": ids, "attention_mask": mask}
            prompts = Batch(inputs, ("",) * len(context))
            greedy = family.generation(family.greedy(self.new_tokens))
            with torch.no_grad(), greedy as settings, family.routed(prompts):
                written: Tensor = self.model.generate(
                    **prompts,
                    generation_config=settings,
                    stopping_criteria=stopping,
                )
            return written[:, count:]

    return HostModel
