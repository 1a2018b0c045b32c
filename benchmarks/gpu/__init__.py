"""Palma's continuous engine on a GPU, against that GPU's limits: `python -m benchmarks.gpu`."""
