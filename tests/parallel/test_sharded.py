"""A state of which every device holds a part is the state that every device holds whole; nothing moves unasked."""

import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import collectives
from guided_jax import parallel, training
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.train import command as train
from guided_jax.parallel import sharded
from guided_jax.storage import checkpoint, images
from tests import tiny as dense
from tests.parallel.test_parallel import BATCH, DEVICES
from tests.scripts import SMALL, run_script


def on_device(tree, device):
    """Bytes that a device holds of the tree."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(shard.data.nbytes for leaf in arrays for shard in leaf.addressable_shards if shard.device == device)


def test_a_step_on_parts_is_the_step_on_the_whole():
    whole = parallel.place(dense.state(), DEVICES)
    parts = parallel.init_sharded(dense.state, DEVICES)
    chex.assert_trees_all_close(parts.params, dense.state().params, atol=1e-6)
    assert on_device(parts, DEVICES[3]) < on_device(whole, DEVICES[3]) / 7
    steps = [make(dense.train_step, DEVICES) for make in (parallel.data_parallel, parallel.fully_sharded)]
    for _ in range(3):
        (whole, values), before = steps[0](whole, BATCH), parts
        parts, also = steps[1](parts, BATCH)
        chex.assert_trees_all_close(values, also, rtol=1e-5)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    assert jax.tree.map(lambda leaf: leaf.sharding, parts) == jax.tree.map(lambda leaf: leaf.sharding, before)
    chex.assert_trees_all_close(parts.params, whole.params, atol=1e-6)
    copies = parallel.init_sharded(dense.state, DEVICES, group=4)  # two groups, each with the whole state
    assert 1 / 5 < on_device(copies, DEVICES[3]) / on_device(whole, DEVICES[3]) < 1 / 3
    in_groups = parallel.fully_sharded(dense.train_step, DEVICES, scan=True, group=4)
    together, metrics = in_groups(copies, BATCH, BATCH, BATCH)
    assert jax.tree.map(lambda leaf: leaf.sharding, together) == jax.tree.map(lambda leaf: leaf.sharding, copies)
    chex.assert_trees_all_close(together.params, parts.params, atol=1e-6)
    assert metrics["loss"].shape == (3,)


def test_a_gathered_loss_gathers_all_weights_where_xla_alone_would_not():
    weights = {"in": jnp.ones((16, 64)), "out": jnp.full((64, 128), 0.01)}
    make, rows = lambda: training.init(jax.random.key(0), weights, dense.OPTIMIZER), np.ones((8, 16), np.float32)
    state = parallel.init_sharded(make, DEVICES)

    def loss(params, keys, x):
        return jnp.mean((x @ params["in"] @ params["out"]) ** 2), {}

    def compiled(loss):
        step = functools.partial(training.train_step, loss=loss, optimizer=dense.OPTIMIZER, ema_decay=0.9)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        given = jax.device_put((rows, np.arange(8)), sharded.mesh_sharding(DEVICES, sharded.ROWS))
        program = sharded.jit_step(step, shardings, DEVICES, donate=False).lower(state, *given).compile()
        return collectives.count(program.as_text(), 8).get("all-gather", (0, 0))[1], *program(state, *given)

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    bytes_alone, state_alone, metrics_alone = compiled(loss)
    bytes_gathered, state_gathered, metrics_gathered = compiled(parallel.gathered(loss, DEVICES))
    assert bytes_alone < size <= bytes_gathered
    chex.assert_trees_all_close(metrics_alone, metrics_gathered, rtol=1e-5)
    chex.assert_trees_all_close(state_alone.params, state_gathered.params, rtol=1e-5)


def test_leaves_are_divided_along_their_longest_axis_that_divides():
    divided = parallel.leaf_sharding(DEVICES[:4])
    for shape, spec in [
        ((3, 8), (None, "devices")),
        ((16, 8), ("devices", None)),
        ((8, 8), (None, "devices")),
        ((6,), (None,)),
    ]:
        assert tuple(divided(jnp.zeros(shape)).spec) == spec
    grouped = parallel.leaf_sharding(DEVICES, group=2)
    assert tuple(grouped(jnp.zeros((6, 3))).spec) == ("devices", None)
    held = [(grouped(jnp.zeros((6,))).devices_indices_map((6,))[device])[0].start or 0 for device in DEVICES]
    assert held == [0, 3] * 4  # neighbours hold the halves
    tree = parallel.init_sharded(lambda: {"w": jnp.ones((6, 3)), "b": jnp.ones(3)}, DEVICES, group=2)
    assert jax.tree.map(parallel.same_sharding(tree), tree) == jax.tree.map(lambda leaf: leaf.sharding, tree)
    for group in (0, 3, 16):
        with pytest.raises(ValueError, match=f"8 devices do not form groups of {group}; give a size that divides them"):
            parallel.leaf_sharding(DEVICES, group)
    with pytest.raises(ValueError, match="16 examples do not divide over 3 devices"):
        parallel.fully_sharded(dense.train_step, DEVICES[:3])(dense.state(), BATCH)


def test_there_are_no_implicit_transfers():
    """Batches, keys and labels are put there before: a loop that waits for a hidden transfer is a slow one."""
    states = parallel.place(dense.state(), DEVICES), parallel.init_sharded(dense.state, DEVICES)
    steps = [make(dense.train_step, DEVICES) for make in (parallel.data_parallel, parallel.fully_sharded)]
    draws = [
        make(lambda w, x, s: w @ x * s, DEVICES, (None, 0, 0)) for make in (parallel.parallel_map, parallel.sharded_map)
    ]
    weights = [parallel.place(jnp.eye(8), DEVICES), parallel.init_sharded(lambda: jnp.eye(8), DEVICES)]
    rows, scales = np.ones((16, 8), np.float32), np.arange(16, dtype=np.float32)
    with jax.transfer_guard("disallow"):
        for step, draw, state, w in zip(steps, draws, states, weights, strict=True):
            for _ in range(2):
                state, _ = step(state, BATCH)
            np.testing.assert_allclose(draw(w, rows, scales), rows * scales[:, None])


@pytest.mark.slow
def test_the_scripts_train_and_draw_on_parts(tiny, tmp_path, capsys):
    """A run that was begun whole goes on in parts, and what is drawn of it is the same."""
    out = shutil.copytree(tiny, tmp_path / "run")
    shutil.rmtree(out / "diffusion" / "checkpoints" / "4")  # back to step 2
    groups = ["--shard-parameters", "--shard-group", 2]
    words = ["digits", "--out", out, "--data.dir", tiny.parent / "data", *SMALL, *groups]
    code, _, err = run_script(train.main, words, capsys)
    assert code == 0, err
    assert checkpoint.steps(out / "diffusion" / "checkpoints") == [2, 4]
    chex.assert_trees_all_close(*(runs.params(run, "diffusion") for run in (tiny, out)), atol=1e-5)
    samples = []
    for divided in ([], ["--shard-parameters"], ["--shard-parameters", "--shard-group", 4]):
        ask = [out, "--guidance", "classifier-free", "--scale", 2, "--steps", 3, "--num-samples", 8, "--seed", 1]
        code, _, err = run_script(sample.main, [*ask, *divided, "--out", tmp_path / f"drawn{len(divided)}"], capsys)
        assert code == 0, err
        samples.append(images.load_npz(tmp_path / f"drawn{len(divided)}" / "samples.npz")[0].astype(int))
    assert max(np.abs(samples[0] - other).max() for other in samples[1:]) <= 1
