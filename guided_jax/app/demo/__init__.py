"""`guided-jax demo`: the trade of diversity for fidelity on handwritten digits, from nothing to a table."""
