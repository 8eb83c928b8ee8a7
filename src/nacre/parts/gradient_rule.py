"""What happens between backward and the optimizer's step, and right after it."""

from __future__ import annotations

from nacre.parts.part import Learner, Part


class GradientRule(Part):
    """Rules act in the order of the method's ``gradient_rules``, on full gradients: summed over micro-batches,
    averaged over processes, unscaled, not yet clipped."""

    def apply(self, learner: Learner) -> None:
        """Change the gradients of the trained parameters in place."""

    def after_step(self, learner: Learner) -> None:
        """Change the trained parameters in place, after the optimizer's step."""
