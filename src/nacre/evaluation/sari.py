"""SARI: how well a simplification keeps, deletes and adds what the references do.

Source: Xu et al. 2016 (TACL 4), equations 1 to 8, with two corrections that Hugging Face's `evaluate` makes, too: an
empty share counts as 1, not 0, and the recall of kept n-grams sums over them before it divides. No well-kept package
without downloads has it, so it stands here; the tokens are sacrebleu's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

LARGEST = 4  # n-grams of one to so many tokens

Grams = Counter[tuple[str, ...]]


def sari_of_tokens(source: Sequence[str], answer: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean over n = 1 to 4 of the mean of keep F1, delete precision and add F1.

    Args:
        source: Tokens of the text that is simplified.
        answer: Tokens of the simplification.
        references: Tokens of each reference.

    Returns:
        Between 0 and 1.
    """
    return sum(_of_length(n, source, answer, references) for n in range(1, LARGEST + 1)) / LARGEST


def _of_length(n: int, source: Sequence[str], answer: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    # Counts of source and answer are taken once per reference, so that they can be compared with all references' sum.
    many = len(references)
    old, new = _times(_grams(source, n), many), _times(_grams(answer, n), many)
    wanted: Grams = sum((_grams(reference, n) for reference in references), Counter())

    kept, to_keep = old & new, old & wanted
    rightly_kept = kept & wanted
    keep = _f1(_mean_share(rightly_kept, kept), _share(rightly_kept.total(), to_keep.total()))

    deleted = old - new
    delete = _mean_share(deleted - wanted, deleted)

    added, to_add = set(new) - set(old), set(wanted) - set(old)
    rightly_added = len(added & to_add)
    add = _f1(_share(rightly_added, len(added)), _share(rightly_added, len(to_add)))
    return (keep + delete + add) / 3


def _grams(tokens: Sequence[str], n: int) -> Grams:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _times(grams: Grams, many: int) -> Grams:
    return Counter({gram: many * count for gram, count in grams.items()})


def _mean_share(part: Grams, whole: Grams) -> float:
    """Mean over the n-grams of `whole` of the share of each that `part` has."""
    return sum(part[gram] / count for gram, count in whole.items()) / len(whole) if whole else 1.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
