"""Metrics of written answers, between 0 and 1; `nacre.tasks.metrics` explains each.

The libraries are optional (`pip install 'nacre[metrics]'`) and imported when a task needs them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

from nacre.evaluation.sari import sari_of_tokens
from nacre.optional import need

PACKAGES = {
    "macro_f1": ("sklearn.metrics",),
    "rouge_l": ("rouge_score.rouge_scorer",),
    "bleu": ("sacrebleu",),
    "sari": ("sacrebleu",),
    "edit_similarity": ("rapidfuzz.fuzz",),
}
"""The modules that a metric imports, by its name."""


def package_of(metric: str) -> Any:
    """The module that a metric uses.

    Raises:
        NacreError: It is not installed; the message has the command that installs it.
    """
    found = [need(module, f"The metric {metric}", "metrics") for module in PACKAGES[metric]]
    return found[0]


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F (Lin 2004), tokens stemmed, as SAPT scores SuperNI."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def rouge_tokens(text: str) -> list[str]:
    """The tokens that ROUGE-L reads: words of a to z and 0 to 9, nothing of other scripts."""
    return list(_rouge()._tokenizer.tokenize(text))


@cache
def _rouge() -> Any:
    return package_of("rouge_l").RougeScorer(["rougeL"], use_stemmer=True)


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU; the number of references may differ from answer to answer."""
    most = max(len(own) for own in references)
    columns = [[own[index] if index < len(own) else None for own in references] for index in range(most)]
    found = float(package_of("bleu").corpus_bleu(list(answers), columns).score) / 100
    return min(found, 1.0)  # a geometric mean of ones may come out a last digit above one


def bleu_tokens(text: str) -> list[str]:
    """What BLEU counts of a text: words and signs, as sacrebleu's 13a finds them."""
    return _tokens(text)


def sari(answer: str, references: Sequence[str], source: str) -> float:
    """SARI of one answer, in lower case."""
    return sari_of_tokens(_tokens(source), _tokens(answer), [_tokens(reference) for reference in references])


def _tokens(text: str) -> list[str]:
    tokenizer = _tokenizer_13a()
    return str(tokenizer(text.lower())).split()


@cache
def _tokenizer_13a() -> Any:
    return need("sacrebleu.tokenizers.tokenizer_13a", "The metrics bleu and sari", "metrics").Tokenizer13a()


def edit_similarity(answer: str, reference: str) -> float:
    """1 - (insertions + deletions) / (both lengths), rapidfuzz's ratio, of the code that Py150's tokens stand for."""
    return float(package_of("edit_similarity").ratio(_code(answer), _code(reference))) / 100


def _code(text: str) -> str:
    """`<STR_LIT:name>` becomes `name`; placeholders without a literal become 0 or nothing (CodeXGLUE, TRACE)."""
    text = text.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return re.sub(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", r"\1", text, flags=re.DOTALL)


def macro_f1(answers: Sequence[int], targets: Sequence[int]) -> float:
    """Mean F1 over the classes among the targets. Classes are numbers; -1 is an answer outside the classes."""
    classes = sorted(set(targets))
    return float(
        package_of("macro_f1").f1_score(list(targets), list(answers), labels=classes, average="macro", zero_division=0)
    )


def as_number(text: str) -> Fraction | None:
    """The whole text as a decimal number, commas between thousands allowed; None if it is not one."""
    plain = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text.strip())
    return Fraction(plain) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", plain) else None
