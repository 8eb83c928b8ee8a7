"""A student's distance from a teacher, as distributions over tokens or classes."""

from __future__ import annotations

import torch
from torch import Tensor


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Sum over rows of KL(p || q), p and q the softmax of the teacher's and the student's logits over the temperature.

    Its gradient is that of LwF's cross-entropy, from which it differs by the teacher's entropy.

    Args:
        teacher: Logits, [n, V], without a graph.
        student: Logits, [n, V].
        temperature: What both are divided by; there is no factor for it.

    Returns:
        A scalar, in float32 at least.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    expected = (teacher.to(wide) / temperature).log_softmax(-1)
    found = (student.to(wide) / temperature).log_softmax(-1)
    return (expected.exp() * (expected - found)).sum()
