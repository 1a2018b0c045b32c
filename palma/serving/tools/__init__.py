"""How models are told of tools, how they call them, and how their calls are read."""
