"""Floor 1: weights, on disk, in memory and on a device."""
