"""Signals of your own in an array: an `.npz` file with floats (N, length, channels) and integer labels (N,).

    guided-jax train signals --data.name npz:PATH.npz

The arrays are called `arr_0` and `arr_1`, as in the samples that `guided-jax sample` writes, or `images` and `labels`;
(N, length) is one channel. Scale them to a standard deviation of about one. The length must be divisible by 4. Networks
work along it, and every tenth signal of a class is held out. Unlabelled signals: `--data.no-labelled
--diffusion.no-conditional --classifier.num-steps 0`. Then

    guided-jax sample runs/signals --guidance classifier-free --scale 2 --num-samples 64
"""

from guided_jax.app.settings import Classifier, Data, Diffusion, Experiment, UNet

# Three levels, attention on the lower two.
EXPERIMENT = Experiment(
    data=Data(name="npz:signals.npz", signals=True),
    diffusion=Diffusion(num_steps=20_000, checkpoint_every=1000, ema_decay=0.999, network=UNet(model_channels=64)),
    classifier=Classifier(num_steps=5000, checkpoint_every=1000, ema_decay=0.999),
)
