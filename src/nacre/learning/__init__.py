"""The learner, its loop, and what is saved of it."""
