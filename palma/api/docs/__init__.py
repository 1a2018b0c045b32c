"""The documentation that the server gives of itself, made from its operations."""
