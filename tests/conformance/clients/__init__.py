"""Official clients against `palma serve`, each in an environment of its own."""
