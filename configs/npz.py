"""Pictures of your own in arrays: an `.npz` file with uint8 images (N, H, W, C) and integer labels (N,).

    guided-jax train npz --data.name npz:PATH.npz

The arrays are called `arr_0` and `arr_1`, as in the samples that `guided-jax sample` writes, or `images` and `labels`. A
folder with train.npz and test.npz is used as these two splits, else every tenth example of a class is held out. Height
and width must be divisible by 4: `--data.image-size 32` resizes. Then

    guided-jax sample runs/npz --guidance classifier-free --scale 2 --num-samples 64
"""

from guided_jax.app.settings import Classifier, Data, Diffusion, Experiment, UNet

# Three levels, attention on the lower two.
EXPERIMENT = Experiment(
    data=Data(name="npz:data.npz"),
    diffusion=Diffusion(num_steps=20_000, checkpoint_every=1000, ema_decay=0.999, network=UNet(model_channels=64)),
    classifier=Classifier(num_steps=5000, checkpoint_every=1000, ema_decay=0.999),
)
