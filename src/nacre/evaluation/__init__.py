"""From answers to scores, matrices and intervals."""
