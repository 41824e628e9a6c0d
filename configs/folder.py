"""Pictures of your own in folders, one folder a class, as 64x64 RGB.

    guided-jax train folder --data.name folder:PATH

PATH/CLASS/anything.jpg, or files called CLASS_anything.jpg, in jpg, jpeg, png or gif of any size. PATH/train and PATH/test
are used as the two splits, else every tenth picture of a class is held out. Other sizes: `--data.image-size 128`, a power
of two times eight. Unlabelled pictures: `--data.no-labelled --diffusion.no-conditional --classifier.num-steps 0`. Damaged
files are refused by name, or left out with `--data.corrupt skip`. Then

    guided-jax sample runs/folder --guidance classifier-free --scale 2 --num-samples 64
"""

from guided_jax.app.settings import Classifier, Data, Diffusion, Encoder, Experiment, Optimizer, UNet

# Levels of 64, 32, 16 and 8; attention on the lower two.
EXPERIMENT = Experiment(
    data=Data(name="folder:data", image_size=64, crop="random", channels="rgb", flip=True),
    diffusion=Diffusion(
        num_steps=100_000,
        batch_size=64,
        checkpoint_every=2500,
        log_every=100,
        sample_every=5000,
        ema_decay=0.9999,
        optimizer=Optimizer(learning_rate=2e-4, warmup_steps=1000, decay="constant"),
        network=UNet(model_channels=64, channel_mult=(1, 2, 2, 4), attention_resolutions=(4, 8), num_groups=32),
    ),
    classifier=Classifier(
        num_steps=30_000,
        batch_size=64,
        checkpoint_every=2500,
        log_every=100,
        ema_decay=0.999,
        optimizer=Optimizer(learning_rate=3e-4, warmup_steps=1000, weight_decay=0.05),
        network=Encoder(model_channels=64, channel_mult=(1, 2, 2, 4), attention_resolutions=(4, 8), num_groups=32),
    ),
)
