"""Fashion-MNIST: 28x28 photographs of clothes in ten classes, 60,000 to train with, from its four IDX files.

    guided-jax train fashion_mnist

reads them where Debian's package dataset-fashion-mnist puts them (apt-get install dataset-fashion-mnist), or with
`--data.name idx:FOLDER` from wherever they are; MNIST and KMNIST come in files of the same names. With TensorFlow
(pip install 'guided-jax[tf]') `--data.name tfds:fashion_mnist` downloads them. Then

    guided-jax sample runs/fashion_mnist --guidance classifier-free --scale 2 --labels 0 1 2 3 4 5 6 7 8 9

Made for two CPU cores and an hour: the networks work on patches of 2x2 pixels, and the diffusion model of 3.3 M
parameters sees every picture about four times. With an accelerator train it longer: --diffusion.num-steps 50000.
"""

from guided_jax.app.settings import Classifier, Data, Diffusion, Encoder, Experiment, UNet

# Levels of 14 and 7, attention on the lower. v is learned faster than eps. No flips: the toes of all shoes point left.
EXPERIMENT = Experiment(
    data=Data(name="idx:/usr/share/datasets/fashion-mnist"),
    diffusion=Diffusion(
        num_steps=4000,
        batch_size=64,
        sample_every=1000,
        eval_every=500,
        ema_decay=0.999,
        parameterization="v",
        network=UNet(patch=2, model_channels=64, channel_mult=(1, 2), attention_resolutions=(2,)),
    ),
    classifier=Classifier(
        num_steps=2000,
        ema_decay=0.999,
        network=Encoder(patch=2, model_channels=32, channel_mult=(1, 2), attention_resolutions=(2,)),
    ),
)
