"""python -m guided_jax.metrics samples.npz reference.npz: the same as `guided-jax metrics samples.npz reference.npz`."""

from guided_jax.app import cli

if __name__ == "__main__":
    cli.main(command="metrics")
