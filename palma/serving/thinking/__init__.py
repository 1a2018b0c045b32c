"""Thinking before the answer: in a model's own tags, or by a template that a request brings."""
