"""Palma: an LLM inference server in Python.

Importing it does nothing: no model is loaded, no thread started, no environment read.
"""

from palma.version import __version__

__all__ = ["__version__"]
