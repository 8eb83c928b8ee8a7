"""What is learned: tasks, templates, metrics."""
