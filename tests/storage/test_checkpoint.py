import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import parallel, training
from guided_jax.storage import checkpoint, compare
from tests import tiny

DEVICES = jax.devices()
BATCH = {"image": np.ones((8, 8, 8, 1), np.float32)}


def trained(devices, steps=1):
    step = parallel.data_parallel(tiny.train_step, devices)
    state = parallel.place(tiny.state(), devices)
    for _ in range(steps):
        state, _ = step(state, BATCH)
    return state


def values(state):
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def saved(directory, steps=(1,), keep=2, **notes):
    state = trained(DEVICES[:2])
    with checkpoint.opened(directory, keep) as checkpoints:
        for step in steps:
            checkpoint.save(checkpoints, step, state, **notes)
    return state


def test_a_state_is_restored_with_its_types_on_the_devices_of_the_template(tmp_path):
    state = saved(tmp_path, data_state={"next_index": 7}, config={"a": (1, 2), "b": None})
    template = parallel.place(tiny.state(seed=9), DEVICES[:4])
    found = checkpoint.restore(tmp_path, template)
    assert (found.step, found.data_state, found.config) == (1, {"next_index": 7}, {"a": [1, 2], "b": None})
    assert isinstance(found.state, training.TrainState)
    chex.assert_trees_all_equal(values(found.state), values(state))
    chex.assert_trees_all_equal_shapes_and_dtypes(found.state, state)
    assert jax.tree.map(lambda leaf: leaf.sharding, found.state) == jax.tree.map(lambda leaf: leaf.sharding, template)


def test_a_save_in_the_background_is_not_disturbed_by_donation(tmp_path):
    for count in (1, 2):
        step = parallel.data_parallel(tiny.train_step, DEVICES[:count])
        state = trained(DEVICES[:count])
        expected = jax.tree.map(np.copy, values(state))
        with checkpoint.opened(tmp_path / str(count)) as checkpoints:
            checkpoint.save(checkpoints, 1, state)
            for _ in range(5):
                state, _ = step(state, BATCH)
        found = checkpoint.restore(tmp_path / str(count), state)
        chex.assert_trees_all_equal(values(found.state), expected)


def test_the_last_checkpoints_are_kept_and_each_can_be_read(tmp_path):
    saved(tmp_path, steps=(1, 3, 10), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "3"]
    assert checkpoint.latest(tmp_path) == 10
    assert checkpoint.restore(tmp_path, tiny.state(), step=3).step == 3


@pytest.mark.parametrize("which", ["ema", "params"])
def test_parameters_alone_need_neither_network_nor_optimizer(tmp_path, which):
    state = saved(tmp_path)
    params = checkpoint.load_params(tmp_path, which)
    chex.assert_trees_all_equal(jax.device_get(params), jax.device_get(getattr(state, which)))
    assert all(leaf.devices() == {DEVICES[0]} for leaf in jax.tree.leaves(params))


def test_some_of_the_parameters(tmp_path):
    """Those of other entries stay on the disk."""
    params = {"network": jnp.arange(3.0), "text": [{"kernel": jnp.ones((2, 2))}, {"kernel": jnp.zeros(2)}]}
    with checkpoint.opened(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, 1, {"ema": params, "params": params})
    chex.assert_trees_all_equal(checkpoint.load_params(tmp_path), params)
    chex.assert_trees_all_equal(checkpoint.load_params(tmp_path, only=("text",)), {"text": params["text"]})


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    missing = tmp_path / "none"
    assert checkpoint.latest(missing) is None
    assert checkpoint.latest(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        checkpoint.restore(missing, tiny.state())
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        checkpoint.load_params(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint of step 5 in"):
        checkpoint.load_params(tmp_path, step=5)
    assert not missing.exists()


def test_an_interrupted_save_leaves_the_previous_checkpoint_usable(tmp_path):
    state = saved(tmp_path)
    torn = tmp_path / "2.orbax-checkpoint-tmp"  # how Orbax names what is not yet complete
    (torn / "state").mkdir(parents=True)
    (torn / "state" / "half").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == 1
    chex.assert_trees_all_equal(values(checkpoint.restore(tmp_path, tiny.state()).state), values(state))
    with checkpoint.opened(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, 2, state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_save_that_fails_is_reported_and_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    state = saved(tmp_path)
    with pytest.raises(TypeError), checkpoint.opened(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, 2, state, config={"a": object()})
    assert checkpoint.latest(tmp_path) == 1
    assert checkpoint.restore(tmp_path, tiny.state()).step == 1


def test_a_state_of_another_shape_is_refused_in_one_sentence(tmp_path):
    saved(tmp_path)
    state = tiny.state()
    wider = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 2)), state.params)
    message = (
        r"^the checkpoint .*/1 holds another network or optimizer: params.params.bias: \[64\] -> \[64, 2\]; [^\n]+$"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.restore(tmp_path, state._replace(params=wider))
    with pytest.raises(ValueError, match=r"; and 2 more$"):
        checkpoint.restore(tmp_path, state._replace(params={"other": wider, "more": wider}))
    with pytest.raises(ValueError, match=r"opt_state.1.0.mu.params.bias: \[64\] -> absent"):
        checkpoint.restore(tmp_path, state._replace(opt_state=()))


def test_differences_are_named_with_both_values():
    old = {"a": 1, "net": {"width": 64, "blocks": [1, 2]}, "gone": True}
    new = {"a": 1, "net": {"width": 32, "blocks": (1, 2)}, "new": None}
    assert compare.differences(old, new) == [
        "net.width: 64 -> 32",
        "gone: True -> absent",
        "new: absent -> None",
    ]
    assert compare.differences(old, new, ignore=["gone", "net.width", "new"]) == []
    assert compare.differences(old, old) == []


def test_another_configuration_is_refused_by_name(tmp_path):
    saved(tmp_path, config={"width": 64, "seed": 0})
    with pytest.raises(ValueError, match=r"another configuration: width: 64 -> 32; seed: 0 -> 1$"):
        checkpoint.restore(tmp_path, tiny.state(), config={"width": 32, "seed": 1})


def test_a_setting_that_a_newer_version_added_is_no_difference(tmp_path):
    saved(tmp_path, config={"width": 64})
    assert checkpoint.restore(tmp_path, tiny.state(), config={"width": 64, "net": {"patch": 1}}).step == 1
    with pytest.raises(ValueError, match=r"another configuration: width: 64 -> 32$"):
        checkpoint.restore(tmp_path, tiny.state(), config={"width": 32, "net": {"patch": 1}})
    assert checkpoint.restore(tmp_path, tiny.state(), config={"width": 64, "seed": 1}, ignore=["seed"]).step == 1


def test_nothing_is_printed(tmp_path, capfd, recwarn):
    saved(tmp_path, steps=(1, 2, 3))
    checkpoint.restore(tmp_path, tiny.state())
    checkpoint.load_params(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not [w for w in recwarn if "orbax" in str(w.filename) or "harding" in str(w.message)]


@pytest.mark.parametrize("when", ["while it is verified", "while it is read"])
def test_a_reader_gets_one_whole_checkpoint_while_a_training_replaces_it(tmp_path, monkeypatch, when):
    """The training saves checkpoint 2 and deletes checkpoint 1 in the middle of reading that."""
    state = saved(tmp_path, steps=(1,), keep=1)
    other = trained(DEVICES[:2], steps=3)
    module, name = (checkpoint.manifest, "verify") if when == "while it is verified" else (checkpoint.ocp, "load")
    real, calls = getattr(module, name), []

    def interrupted(path, *arguments):
        calls.append(path.name)
        if len(calls) == 1:
            with checkpoint.opened(tmp_path, keep=1) as checkpoints:
                checkpoint.save(checkpoints, 2, other)
            assert checkpoint.steps(tmp_path) == [2]
        return real(path, *arguments)

    monkeypatch.setattr(module, name, interrupted)
    params = checkpoint.load_params(tmp_path)
    assert calls == ["1", "2"]
    chex.assert_trees_all_equal(jax.device_get(params), jax.device_get(other.ema))
    assert not np.array_equal(params["params"]["bias"], state.ema["params"]["bias"])
    with pytest.raises(FileNotFoundError, match="there is no checkpoint of step 1 in"):
        checkpoint.load_params(tmp_path, step=1)
