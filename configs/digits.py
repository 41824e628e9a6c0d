"""Handwritten digits, 8x8: scikit-learn's 1797 real scans, embedded, no download.

    guided-jax train digits

trains a class-conditional U-Net of 0.76 M parameters with label dropout, and a noisy classifier, on two CPU cores in about
three minutes. Then

    guided-jax sample runs/digits --guidance classifier-free --scale 3 --num-samples 500

draws digits of which an independent classifier recognises 95 % or more.
"""

from guided_jax.app.settings import Classifier, Diffusion, Encoder, Experiment, UNet

# Two levels, 8x8 and 4x4, attention on the lower one; widths as small as the pictures. Batches of 128 take twice the time,
# for a little more accuracy by weak classifier guidance.
EXPERIMENT = Experiment(
    diffusion=Diffusion(
        batch_size=64, network=UNet(channel_mult=(1, 2), attention_resolutions=(2,), resblock_updown=False)
    ),
    classifier=Classifier(
        batch_size=64, network=Encoder(channel_mult=(1, 2), attention_resolutions=(2,), resblock_updown=False)
    ),
)
