"""`palma proxy`: one address in front of several servers."""
