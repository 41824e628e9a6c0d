"""CIFAR-10: 32x32 photographs in ten classes, 50,000 to train with, through TensorFlow Datasets.

    pip install 'guided-jax[tf]'          # TensorFlow, for the first run alone: it downloads and prepares the data
    guided-jax train cifar10

TensorFlow may be removed afterwards, or the data prepared on another machine and its folder given as `--data.dir`. Then

    guided-jax sample runs/cifar10 --guidance classifier --scale 1 --num-samples 64

Meant for one accelerator: the networks are those of the literature in kind, a quarter of them in size.
"""

from guided_jax.app.settings import Classifier, Data, Diffusion, Encoder, Experiment, Optimizer, UNet

# Levels of 32, 16 and 8; attention on the lower two.
EXPERIMENT = Experiment(
    data=Data(name="tfds:cifar10", flip=True),
    diffusion=Diffusion(
        num_steps=100_000,
        checkpoint_every=2500,
        log_every=100,
        sample_every=5000,
        ema_decay=0.9999,
        optimizer=Optimizer(learning_rate=2e-4, warmup_steps=1000, decay="constant"),
        network=UNet(model_channels=96, num_res_blocks=2, num_groups=32, dropout=0.1),
    ),
    classifier=Classifier(
        num_steps=30_000,
        checkpoint_every=2500,
        log_every=100,
        ema_decay=0.999,
        optimizer=Optimizer(learning_rate=3e-4, warmup_steps=1000, weight_decay=0.05),
        network=Encoder(model_channels=64, num_res_blocks=2, num_groups=32),
    ),
)
