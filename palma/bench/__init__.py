"""`palma bench`: an HTTP load generator for any OpenAI-compatible server. Imports core only."""
