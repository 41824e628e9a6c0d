"""The door to `guided-jax train`: python train.py digits [--out runs/digits] [--diffusion.num-steps 500 ...]"""

from guided_jax.app import cli

if __name__ == "__main__":
    cli.main(command="train")
