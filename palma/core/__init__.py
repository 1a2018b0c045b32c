"""Floor 0: the vocabulary that every room shares. No torch, no Starlette."""
