"""Palma beside other servers, on the same random-weight models: `python -m benchmarks.peers`."""
