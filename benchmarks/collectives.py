"""The collectives of a compiled program: how many of each kind, and how many bytes."""
