"""The handwritten digits, 8x8, by latent diffusion: an autoencoder of our own, and a transformer on its latents of 4x4x2.

    guided-jax train digits_latent

trains both (0.17 M and 1.3 M parameters) on two CPU cores, in about a quarter of an hour of CPU time by an estimate on a
busy machine. The error on held-out digits is 0.018, the mean square in [-1, 1], or 24 dB: of these pictures without
redundancy the latent keeps half the numbers. Then

    guided-jax sweep runs/digits_latent --guidance classifier-free --scales 1,2,3 --num-samples 500

finds by a judge that is right on 99.2 % of the held-out digits the requested digit in 96.1 %, 100 % and 100 % of the
samples at scale 1, 2 and 3, at Fréchet distances in its features of 0.034, 0.067 and 0.084; another half of real digits
is at 0.022.
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
