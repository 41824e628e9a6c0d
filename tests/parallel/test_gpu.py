"""What an NVIDIA GPU alone can show: cuDNN's attention, bfloat16 there, remat's memory, and the CPU's numbers again.

Skipped where there is none. On one: `JAX_PLATFORMS=cuda,cpu python -m pytest tests/parallel/test_gpu.py`.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import ours, sizes
from guided_jax import parallel, training
from guided_jax.models import blocks
from guided_jax.models.ops import attention as fused
from guided_jax.models.ops import convolution
from tests import tiny

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")

SMALL = sizes.SIZES["32x32"]._replace(width=32, num_groups=8, num_res_blocks=1, images=4, steps=5, batch=8)
RNG = np.random.default_rng(0)


def away(value, exact):
    """|value - exact| / |exact|, over the whole tree."""
    squares = jax.tree.map(
        lambda a, b: (np.sum((np.float64(a) - np.float64(b)) ** 2), np.sum(np.float64(b) ** 2)), value, exact
    )
    error, size = np.sum(jax.tree.leaves(squares)[::2]), np.sum(jax.tree.leaves(squares)[1::2])
    return float(np.sqrt(error / size))


def compiled(function, *arguments):
    """(its value, the bytes of its intermediates)."""
    program = jax.jit(function).lower(*arguments).compile()
    return jax.device_get(program(*arguments)), program.memory_analysis().temp_size_in_bytes


@pytest.fixture(autouse=True)
def exact():
    """Products of float32 in float32: by default a GPU rounds their factors to TF32."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize("length", [16, 64, 256])
def test_cudnns_attention_and_its_gradient_are_ours(length):
    q, k, v, cotangent = (jnp.asarray(RNG.standard_normal((3, length, 4, 32)), jnp.bfloat16) for _ in range(4))

    def through(attend, q, k, v, cotangent):
        value, back = jax.vjp(attend, q, k, v)
        return value, back(cotangent)

    precise = jax.tree.map(jnp.float32, (q, k, v, cotangent))
    want = jax.jit(functools.partial(through, blocks.attend))(*precise)
    kernel = functools.partial(fused.kernel("cudnn"), size=(length, 1))
    by_kernel, plain = (
        jax.jit(functools.partial(through, each))(q, k, v, cotangent) for each in (kernel, blocks.attend)
    )
    assert away(by_kernel, want) < 0.01
    assert away(by_kernel, want) < 1.5 * away(plain, want)


def training_gradient(**changes):
    """(loss, gradients) of the small network, as training takes them, and the bytes that it needed."""
    size = SMALL._replace(**changes.pop("size", {}))
    unet, _ = sizes.networks(size, **changes)
    x, label = (jnp.asarray(leaf) for leaf in ours.training_batch(size).values())
    t = jnp.linspace(0, 999, size.batch)
    loss = lambda params: jnp.mean(jnp.square(unet.apply(params, x, t, label).astype(jnp.float32)))  # noqa: E731
    return compiled(jax.value_and_grad(loss), sizes.parameters(size)["unet"])


def test_a_network_in_bfloat16_with_cudnns_attention_is_the_network():
    (value, gradients), _ = training_gradient()
    rounded = {"size": {"dtype": "bfloat16"}}
    (plain, plain_gradients), _ = training_gradient(**rounded)
    (kernel, kernel_gradients), _ = training_gradient(**rounded, attention_kernel="cudnn")
    np.testing.assert_allclose([plain, kernel], [value, value], rtol=0.02)
    assert away(kernel_gradients, gradients) < 0.05
    assert away(kernel_gradients, gradients) < 1.5 * away(plain_gradients, gradients)


def test_remat_gives_the_same_gradient_in_less_memory():
    want, most = training_gradient()
    products, between = training_gradient(remat=True, remat_keep="products")
    nothing, least = training_gradient(remat=True)
    assert away(products, want) < 1e-4
    assert away(nothing, want) < 1e-4
    assert least < between < most
    assert least < 0.7 * most


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_convolution_are_those_of_xla(stride):
    x, kernel = RNG.standard_normal((4, 16, 16, 32), np.float32), RNG.standard_normal((3, 3, 32, 64), np.float32)
    numbers = {"padding": "SAME", "dimension_numbers": convolution.LAYOUT}

    def gradients(convolve):
        return jax.jit(jax.grad(lambda *a: jnp.sum(convolve(*a, (stride, stride), **numbers) ** 2), (0, 1)))(x, kernel)

    assert away(gradients(convolution.conv_general_dilated), gradients(jax.lax.conv_general_dilated)) < 1e-5


@pytest.mark.parametrize(
    ("kind", "how"), [("classifier", "plain"), ("classifier-free", "plain"), ("classifier-free", "fused")]
)
def test_guided_pictures_are_those_of_the_cpu(kind, how, monkeypatch):
    samples = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        # The networks choose what is fast by the backend, while they are traced: each device is given its own form.
        monkeypatch.setattr(jax, "default_backend", lambda: device.platform)  # noqa: B023
        networks = (network.apply for network in sizes.networks(SMALL))
        draw = parallel.parallel_map(ours.drawing(SMALL, kind, how, *networks), [device], (None, 0, 0))
        prepared = ours.prepared(SMALL, sizes.parameters(SMALL))
        samples.append(draw(parallel.place(prepared, [device]), *ours.start(SMALL)))
    assert away(*samples) < 1e-4


def test_weights_rounded_once_give_the_samples_of_weights_rounded_at_every_step():
    size, device = SMALL._replace(dtype="bfloat16"), jax.devices()[:1]
    unet, classifier = (network.apply for network in sizes.networks(size))
    draw = parallel.parallel_map(ours.drawing(size, "classifier", "plain", unet, classifier), device, (None, 0, 0))
    whole = sizes.parameters(size)
    once, always = (
        draw(parallel.place(params, device), *ours.start(size)) for params in (ours.prepared(size, whole), whole)
    )
    assert away(once, always) < 0.02  # XLA may leave a rounding out where it follows a product


def test_training_on_the_gpu_equals_the_cpu_replicated_or_sharded_with_and_without_scan():
    """On one GPU parts are wholes, but the program is another: jit with shardings, and several steps in a scan."""
    gpus, cpus = jax.devices()[:1], jax.devices("cpu")[:1]
    batch = {"image": RNG.standard_normal((16, 8, 8, 1), np.float32)}
    steps = {"whole": parallel.data_parallel, "parts": parallel.fully_sharded}
    state = parallel.place(tiny.state(), cpus)
    for _ in range(3):
        state, _ = parallel.data_parallel(tiny.train_step, cpus)(state, batch)
    want = jax.device_get(state.params)
    for name, make in steps.items():
        step = make(tiny.train_step, gpus)
        for calls in ([[batch]] * 3, [[batch] * 3]):
            state = parallel.place(tiny.state(), gpus) if name == "whole" else parallel.init_sharded(tiny.state, gpus)
            for batches in calls:
                state, _ = step(state, *batches)
            chex.assert_trees_all_close(jax.device_get(state.params), want, atol=1e-5)


def test_there_are_no_implicit_transfers_to_the_gpu():
    """Training steps on a state that is there, and one program for a whole guided drawing."""
    gpus = jax.devices()[:1]
    loss, optimizer = ours.diffusion_loss(SMALL), training.optimizer(1e-4, 100)
    one = functools.partial(training.train_step, loss=loss, optimizer=optimizer, ema_decay=0.9)
    beginning = training.init(jax.random.key(0), sizes.parameters(SMALL)["unet"], optimizer)
    state, step = parallel.place(beginning, gpus), parallel.data_parallel(one, gpus)
    unet, classifier = (network.apply for network in sizes.networks(SMALL))
    draw = parallel.parallel_map(ours.drawing(SMALL, "classifier", "plain", unet, classifier), gpus, (None, 0, 0))
    params, batch = parallel.place(sizes.parameters(SMALL), gpus), ours.training_batch(SMALL)
    state, _ = step(state, batch)  # what tracing makes of Python's constants goes there once
    samples = draw(params, *ours.start(SMALL))
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            state, _ = step(state, batch)
        assert away(draw(params, *ours.start(SMALL)), samples) < 1e-5  # sums by atomics are not the same to the bit
