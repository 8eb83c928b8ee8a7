"""Requests and answers in the form of OpenAI's API, as far as greedy answers of a store's model go."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nacre.errors import DataError
from nacre.serving.engine import Served
from nacre.store.answering import Question, question_of

IGNORED = frozenset({"user", "metadata", "store", "seed", "logit_bias", "frequency_penalty", "presence_penalty"})
"""Settings of sampling and of accounts, which change nothing in a greedy answer."""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "stream": (None, False),
    "temperature": (None, 0),
    "top_p": (None, 1),
    "echo": (None, False),
    "logprobs": (None, False),
    "suffix": (None,),
    "stop": (None,),
    "tools": (None, []),
    "max_tokens": (None,),
    "max_completion_tokens": (None,),
}
"""Settings that are known, and the values that they may have: answers are greedy, whole, and as long as the store's
`evaluation.max_new_tokens` says."""


def questions_of(document: Any, *, chat: bool, served: str, tasks: Sequence[str]) -> list[Question]:
    """The questions of a request.

    Args:
        document: The request's body.
        chat: Whether it is one of `chat/completions`.
        served: The name of the store's model.
        tasks: What the store has learned.

    Raises:
        DataError: If the request cannot be answered; it names the key.
    """
    if not isinstance(document, dict):
        raise DataError("A request is a JSON object.")
    task = _task(document.get("model"), served, tasks)
    asked = "messages" if chat else "prompt"
    for key, value in document.items():
        if key in ("model", asked) or key in IGNORED:
            continue
        if key not in FIXED:
            raise DataError(f"There is no key '{key[:80]}' that this server knows.")
        if not any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in FIXED[key]):
            allowed = "left out" if FIXED[key][-1] is None else f"{FIXED[key][-1]} or left out"
            raise DataError(f"'{key}' must be {allowed}: answers here are greedy and whole.")
    if chat:
        return [question_of({"messages": document.get("messages")}, task)]
    prompts = document.get("prompt")
    prompts = prompts if isinstance(prompts, list) else [prompts]
    if not prompts:
        raise DataError("'prompt' must not be empty.")
    return [question_of({"text": prompt}, task) for prompt in prompts]


def answer_of(answers: Sequence[Served], *, chat: bool, model: str, tokens: Callable[[str], int]) -> dict[str, Any]:
    """The response of a request.

    Args:
        answers: To its questions, in their order.
        chat: Whether it is one of `chat/completions`.
        model: As the request named it.
        tokens: Counts a text's tokens.
    """
    texts = [each.reply.answer for each in answers]
    prompt, completion = sum(each.tokens_read for each in answers), sum(map(tokens, texts))
    kind = "chat.completion" if chat else "text_completion"
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": answers[0].version,
        "choices": [
            {
                "index": number,
                "finish_reason": "stop",
                "logprobs": None,
                **({"message": {"role": "assistant", "content": text}} if chat else {"text": text}),
                "nacre": {"version": each.version, **each.reply.document()},
            }
            for number, (text, each) in enumerate(zip(texts, answers, strict=True))
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }


def models_of(served: str, tasks: Sequence[str], version: str) -> dict[str, Any]:
    """The response of `models`: the store's model, and the same for each task with its template."""
    names = [served, *(f"{served}:{task}" for task in tasks)]
    common = {"object": "model", "created": 0, "owned_by": "nacre", "version": version}
    return {"object": "list", "data": [{"id": name, **common} for name in names]}


def _task(model: Any, served: str, tasks: Sequence[str]) -> str:
    names = ", ".join([served, *(f"{served}:{task}" for task in tasks)])
    if model == served:
        return ""
    found = [task for task in tasks if model == f"{served}:{task}"]
    if not found:
        raise DataError(f"There is no such model; there are {names}.")
    return found[0]
