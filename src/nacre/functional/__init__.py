"""Pure functions on tensors; they know no module, task or setting."""
