"""ImageNet at 64x64 with ADM's network and training: the model that was published as 64x64_diffusion.

    guided-jax train imagenet64_adm --data.name folder:/path/to/imagenet

The folder holds train and test, or the classes alone, of which every tenth picture is held out. 296 M parameters and
batches of 2048 pictures are for a pod; here it was trained in miniature only (tests/app/test_adm_experiments.py). Batch
and learning rate are those of the published commands for class-conditional 64x64 models; the published trainer has no last
step, and 500,000 is our choice. For the published weights themselves see docs/adm.md.
"""

from guided_jax.app.settings import Classifier, Data, Diffusion, Experiment, Optimizer, UNet

EXPERIMENT = Experiment(
    data=Data(name="folder:imagenet", image_size=64, channels="rgb", flip=True),
    diffusion=Diffusion(
        num_steps=500_000,
        batch_size=2048,
        checkpoint_every=10_000,
        log_every=100,
        sample_every=10_000,
        ema_decay=0.9999,
        learned_variance=True,
        label_dropout=0.0,
        optimizer=Optimizer(learning_rate=3e-4, warmup_steps=0, decay="constant", clip_norm=None),
        network=UNet(
            model_channels=192,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attention_resolutions=(2, 4, 8),
            num_head_channels=64,
            num_groups=32,
            dropout=0.1,
            use_new_attention_order=True,
        ),
    ),
    classifier=Classifier(num_steps=0),
)
