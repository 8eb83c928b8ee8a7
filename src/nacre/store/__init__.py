"""A store of one model that learns task after task: versions, what they were measured on, which one is current."""
