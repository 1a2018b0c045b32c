"""Continuous batching: all running sequences share each forward pass."""
