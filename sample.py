"""The door to `guided-jax sample`: python sample.py runs/digits --guidance classifier-free --scale 3 --labels 3 7"""

import sys

from guided_jax.app import cli

if __name__ == "__main__":
    cli.main(["sample", *sys.argv[1:]])
