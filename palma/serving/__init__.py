"""Floor 3: what a request means. No HTTP, no tensors."""
