"""`guided-jax train`: what the networks of an experiment are trained on, watched by and stored as."""
