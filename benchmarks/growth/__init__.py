"""Cost against batch, steps, side, classes, particles and devices: `python -m benchmarks.growth`."""
