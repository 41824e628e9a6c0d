"""The operations that `benchmarks.speed.stable_diffusion` prints: those of the layers' shapes, added up by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.speed import flops
from benchmarks.speed import stable_diffusion as sd
from guided_jax.pretrained import stable_diffusion

TINY = {
    "sample_size": 32,
    "block_out_channels": [64, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}


def by_hand(config, side, tokens):
    """Operations of one call of the U-Net of a config on side x side latents and `tokens` states: two for each product."""
    module = stable_diffusion.make_unet(config)
    widths, each = module.block_out_channels, module.layers_per_block
    total = widths[0] * 4 * widths[0] + (4 * widths[0]) ** 2  # of the time

    def conv(inside, outside, side):
        return 9 * inside * outside * side**2

    def residual(inside, outside, side):
        skip = inside * outside * side**2 if inside != outside else 0
        return conv(inside, outside, side) + 4 * widths[0] * outside + conv(outside, outside, side) + skip

    def transformer(width, side, depth):
        positions = side**2
        linear = (4 + 2 + 8 + 4) * width**2 * positions + 2 * config["cross_attention_dim"] * width * tokens
        pairs = 2 * width * positions * (positions + tokens)
        return 2 * width**2 * positions + depth * (linear + pairs)

    def block(inside, level, side):
        attends = module.attention_levels[level]
        depth = module.transformer_layers
        depth = depth[level] if isinstance(depth, tuple) else depth
        return residual(inside, widths[level], side) + (transformer(widths[level], side, depth) if attends else 0)

    width, skips = widths[0], [widths[0]]
    total += conv(config.get("in_channels", 4), width, side)
    for level in range(len(widths)):
        for _ in range(each):
            total += block(width, level, side)
            width = widths[level]
            skips.append(width)
        if level < len(widths) - 1:
            side //= 2
            total += conv(width, width, side)
            skips.append(width)
    depth = module.transformer_layers
    total += 2 * residual(width, width, side) + transformer(
        width, side, depth[-1] if isinstance(depth, tuple) else depth
    )
    for level in reversed(range(len(widths))):
        for _ in range(each + 1):
            total += block(width + skips.pop(), level, side)
            width = widths[level]
        if level:
            side *= 2
            total += conv(width, width, side)
    return 2 * (total + conv(width, 4, side))


def call(config, tokens=77):
    """Return (a call of the U-Net, the shapes of its arguments)."""
    module, side = stable_diffusion.make_unet(config).clone(plain_convolution=True), config["sample_size"]
    x, context = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((side, side, 4), (tokens, module.cross_attention_dim))
    )
    return lambda params, x, context: module.apply(params, x, 1.0, context), (
        stable_diffusion.shapes(module),
        x,
        context,
    )


def test_operations_of_a_tiny_network_are_those_of_its_layers_and_about_those_of_xla():
    function, arguments = call(TINY)
    expected = by_hand(TINY, 32, 77)
    # The means of the norms are products too, with the matrix of group membership.
    assert expected < flops.by_torch_rules(function, *arguments) < 1.001 * expected
    # XLA's count has norms and activations, and leaves out products with the zeros around a picture.
    assert flops.by_xla(function, *arguments) == pytest.approx(expected, rel=0.03)


def test_a_call_at_full_size_is_the_published_count():
    """0.34 T multiplications of Stable Diffusion 1.5 at 512 x 512 without attention's products of all pairs, 0.40 with."""
    pairs = sum(
        2 * blocks * width * side**2 * (side**2 + 77)
        for width, side, blocks in ((320, 64, 5), (640, 32, 5), (1280, 16, 5), (1280, 8, 1))
    )
    multiplications = by_hand(sd.MODELS["sd1.5"].network, 64, 77) / 2
    assert multiplications == pytest.approx(0.4e12, rel=0.01)
    assert multiplications - pairs == pytest.approx(0.34e12, rel=0.01)


@pytest.mark.slow
def test_a_guided_step_is_two_calls_for_each_picture_but_for_what_comes_before_the_text():
    expected = by_hand(sd.MODELS["sd1.5"].network, 64, 77)
    programs = sd.make_programs(sd.MODELS["sd1.5"], jnp.float32)
    width, positions = 320, 64**2
    convolutions = 9 * 4 * width * positions + 2 * 9 * width**2 * positions
    attention = (1 + 4) * width**2 * positions + 2 * width * positions**2
    shared = 2 * (convolutions + attention)  # before the first attention to the text: the same with every prompt
    step = sd.count_operations(sd.MODELS["sd1.5"], jnp.float32, programs["guided step of 4"])
    assert step == pytest.approx(4 * (2 * expected - shared), rel=1e-3)
    gradient = sd.count_operations(sd.MODELS["sd1.5"], jnp.float32, programs["gradient through the U-Net"])
    assert 2 * expected <= gradient < 2.3 * expected  # the call, and a product for each of its own; two in attention
