"""Every formula once: pure functions on tensors, without Lightning, files or W&B."""
