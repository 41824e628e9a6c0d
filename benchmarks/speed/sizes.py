"""What is measured: sizes of one network on CPU and on a GPU, two ways of guiding it, its training, and who takes part."""

import math
from typing import Literal, NamedTuple

import numpy as np


class Size(NamedTuple):
    """A U-Net, the encoder classifier of the same shape, and how much work one timing is."""

    side: int
    channels: int  # of a picture
    width: int  # model_channels
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[int, ...]  # downsampling factors of the levels that attend
    head_channels: int
    num_groups: int
    resblock_updown: bool
    images: int  # sampled at a time
    steps: int  # DDIM steps in one timing
    batch: int  # of a training step
    train_steps: int  # in one timing
    num_classes: int = 10
    device: Literal["cpu", "gpu"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the networks; their parameters are float32 in training
    attention_kernel: str = "plain"


SIZES = {
    # That of `make demo`, 0.76 M parameters.
    "digits": Size(8, 1, 32, (1, 2), 1, (2,), 32, 8, False, images=64, steps=10, batch=128, train_steps=2),
    # An ADM of 8.0 M parameters.
    "32x32": Size(32, 3, 64, (1, 2, 2), 2, (2, 4), 32, 32, True, images=16, steps=2, batch=16, train_steps=1),
    # Wide enough that nearly all the time goes into multiplications: 41 M parameters.
    "wide": Size(32, 3, 192, (1, 2), 2, (2,), 64, 32, True, images=4, steps=2, batch=4, train_steps=1),
}
# Too few pictures to fill a core's products: what `guidance.batched` is for.
SIZES["digits-few"] = SIZES["digits"]._replace(images=4, steps=50)
# Where there is room for more pictures at once, and ADM's network of 64x64 ImageNet, 296 M parameters.
GPU = {"device": "gpu", "dtype": "bfloat16", "attention_kernel": "cudnn"}
ADM64 = Size(64, 3, 192, (1, 2, 3, 4), 3, (2, 4, 8), 64, 32, True, images=32, steps=4, batch=16, train_steps=2)
SIZES |= {
    "digits-gpu": SIZES["digits"]._replace(device="gpu", images=512, steps=50, train_steps=50),
    "32x32-gpu": SIZES["32x32"]._replace(images=256, steps=10, batch=128, train_steps=10, **GPU),
    "adm64-gpu": ADM64._replace(num_classes=1000, **GPU),
}
SCALE = 2.0
LABEL_DROPOUT = 0.15
EMA_DECAY = 0.999
LEARNING_RATE = 1e-4
# Guidance on the less noisy half of the steps, for the variants with an interval.
INTERVAL = (0.0, 0.5)

# Who takes part, the one that the others are compared with first. `loop` and `scan` are naive JAX.
JOBS = {
    "classifier": ("ours", "ours, 1 device", "loop", "scan", "torch", "torch channels-last"),
    "classifier-free": (
        "ours",
        "ours, fused",
        "ours, interval",
        "ours, 1 device",
        "ours, 1 device, fused",
        "ours, 1 device, interval",
        "loop",
        "scan",
        "torch",
        "torch channels-last",
    ),
    "train": ("ours", "ours, 1 device", "loop", "torch", "torch channels-last"),
}
# The side of the matrices that a machine's own rate is measured with, and how many products one timing is.
MATMUL = {"cpu": (2048, 1), "gpu": (8192, 20)}


def jobs(size: Size) -> dict[str, tuple[str, ...]]:
    """Who takes part in each job at this size: a GPU is one device, and there torch compiles too."""
    if size.device == "cpu":
        return JOBS
    return {job: (*(who for who in names if "1 device" not in who), "torch compiled") for job, names in JOBS.items()}


def matmul_flops(size: Size) -> int:
    """Operations of one timing of the matrix product."""
    side, repeats = MATMUL[size.device]
    return 2 * side**3 * repeats


def networks(size: Size, **changes):
    """Our U-Net, conditional and with a null label, and our classifier."""
    from guided_jax import models  # not at the top: torch's processes have no use for JAX

    shared = {
        "model_channels": size.width,
        "channel_mult": size.channel_mult,
        "num_res_blocks": size.num_res_blocks,
        "attention_resolutions": size.attention,
        "num_head_channels": size.head_channels,
        "num_groups": size.num_groups,
        "resblock_updown": size.resblock_updown,
        "dtype": size.dtype,
        "attention_kernel": size.attention_kernel,
        **changes,
    }
    unet = models.UNet(out_channels=size.channels, num_classes=size.num_classes, null_label=True, **shared)
    return unet, models.Classifier(num_classes=size.num_classes, **shared)


def parameters(size: Size, seed: int = 0):
    """{"unet": ..., "classifier": ...}: drawn, none of them 0, so that the pictures say something; nothing is compiled."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)
    x, found = jnp.zeros((1, size.side, size.side, size.channels)), {}
    for name, network in zip(("unet", "classifier"), networks(size, attention_kernel="plain"), strict=True):
        shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1))
        found[name] = drawn(shapes, rng)
    return found


def drawn(shapes, rng: np.random.Generator):
    """Weights of these shapes, of a spread that keeps activations in range, none of them 0."""
    import jax
    import jax.numpy as jnp

    def draw(path, leaf):
        spread = 1 / math.sqrt(math.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return jnp.asarray(spread * rng.standard_normal(leaf.shape, np.float32) + (path[-1].key == "scale"))

    return jax.tree_util.tree_map_with_path(draw, shapes)
