"""Numbers for samples, in float64 on the host."""

from guided_jax.metrics.frechet import frechet_distance, moments

__all__ = ["frechet_distance", "moments"]
