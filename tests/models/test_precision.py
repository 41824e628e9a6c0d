"""What saves time or memory changes nothing but rounding: bfloat16, remat, microbatches, several steps a dispatch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import data, models, parallel, sampler, training
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import draw
from guided_jax.app.sample.parts import Pictures
from guided_jax.app.sample.request import Method
from guided_jax.app.train import networks, objective
from guided_jax.models import UNet, blocks
from guided_jax.models.ops import attention as fused
from guided_jax.storage import checkpoint, log
from guided_jax.training import loop
from tests import tiny
from tests.models.test_models import random_params

RNG = np.random.default_rng(0)
SOURCE = data.in_memory(RNG.integers(0, 256, (100, 8, 8, 1)), RNG.integers(0, 10, 100), num_classes=10)
BATCH = next(data.loader(SOURCE, 16, seed=0))
INDICES = np.arange(16)
FACTS = facts.Facts((4, 4, 1), 10, (0.1,) * 10)
SMALL = {"model_channels": 8, "channel_mult": (1,), "num_res_blocks": 1, "num_head_channels": 8, "num_groups": 4}
LITTLE = jax.tree.map(jnp.asarray, {"image": BATCH["image"][:, :4, :4], "label": BATCH["label"]})
PARTS = ("diffusion", "classifier")


def assembled(dtype="float32", diffusion_only=(), **settings):
    """Small networks of both kinds, with the same settings but for those that only a diffusion network has."""
    network = {"dtype": dtype, "dropout": 0.1, "attention_resolutions": (), **SMALL}
    experiment = schema.Experiment(
        schedule=schema.Schedule(num_steps=50),
        diffusion=schema.Diffusion(network=schema.UNet(**network), **settings, **dict(diffusion_only)),
        classifier=schema.Classifier(network=schema.Encoder(**network), **settings),
    )
    return runs.assemble(experiment, FACTS)


@functools.cache
def params_of(part):
    return params_in(assembled(), part)


def params_in(run, part):
    """Weights everywhere: ADM's zeros would hide most of the network."""
    shapes = jax.eval_shape(lambda: networks.init_state(run, part)).params
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(
        tree, [jnp.asarray((0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype)) for leaf in leaves]
    )


def gradient_of(run, part):
    """((loss, metrics), gradients) of some examples."""
    keys = sampler.keys(jax.random.key(0), INDICES)
    loss = jax.value_and_grad(objective.LOSSES[part](run), has_aux=True)
    return jax.jit(loss)(params_of(part), keys, LITTLE)


@functools.cache
def plain(part):
    return gradient_of(assembled(), part)


def norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))


def difference(one, other):
    return norm(jax.tree.map(jnp.subtract, one, other)) / norm(other)


@pytest.mark.parametrize("part", [pytest.param("diffusion", marks=pytest.mark.slow), "classifier"])
def test_remat_computes_the_same_gradient(part):
    values, gradients = gradient_of(assembled(remat=True), part)
    assert difference(gradients, plain(part)[1]) < 1e-5
    chex.assert_trees_all_close(values, plain(part)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_remat_keeps_less_for_the_gradient(part):
    """What is kept of the forward computation, besides the parameters themselves."""

    def kept(run):
        keys, loss, params = (
            sampler.keys(jax.random.key(0), INDICES),
            objective.LOSSES[part](run),
            params_of(part),
        )
        backward = jax.eval_shape(lambda params: jax.vjp(lambda p: loss(p, keys, LITTLE)[0], params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward)) - sum(leaf.size for leaf in jax.tree.leaves(params))

    nothing, products = (kept(assembled(remat=True, remat_keep=keep)) for keep in ("nothing", "products"))
    assert nothing < kept(assembled()) / 3
    assert nothing < products < kept(assembled()) * 0.75


def test_remat_that_keeps_products_computes_the_same_gradient():
    _, gradients = gradient_of(assembled(remat=True, remat_keep="products"), "classifier")
    assert difference(gradients, plain("classifier")[1]) < 1e-5
    with pytest.raises(ValueError, match=r"remat_keep is one of nothing, products, not 'all'"):
        gradient_of(assembled(remat=True, remat_keep="all"), "classifier")


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_jaxs_own_attention_kernel_is_ours(batch):
    q, k, v = (jax.random.normal(key, (*batch, 6, 2, 8)) for key in jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(fused.kernel("xla")(q, k, v, (2, 3)), blocks.attend(q, k, v), atol=2e-6)
    assert fused.kernel("plain") is None


def test_a_network_attends_by_the_kernel_that_it_is_told(monkeypatch):
    net = UNet(1, **SMALL, attention_resolutions=(1,))
    x, t = jax.random.normal(jax.random.key(1), (2, 4, 4, 1)), jnp.zeros(2)
    params = jax.tree.map(lambda leaf: leaf / 3, random_params(net, x, t))
    own, calls = jax.nn.dot_product_attention, []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: calls.append(k) or own(*a, **k))
    want = jax.jit(net.apply)(params, x, t)
    assert not calls
    by_kernel = jax.jit(net.clone(attention_kernel="xla").apply)(params, x, t)
    np.testing.assert_allclose(by_kernel, want, atol=1e-4)
    assert len(calls) == 4  # down, middle, and two on the way up
    for name, words in (("flash", "there is no attention kernel 'flash'"), ("cudnn", "needs an NVIDIA GPU")):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(functools.partial(net.clone(attention_kernel=name).apply, params, x, t))
    with pytest.raises(ValueError, match="computes in bfloat16, not in float32"):
        fused.attend_fused(x, x, x, (1, 4), implementation="cudnn")


@pytest.mark.parametrize("part", [pytest.param("diffusion", marks=pytest.mark.slow), "classifier"])
def test_bfloat16_computes_nearly_the_same_and_keeps_the_state_in_float32(part):
    run = assembled("bfloat16")
    (value, _), gradients = gradient_of(run, part)
    np.testing.assert_allclose(value, plain(part)[0][0], rtol=0.02)
    assert 1e-4 < difference(gradients, plain(part)[1]) < 0.05  # rounded, and not by much
    state = training.init(jax.random.key(0), params_of(part), tiny.OPTIMIZER)
    step = functools.partial(
        training.train_step, loss=objective.LOSSES[part](run), optimizer=tiny.OPTIMIZER, ema_decay=0.9
    )
    after, metrics = jax.eval_shape(step, state, LITTLE, INDICES)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, jax.eval_shape(lambda: state))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((after.params, after.ema, metrics)))


def test_bfloat16_is_what_the_network_computes_in():
    text = jax.jit(assembled("bfloat16").networks.diffusion.apply).lower(
        params_of("diffusion"), LITTLE["image"], jnp.ones(16), LITTLE["label"]
    )
    lines = [line for line in text.as_text().splitlines() if "stablehlo.convolution" in line]
    assert sum("bf16" in line for line in lines) >= len(lines) - 1  # the last one, of the output, is float32


def test_samples_of_a_bfloat16_network_are_float32():
    sample = draw.make_draw(assembled("bfloat16"), Method(steps="3"), True)
    params = {"diffusion": params_of("diffusion")}
    image = jax.eval_shape(sample, params, jax.random.key(0), jnp.int32(3), jnp.float32(1))
    assert image.dtype == jnp.float32


@pytest.mark.slow  # in the fast suite of a network by itself: tests/models/test_prepare.py
@pytest.mark.parametrize("settings", [{"self_conditioning": True, "remat": True}, {"low_res": 2}])
def test_a_drawing_rounds_its_weights_once_and_is_the_same(settings, monkeypatch):
    run = assembled("bfloat16", diffusion_only=settings)
    params = {"diffusion": params_in(run, "diffusion"), "classifier": params_of("classifier")}
    pictures = Pictures(low_res=jnp.ones((2, 2, 1)) if "low_res" in settings else None)

    def once_more():
        sample = draw.make_draw(run, Method(guidance="classifier", steps="2"), True)
        return jax.jit(sample)(params, jax.random.key(0), jnp.int32(3), jnp.float32(1), pictures)

    once, seen = once_more(), []
    monkeypatch.setattr(models, "prepare_params", lambda network, params, *example: seen.append(network) or params)
    assert jnp.array_equal(once, once_more())
    assert len(seen) == 2


@pytest.mark.parametrize("count", [2, 16])
def test_microbatches_have_the_gradient_of_the_whole(count):
    whole, metrics = jax.jit(tiny.train_step)(tiny.state(), BATCH, INDICES)
    parts, others = jax.jit(functools.partial(tiny.train_step, microbatches=count))(tiny.state(), BATCH, INDICES)
    gradients = [state.opt_state[1][0].mu for state in (whole, parts)]  # Adam's first moment after one step
    chex.assert_trees_all_close(*gradients, atol=1e-7)
    chex.assert_trees_all_close(parts.params, whole.params, atol=1e-6)
    chex.assert_trees_all_close(others, metrics, rtol=1e-6)


def test_microbatches_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="16 examples on a device do not divide into 3 microbatches"):
        tiny.train_step(tiny.state(), BATCH, INDICES, microbatches=3)


@pytest.mark.parametrize(("count", "scan"), [(1, True), (2, True), (2, None)])
def test_several_steps_a_dispatch_are_these_steps(count, scan):
    devices = jax.devices()[:count]
    step = parallel.data_parallel(tiny.train_step, devices, scan=scan)
    batches = data.loader(SOURCE, 16, seed=3)
    group = [next(batches) for _ in range(4)]
    one, rows = parallel.place(tiny.state(), devices), []
    for batch in group:
        one, metrics = step(one, batch)
        rows.append(metrics)
    several, metrics = step(parallel.place(tiny.state(), devices), *group)
    chex.assert_trees_all_close(several.params, one.params, atol=1e-6)
    assert int(several.step) == 4
    chex.assert_trees_all_close(metrics, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), rtol=1e-5)


def test_with_several_steps_a_dispatch_everything_falls_due_when_it_did(tmp_path):
    """Rows, evaluations, hooks and checkpoints at numbers that no dispatch divides."""
    devices, ends = jax.devices()[:2], {}
    for dispatch in (1, 4):
        called, directory = [], tmp_path / str(dispatch)
        step = parallel.data_parallel(tiny.train_step, devices, scan=True)
        job = loop.Job(
            step,
            lambda: parallel.place(tiny.state(), devices),
            data.loader(SOURCE, 16, seed=3),
            31,
            directory,
            save_every=10,
            log_every=3,
            keep=9,
            evaluations=[(13, lambda state: {"held_out_loss": float(state.step)})],
            hooks=[(7, lambda done, state, called=called: called.append((done, int(state.step))))],
            steps_per_dispatch=dispatch,
        )
        loop.fit(job)
        assert called == [(7, 7), (14, 14), (21, 21), (28, 28)]
        assert checkpoint.steps(directory / "checkpoints") == [10, 20, 30, 31]
        ends[dispatch] = log.read(directory / "metrics.jsonl")
    assert [row.keys() for row in ends[1]] == [row.keys() for row in ends[4]]
    for one, other in zip(ends[1], ends[4], strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-5)
