"""Posterior samplers on laws whose posterior is known; see `__main__`."""
