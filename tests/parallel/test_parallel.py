import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import data, parallel, training
from guided_jax.app.train import held_out
from guided_jax.parallel import dispatch, replicated
from tests import tiny

DEVICES = jax.devices()
BATCH = {
    "image": np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32),
    "label": np.arange(16, dtype=np.int32) % 10,
}


def one_step(devices, state=None):
    step = parallel.data_parallel(tiny.train_step, devices)
    return step(parallel.place(state or tiny.state(), devices), BATCH)


def test_one_cpu_device_per_core_when_asked_before_the_first_use():
    program = "import jax; from guided_jax import parallel; parallel.use_cpu_devices({}); print(len(jax.devices())); "
    program += "parallel.use_cpu_devices(5); print(len(jax.devices()))"
    for argument, expected in (("3", 3), ("", None)):
        done = subprocess.run(
            [sys.executable, "-c", program.format(argument)], capture_output=True, text=True, check=True
        )
        first, second = map(int, done.stdout.split())
        assert first == second >= 1
        assert expected in (None, first)


@pytest.mark.parametrize(
    ("batch", "requested", "expected"), [(16, None, 8), (12, None, 6), (7, None, 7), (11, None, 1)]
)
def test_the_largest_count_of_devices_that_divides_the_batch(batch, requested, expected):
    assert parallel.choose_devices(batch, requested) == DEVICES[:expected]


def test_only_an_explicit_count_can_be_wrong():
    assert parallel.choose_devices(12, 4) == DEVICES[:4]
    with pytest.raises(ValueError, match="12 examples does not divide over 8 devices"):
        parallel.choose_devices(12, 8)
    with pytest.raises(ValueError, match="9 devices are requested and 8 are present"):
        parallel.choose_devices(18, 9)
    with pytest.raises(ValueError, match="0 devices"):
        parallel.choose_devices(8, 0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        parallel.choose_devices(0)


def test_a_placed_tree_is_a_copy_on_every_device():
    x = jnp.arange(3.0)
    placed = parallel.place({"a": x, "b": x}, DEVICES[:2])
    jax.tree.map(lambda leaf: leaf.delete(), placed)
    np.testing.assert_array_equal(x, [0, 1, 2])
    a, b = parallel.place((x, x), DEVICES[:2])
    assert a.sharding.is_fully_replicated
    a.delete()
    np.testing.assert_array_equal(b, [0, 1, 2])


def test_the_devices_of_a_cpu_share_what_is_replicated_and_not_what_is_placed():
    x = jnp.arange(64.0)
    of = lambda tree: {shard.data.unsafe_buffer_pointer() for shard in tree["a"].addressable_shards}  # noqa: E731
    assert len(of(parallel.replicate({"a": x}, DEVICES[:2]))) == 1
    assert len(of(parallel.place({"a": x}, DEVICES[:2]))) == 2  # each is donated


def test_shards_are_consecutive_rows_of_arrays_and_keys():
    keys = jax.random.split(jax.random.key(0), 6)
    rows, shards = parallel.shard((np.arange(12).reshape(6, 2), keys), 3)
    assert rows.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    assert (shards[2, 1] == keys[5]).all()
    with pytest.raises(ValueError, match="6 examples do not divide over 4 devices"):
        parallel.shard(keys, 4)


@pytest.mark.parametrize("count", [2, 8])
def test_a_step_on_several_devices_is_the_step_on_one(count):
    one, several = one_step(DEVICES[:1]), one_step(DEVICES[:count])
    gradients = [state.opt_state[1][0].mu for state, _ in (one, several)]  # Adam's first moment after one step
    chex.assert_trees_all_close(*gradients, atol=1e-7)
    chex.assert_trees_all_close(one[0].params, several[0].params, atol=1e-6)
    chex.assert_trees_all_close(one[1], several[1], rtol=1e-5)


def test_neither_the_order_of_the_devices_nor_the_position_of_an_example_changes_its_noise():
    backwards = one_step(DEVICES[::-1])
    chex.assert_trees_all_close(one_step(DEVICES)[0].params, backwards[0].params, atol=1e-6)
    # The same examples with the same indices in another order: the same noise each, the same mean.
    order = np.random.default_rng(1).permutation(16)
    shuffled = jax.tree.map(lambda leaf: leaf[order], BATCH)
    step = jax.jit(tiny.train_step)
    straight, metrics = step(tiny.state(), BATCH, np.arange(16))
    permuted, _ = step(tiny.state(), shuffled, order)
    chex.assert_trees_all_close(straight.params, permuted.params, atol=1e-6)
    _, other = step(tiny.state(), BATCH, order)
    assert abs(metrics["loss"] - other["loss"]) > 1e-4


@pytest.mark.parametrize(("count", "options"), [(1, {"xla_backend_optimization_level": 1}), (4, {})])
def test_donation_survives_several_steps_and_compiles_once(count, options, monkeypatch):
    """With the options of the commands on CPU, which the other tests leave out, too."""
    monkeypatch.setattr(replicated, "compiler_options", lambda devices: options)
    devices = DEVICES[:count]
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(lambda *a, **k: tiny.train_step(*a, **k), n=1)
    step = parallel.data_parallel(traced, devices)
    original = tiny.state()
    state = parallel.place(original, devices)
    for _ in range(4):
        previous = state
        state, _ = step(state, BATCH)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous.params))
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    assert int(state.step) == 4
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(original))


def test_without_donation_the_state_stays():
    state = parallel.place(tiny.state(), DEVICES[:2])
    parallel.data_parallel(tiny.train_step, DEVICES[:2], donate=False)(state, BATCH)
    assert int(state.step) == 0


def test_parallel_map_is_the_map_and_chunks_are_one_shape():
    def draw(params, key, label, scale):
        return {"x": params * label + scale * jax.random.normal(key, (2,)), "label": label}

    def keys(indices):
        return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(indices)

    chex.clear_trace_counter()
    traced = chex.assert_max_traces(draw, n=1)
    mapped = parallel.parallel_map(traced, DEVICES[:4], in_axes=(None, 0, 0, None))
    chunks = parallel.map_in_chunks(lambda i: mapped(jnp.ones(2), keys(i), i.astype(np.float32), 0.5), 19, 8)
    results = list(chunks)
    assert [len(r["x"]) for r in results] == [8, 8, 3]
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(results))
    every = np.arange(19)
    expected = jax.vmap(draw, (None, 0, 0, None))(jnp.ones(2), keys(every), every.astype(np.float32), 0.5)
    together = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
    chex.assert_trees_all_close(together, jax.device_get(expected), atol=1e-6)


def test_fewer_examples_than_a_chunk():
    seen = []
    chunks = list(parallel.map_in_chunks(lambda i: seen.append(i) or i, 3, 8))
    assert [c.tolist() for c in chunks] == [[0, 1, 2]]
    assert seen[0].shape == (8,)
    assert list(parallel.map_in_chunks(lambda i: i, 0, 8)) == []


def test_the_average_is_what_makes_replicated_results_true():
    assert isinstance(tiny.state(), training.TrainState)
    state, metrics = one_step(DEVICES)
    for leaf in jax.tree.leaves((state.params, metrics)):
        shards = [np.asarray(part.data) for part in leaf.addressable_shards]
        assert all(np.array_equal(shards[0], other) for other in shards)


def test_the_first_copy_of_a_replicated_tree_is_on_one_device():
    tree = {"w": jnp.arange(8.0), "b": jnp.ones(3)}
    placed = parallel.place(tree, jax.devices()[:4])
    found = parallel.first_copy(placed)
    for name, leaf in found.items():
        assert leaf.devices() == {jax.devices()[0]}
        np.testing.assert_array_equal(leaf, tree[name])
    sharding = parallel.leaf_sharding(jax.devices()[:4])
    divided = jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(leaf)), tree)
    # "b" is whole on every device: with the divided "w" it is computed with there.
    assert all(parallel.first_copy(divided)[name] is leaf for name, leaf in divided.items())


def test_held_out_metrics_are_computed_on_one_device(monkeypatch):
    """Not in full on every device that has a copy of the parameters."""
    source = data.in_memory(np.zeros((8, 2, 2, 1), np.uint8), np.arange(8) % 2, 2)
    used = []

    def loss(params, keys, batch):
        used.append(params["w"].devices())
        return params["w"].mean() * batch["image"].mean(), {}

    monkeypatch.setattr(parallel, "jit", lambda function: function)
    evaluate = held_out.make_evaluation(loss, source, 8, 4, seed=0)
    monkeypatch.undo()
    state = SimpleNamespace(ema=parallel.place({"w": jnp.full(4, 0.5)}, jax.devices()[:4]))
    assert evaluate(state) == {"held_out_loss": -0.5}
    assert used == [{jax.devices()[0]}] * 2


def test_what_compiling_took_is_given_back(monkeypatch):
    given = []
    monkeypatch.setattr(dispatch, "give_back_memory", lambda: given.append(True))
    parallel.parallel_map(lambda w, x: w * x, DEVICES[:2], (None, 0))(np.float32(2), np.ones(4, np.float32))
    assert given == [True]


def test_jit_compiles_with_the_options_of_the_devices_at_the_first_call(monkeypatch):
    options, given = {}, []
    monkeypatch.setattr(parallel.devices, "compiler_options", lambda devices: given.append(devices) or options)
    double = parallel.jit(lambda x, y: 2 * x + y)
    assert not given
    assert [float(double(1.0, y)) for y in (0.0, 3.0)] == [2.0, 5.0]
    assert given == [jax.local_devices()]
    assert (float(jax.grad(double)(1.0, 3.0)), float(jax.jit(double)(1.0, 3.0))) == (2.0, 5.0)
    options["no_such_option"] = True
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        parallel.jit(lambda x: x + 1)(1.0)
