"""What an encoder-decoder learns to write: masked spans, or the continuation of a text.

Span corruption is T5's (Raffel et al. 2020, arXiv 1910.10683, section 3.1.4): random spans are replaced by sentinel
tokens and the decoder writes them. A share of the passages is trained as prefix and continuation instead (the prefix
language model of section 3.2.1), so that the decoder also learns to write without sentinels.

The other objective, `causal`, is next-token prediction with a Llama, whose targets are its inputs: see `batches`.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from itertools import pairwise


def corrupt_spans(
    tokens: Sequence[int], masked: Sequence[bool], sentinels: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Input and target: each masked span is replaced by a sentinel, after which the target holds it.

    Args:
        tokens: Token ids of a window.
        masked: Whether each token is masked.
        sentinels: Ids of the sentinels. With fewer sentinels than spans, the remaining spans are not masked.
    """
    inputs: list[int] = []
    targets: list[int] = []
    unused = iter(sentinels)
    inside = False
    for token, hidden in zip(tokens, masked, strict=True):
        if hidden and not inside:
            sentinel = next(unused, None)
            if sentinel is None:
                inputs.append(token)
                continue
            inputs.append(sentinel)
            targets.append(sentinel)
        (targets if hidden else inputs).append(token)
        inside = hidden
    return inputs, targets


def cut_in_two(tokens: Sequence[int], word_starts: Collection[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """Input and target: a prefix and its continuation, cut at a word boundary where the text has one.

    Half of the cuts stand before the last word, where a text has most of its context.

    Args:
        tokens: Token ids of a window.
        word_starts: Ids of tokens that begin a word.
        rng: Draws the cut.
    """
    boundaries = [at for at in range(1, len(tokens)) if tokens[at] in word_starts] or [len(tokens) - 1]
    cut = boundaries[-1] if rng.random() < 0.5 else rng.choice(boundaries)
    return list(tokens[:cut]), list(tokens[cut:])


def masked_tokens(length: int, share: float, mean_span: float, rng: random.Random) -> list[bool]:
    """Which tokens are masked: spans of random lengths, apart from one another, never everything.

    The number of masked tokens and of spans is fixed by the length, as in T5; only their positions are random, and
    unlike there a text may begin or end with either kind. At least one token is masked and one is kept.

    Args:
        length: Number of tokens, at least 2.
        share: Share of masked tokens.
        mean_span: Mean tokens per span.
        rng: Draws the spans.

    Returns:
        One value for each token.
    """
    masked = min(max(round(length * share), 1), length - 1)
    spans = min(max(round(masked / mean_span), 1), masked, length - masked)
    hidden = _lengths(masked, spans, rng)
    kept = _lengths(length - masked + 2, spans + 1, rng)  # two more, so that either end may be empty
    kept[0], kept[-1] = kept[0] - 1, kept[-1] - 1
    pattern = [False] * kept[0]
    for hidden_tokens, kept_tokens in zip(hidden, kept[1:], strict=True):
        pattern += [True] * hidden_tokens + [False] * kept_tokens
    return pattern


def _lengths(total: int, count: int, rng: random.Random) -> list[int]:
    """`total` as a sum of `count` positive numbers, every such sum equally likely."""
    cuts = [0, *sorted(rng.sample(range(1, total), count - 1)), total]
    return [after - before for before, after in pairwise(cuts)]
