"""Published networks at full size on one accelerator: `python -m benchmarks.accelerator`."""
