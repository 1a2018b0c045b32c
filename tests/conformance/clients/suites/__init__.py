"""What each client is asked to do: pytest files, and one for Node's test runner."""
