"""The handwritten digits, 8x8, by latent diffusion: an autoencoder of our own, and a transformer on its latents of 4x4.

guided-jax train digits_latent
"""

from guided_jax.app.settings import Autoencoder, AutoencoderKL, Classifier, Diffusion, DiT, Experiment, Optimizer

EXPERIMENT = Experiment(
    autoencoder=Autoencoder(
        num_steps=1500,
        batch_size=64,
        distance="l2",
        kl_weight=1e-4,
        optimizer=Optimizer(learning_rate=2e-3),
        network=AutoencoderKL(block_out_channels=(16, 32), latent_channels=2),
    ),
    diffusion=Diffusion(
        num_steps=2500,
        architecture="dit",
        parameterization="v",
        transformer=DiT(patch_size=1, hidden_size=128, depth=4, num_heads=4),
    ),
    classifier=Classifier(num_steps=0),
)
