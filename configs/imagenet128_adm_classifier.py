"""The noisy classifier of ADM for ImageNet at 128x128, alone: the one that was published as 128x128_classifier.

    guided-jax train imagenet128_adm_classifier --data.name folder:/path/to/imagenet

With the settings of the published command: 300,000 steps of 256 random crops, AdamW at 3e-4 falling to 0, weight decay
0.05, the linear schedule. 43 M parameters: for several accelerators; here it was trained in miniature only
(tests/app/test_adm_experiments.py). To guide a diffusion model of yours: `--diffusion.from RUN`.
"""

from guided_jax.app.settings import Classifier, Data, Diffusion, Encoder, Experiment, Optimizer, Schedule

EXPERIMENT = Experiment(
    data=Data(name="folder:imagenet", image_size=128, crop="random", channels="rgb", flip=True),
    schedule=Schedule(name="linear"),
    diffusion=Diffusion(num_steps=0),
    classifier=Classifier(
        num_steps=300_000,
        batch_size=256,
        checkpoint_every=10_000,
        log_every=100,
        ema_decay=0.0,  # the published classifier has no average
        optimizer=Optimizer(learning_rate=3e-4, warmup_steps=0, decay="linear", weight_decay=0.05, clip_norm=None),
        network=Encoder(
            model_channels=128,
            channel_mult=(1, 1, 2, 3, 4),
            num_res_blocks=2,
            attention_resolutions=(4, 8, 16),
            num_head_channels=64,
            num_groups=32,
        ),
    ),
)
