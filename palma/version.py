"""The version of Palma, and that of its founding HTTP API, which does not move with it."""

__version__ = "0.1.0"

FOUNDING_API_VERSION = "0.1.0"
"""In the paths /v0.1.0/..., in the health body and in the Palmapy-Server-Version header."""
