"""`guided-jax sweep`: samples at several scales and seeds, their metrics, and one page that shows them."""
