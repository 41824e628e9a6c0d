"""`guided-jax convert`: a run directory of published weights, which `guided-jax sample` takes like any other."""
