"""The version of Palma, and of its founding HTTP API."""

__version__ = "0.1.0"
