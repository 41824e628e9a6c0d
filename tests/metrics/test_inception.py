"""Inception-v3 against a reference in torch (tests/golden/inception_reference.py), on weights that both sides draw."""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from guided_jax import metrics
from guided_jax.app import cli
from guided_jax.app import metrics as metrics_command
from guided_jax.metrics.inception import inception_features, interpolation, resize
from guided_jax.models.inception import InceptionOutput, InceptionV3
from guided_jax.pretrained.inception import load
from guided_jax.storage import images
from tests.golden import inception_reference as reference

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "inception.npz", allow_pickle=False)


def weights(case):
    """The weights of a recorded network: its keys and shapes, filled by the reference's generator."""
    keys, shapes = GOLDEN[f"{case}/keys"], GOLDEN[f"{case}/shapes"]
    return reference.weights({str(key): ast.literal_eval(str(shape)) for key, shape in zip(keys, shapes, strict=True)})


def check(case):
    width, fid, classes = reference.CASES[case]
    state_dict = weights(case)
    module, params = load(state_dict, width)
    assert (module.fid, module.num_classes) == (fid, classes)
    extract = metrics.extractor(inception_features(module, params, "pytorch-fid"), jax.devices()[:2], 2)
    found = next(extract([GOLDEN["pictures"]]))
    pairs = {"pool": found.pool, "spatial": found.spatial, "logits": found.logits + state_dict["fc.bias"]}
    for name, value in pairs.items():
        want = GOLDEN[f"{case}/{name}"].reshape(value.shape)
        assert np.abs(value - want).max() < 2e-4 * np.sqrt((want**2).mean()), name
    return found


def test_the_network_of_fid():
    """An eighth of the width, all blocks."""
    assert check("fid").spatial.shape == (2, 17 * 17 * 7)


@pytest.mark.slow
def test_torchvisions_network_has_other_pools():
    """The same weights but for the last layer; it meets its own recording, which is another."""
    plain, fid = check("torchvision").spatial, GOLDEN["fid/spatial"].reshape(2, -1)
    assert np.abs(fid - plain).max() > 0.1 * np.sqrt((plain**2).mean())


@pytest.mark.slow
def test_at_full_width():
    """24 M parameters: 2048 features, 1008 logits."""
    assert check("full").pool.shape == (2, 2048)


def test_every_wrong_key_is_named_in_one_error():
    state_dict = weights("fid")
    del state_dict["Mixed_6d.branch1x1.bn.running_mean"], state_dict["fc.weight"]
    state_dict["Mixed_5b.branch_pool.conv.weight"] = np.zeros((4, 4, 1, 1), np.float32)
    state_dict["Mixed_8a.conv.weight"] = np.zeros(1)
    state_dict |= {"AuxLogits.fc.bias": np.zeros(3), "Mixed_5b.branch1x1.bn.num_batches_tracked": np.zeros(())}
    with pytest.raises(ValueError, match="do not fit") as info:
        load(state_dict, reference.CASES["fid"][0])
    missing, surplus, misshapen = str(info.value).split(";")
    assert missing.endswith("missing Mixed_6d.branch1x1.bn.running_mean, fc.weight")
    assert surplus == " surplus Mixed_8a.conv.weight"
    assert "misshapen Mixed_5b.branch_pool.conv.weight (torch shape (4, 4, 1, 1), here (1, 1, 24, 4))" in misshapen


def test_the_two_ways_to_resize():
    """Two pixels to four. TensorFlow's: at 0, 1/2, 1, 3/2; half-pixel centres: at -1/4, 1/4, 3/4, 5/4, cut at the ends."""
    x = np.array([0.0, 1.0])
    np.testing.assert_allclose(interpolation(2, 4, half_pixel=False) @ x, [0, 0.5, 1, 1])
    np.testing.assert_allclose(interpolation(2, 4, half_pixel=True) @ x, [0, 0.25, 0.75, 1])
    picture = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    want = jax.image.resize(picture, (9, 9, 3), "linear", antialias=False)
    np.testing.assert_allclose(resize(picture, True, 9), want, atol=1e-6)
    rows, columns = (np.arange(9) * size / 9 for size in (5, 7))
    exact = interpolated(picture, np.minimum(rows, 4), np.minimum(columns, 6))
    np.testing.assert_allclose(resize(picture, False, 9), exact, atol=1e-6)


def interpolated(picture, rows, columns):
    """By scipy, at these positions."""
    from scipy.ndimage import map_coordinates

    places = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([map_coordinates(picture[..., c], places, order=1) for c in range(3)], axis=-1)


def test_other_channels_are_refused():
    features = inception_features(InceptionV3(), {"params": {"fc": {"bias": 0}}})
    with pytest.raises(ValueError, match="1 or 3 channels, these have 4"):
        features(np.zeros((4, 4, 4), np.uint8))


@pytest.mark.slow
def test_the_command_measures_by_inception(tmp_path, capsys):
    """FID and sFID of a file against statistics in ADM's format, with the whole network."""
    np.savez(tmp_path / "weights.npz", **weights("full"))
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 1), np.uint8)
    images.save_npz(tmp_path / "samples.npz", pictures)
    images.save_npz(tmp_path / "other.npz", pictures[::-1] // 2)
    command = [tmp_path / "samples.npz", tmp_path / "other.npz", "--inception", tmp_path / "weights.npz"]
    cli.script(
        metrics_command.main, [str(word) for word in (*command, "--save-statistics", tmp_path / "statistics.npz")]
    )
    out = capsys.readouterr().out
    assert all(f"| {name} | " in out for name in ("FID", "sFID", "KID", "precision", "Inception Score"))
    stored = metrics.load_statistics(tmp_path / "statistics.npz")
    assert (len(stored.mean), len(stored.spatial[0]), stored.size) == (2048, 2023, 12)


@pytest.mark.parametrize(
    ("preprocessing", "white", "second"),
    [("tensorflow", 127 / 128, 255 * 7 / 299 / 128 - 1), ("pytorch-fid", 1, -1)],
)
def test_the_input_of_the_network(preprocessing, white, second):
    """Grey in all three channels, at the network's size, in the range that each of the two takes.

    second: the second of 299 columns made of 7, the first black and the others white. Counted from the corner of the first
    pixel it is 7/299 on the way; half-pixel centres put it beside the first one's, where that alone counts.
    """

    class Shown(InceptionV3):
        def apply(self, params, x):
            shown.append(np.asarray(x))
            return InceptionOutput(x[0, 0], x[:2, :2], x[0, 0])

    shown = []
    features = inception_features(Shown(), {"params": {"fc": {"bias": np.zeros(3, np.float32)}}}, preprocessing)
    for value in (0, 255):
        features(np.full((5, 7, 1), value, np.uint8))
    features(np.where(np.arange(7)[None, :, None] > 0, np.uint8(255), np.uint8(0)).repeat(5, 0))
    assert shown[0].shape == (299, 299, 3)
    np.testing.assert_allclose(shown[0], -1, atol=1e-6)
    np.testing.assert_allclose(shown[1], white, atol=1e-6)
    np.testing.assert_allclose(shown[2][:, 1], second, atol=1e-5)
