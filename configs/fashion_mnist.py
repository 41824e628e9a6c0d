"""Fashion-MNIST: 28x28 photographs of clothes in ten classes, 60,000 to train with, from its four IDX files.

    python train.py fashion_mnist

reads them where Debian's package dataset-fashion-mnist puts them (apt-get install dataset-fashion-mnist), or with
`--data.name idx:FOLDER` from wherever they are; MNIST and KMNIST come in files of the same names. With TensorFlow
(pip install 'guided-jax[tf]') `--data.name tfds:fashion_mnist` downloads them. Then

    python sample.py runs/fashion_mnist --guidance classifier-free --scale 2 --labels 0 1 2 3 4 5 6 7 8 9

Meant for one accelerator; on two CPU cores it runs, slowly.
"""

from configs.schema import Classifier, Data, Diffusion, Encoder, Experiment, UNet

# Levels of 28, 14 and 7; attention on the lower two. No flips: the toes of all shoes point to the left.
EXPERIMENT = Experiment(
    data=Data(name="idx:/usr/share/datasets/fashion-mnist"),
    diffusion=Diffusion(num_steps=20_000, checkpoint_every=1000, ema_decay=0.999, network=UNet(model_channels=64)),
    classifier=Classifier(num_steps=5000, checkpoint_every=1000, ema_decay=0.999, network=Encoder()),
)
