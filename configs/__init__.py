"""Experiments, one a file; `schema` is what they are made of. The library never sees any of this."""
