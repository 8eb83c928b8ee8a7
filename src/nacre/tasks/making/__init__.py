"""Tasks that nacre makes of other tasks' rows: other prompts, some of the classes, another question."""
