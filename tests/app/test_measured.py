"""What `sample.py` measures: the true pictures, the operators by name, the noise; and its guidances by name as formulas."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import reverse, schedule
from guided_jax.app import experiments
from guided_jax.app import run as runs
from guided_jax.app.sample import guidances as methods
from guided_jax.app.sample import inverse as measurement
from guided_jax.prediction import Prediction
from guided_jax.storage import images

RANDOM = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 1), dtype=np.uint8)
RUN = runs.Run(experiments.load("digits"), runs.Facts((4, 6, 1), 2, (0.5, 0.5)), None, None, None)


@pytest.fixture
def files(tmp_path):
    """Two pictures in an npz file and a third, grey in RGB, as a PNG."""
    images.save_npz(tmp_path / "two.npz", RANDOM[:2])
    images.save_png(tmp_path / "third.png", RANDOM[2].repeat(3, -1))
    return str(tmp_path / "two.npz"), str(tmp_path / "third.png")


def look(files, **settings):
    return measurement.looking(measurement.Measurement(files, **settings), RUN, 0)


def test_pictures_of_all_files_are_taken_in_turn(files):
    seen = look(files, hole="0:1,0:1")(np.arange(7))
    truth = images.from_uint8(RANDOM)[np.arange(7) % 3]
    truth[:, 0, 0] = 0
    np.testing.assert_allclose(seen, truth, atol=1e-6)


@pytest.mark.parametrize(
    ("hole", "rows", "columns"),
    [
        ("left", slice(0, 4), slice(0, 3)),
        ("right", slice(0, 4), slice(3, 6)),
        ("top", slice(0, 2), slice(0, 6)),
        ("bottom", slice(2, 4), slice(0, 6)),
        ("centre", slice(1, 3), slice(1, 5)),
        ("1:4,2:3", slice(1, 4), slice(2, 3)),
    ],
)
def test_holes(hole, rows, columns):
    expected = np.ones((4, 6, 1))
    expected[rows, columns] = 0
    np.testing.assert_array_equal(measurement.observed(hole, (4, 6, 1)), expected)


def test_noise_is_of_the_index_and_never_in_the_hole(files):
    seen, clean = (look(files, noise_std=std)(np.arange(6)) for std in (0.1, 0.0))
    noise = (seen - clean)[:, :, :3]
    assert (seen[:, :, 3:] == 0).all()
    assert 0.05 < noise.std() < 0.2
    assert (noise[:3] != noise[3:]).any()  # of the same picture
    np.testing.assert_array_equal(look(files, noise_std=0.1)(np.arange(4, 6)), seen[4:])


def test_what_was_seen_is_shown_at_the_size_of_the_pictures(files):
    seen = look(files, operator="super-resolution")(np.arange(3))
    shown = measurement.picture(seen, (4, 6, 1))
    means = RANDOM.reshape(3, 2, 2, 3, 2, 1).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(shown, means, atol=1)


def test_compose_by_name_is_its_formula():
    """--scale for the label, --also-scale for the others; without that --scale for all."""
    predictions = {
        label: Prediction(jnp.array([0.1, value]), jnp.array([value, 0.5]))
        for label, value in {None: 0.3, 0: 1.0, 1: -0.4, 2: 0.7}.items()
    }
    for also_scale, scales in {(1.5, -0.5): (2, 1.5, -0.5), (): (2, 2, 2)}.items():
        fields = dict.fromkeys(methods.Parts._fields) | {
            "model": lambda label: lambda x_t, level: predictions[label],
            "label": 0,
            "scale": 2.0,
            "knobs": SimpleNamespace(also=(1, 2), also_scale=also_scale),
        }
        guided, _ = methods.build("compose", methods.Parts(**fields), reverse.ddim())
        found = guided(jnp.zeros(2), schedule.at(schedule.cosine(10), 5))
        for view in ("x_0", "eps"):
            u, *each = (getattr(predictions[label], view) for label in (None, 0, 1, 2))
            expected = u + sum(scale * (c - u) for scale, c in zip(scales, each, strict=True))
            np.testing.assert_allclose(getattr(found, view), expected, atol=1e-6)
