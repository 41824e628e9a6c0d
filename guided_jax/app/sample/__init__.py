"""`guided-jax sample`: a request, resolved into a guidance, a sampler and levels, drawn and written."""
