"""Floor 4: HTTP. The one room that knows Starlette."""
