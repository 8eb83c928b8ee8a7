"""How a saved learner is measured: on tasks, on published benchmarks, and by whatever else probes a stage."""
