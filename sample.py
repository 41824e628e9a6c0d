"""The door to `guided-jax sample`: python sample.py runs/digits --guidance classifier-free --scale 3 --labels 3 7"""

from guided_jax.app import cli

if __name__ == "__main__":
    cli.main(command="sample")
