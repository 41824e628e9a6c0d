"""The handwritten digits again, from 4x4 to 8x8: a super-resolution network, the second half of a cascade.

    python train.py digits_upsampler

trains it in about four minutes on two CPU cores. A run of 4x4 digits to start from comes of `--data.image-size 4`:

    python train.py digits --data.image-size 4 --out runs/digits4
    python sample.py runs/digits4 --guidance classifier-free --scale 2 --out out/small
    python sample.py runs/digits_upsampler --base-samples out/small/samples.npz --out out/large
"""

from configs.schema import Classifier, Diffusion, Experiment, UNet

EXPERIMENT = Experiment(
    diffusion=Diffusion(
        low_res=4,
        network=UNet(channel_mult=(1, 2), attention_resolutions=(2,), resblock_updown=False),
    ),
    classifier=Classifier(num_steps=0),
)
