"""python -m guided_jax COMMAND ...: the same as `guided-jax COMMAND ...`."""

from guided_jax.app import cli

if __name__ == "__main__":
    cli.main()
