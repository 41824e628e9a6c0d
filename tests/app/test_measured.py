"""What `sample.py` measures: the true pictures, the operators by name, the noise; and its guidances by name as formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import model, operators, schedule
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app.sample import diagnostics, guidances, inverse
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Measurement, Method
from guided_jax.app.sample.resolve import resolve
from guided_jax.storage import images

RANDOM = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 1), dtype=np.uint8)
RUN = runs.from_params(
    model.Model(None, schedule.cosine(10), shape=(4, 6, 1)), facts.Facts((4, 6, 1), 2, (0.5, 0.5)), {}
)


@pytest.fixture
def files(tmp_path):
    """Two pictures in an npz file and a third, grey in RGB, as a PNG."""
    images.save_npz(tmp_path / "two.npz", RANDOM[:2])
    images.save_png(tmp_path / "third.png", RANDOM[2].repeat(3, -1))
    return str(tmp_path / "two.npz"), str(tmp_path / "third.png")


def look(files, **settings):
    measure = inverse.make_measure(Method(measurement=Measurement(files, **settings)), RUN, 0)
    return lambda indices: measure(indices).y


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
    np.testing.assert_array_equal(inverse.observed(hole, (4, 6, 1)), expected)


def test_a_share_of_the_pixels_is_hidden_in_all_pictures_alike(files):
    seen = look(files, hole="random:0.4")(np.arange(3))
    hidden = np.all(seen == 0, (0, 3))
    assert 4 <= hidden.sum() <= 16
    truth = images.from_uint8(RANDOM)
    np.testing.assert_allclose(seen, np.where(hidden[None, :, :, None], 0, truth), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "operator"),
    [
        ("motion", {"blur_length": 2.0, "blur_angle": 90.0}, operators.motion_blur(4, 6, 2.0, 90.0)),
        ("clipping", {"exposure": 3.0}, operators.clipping(3.0)),
    ],
)
def test_operators_by_name_are_those_of_the_library(files, name, settings, operator):
    seen = look(files, operator=name, **settings)(np.arange(3))
    truth = jnp.asarray(images.from_uint8(RANDOM))
    np.testing.assert_allclose(seen, jax.vmap(operator.forward)(truth), atol=1e-5)


def test_jpeg_of_pictures_without_blocks_is_refused(files):
    with pytest.raises(ValueError, match="goes by 8x8 pixels, and the run draws 4x6"):
        look(files, operator="jpeg")


def test_masks_are_taken_in_turn_and_white_is_the_hole(files, tmp_path):
    masks = np.zeros((2, 4, 6, 3), np.uint8)
    masks[0, :2], masks[0, 2:], masks[1, :, 4:] = 128, 127, 255
    images.save_npz(tmp_path / "masks.npz", masks)  # of three channels, for grey pictures
    settings = Measurement(files, mask=(str(tmp_path / "masks.npz"),), noise_std=0.1)
    seen, known, _ = inverse.make_measure(Method(measurement=settings), RUN, 0)(np.arange(4))
    assert known.shape == (4, 4, 6, 1)
    np.testing.assert_array_equal(known[..., 0], np.tile(masks[..., 0] < 128, (2, 1, 1)))
    noise = seen - known * images.from_uint8(RANDOM[np.arange(4) % 3])
    assert (noise[known == 0] == 0).all()
    assert 0.05 < noise[known == 1].std() < 0.2


def test_a_mask_without_a_hole_is_refused(tmp_path):
    """Zeros and ones in an npz file, which are all black, too."""
    images.save_npz(tmp_path / "ones.npz", np.ones((1, 4, 6, 1), np.uint8))
    with pytest.raises(ValueError, match="--mask has a picture without white, 128 or more"):
        inverse.read_masks((str(tmp_path / "ones.npz"),), (4, 6, 1))


def test_noise_is_of_the_index_and_never_in_the_hole(files):
    seen, clean = (look(files, noise_std=std)(np.arange(6)) for std in (0.1, 0.0))
    noise = (seen - clean)[:, :, :3]
    assert (seen[:, :, 3:] == 0).all()
    assert 0.05 < noise.std() < 0.2
    assert (noise[:3] != noise[3:]).any()  # of the same picture
    np.testing.assert_array_equal(look(files, noise_std=0.1)(np.arange(4, 6)), seen[4:])


def test_what_was_seen_is_shown_at_the_size_of_the_pictures(files):
    seen = look(files, operator="super-resolution")(np.arange(3))
    shown = inverse.picture(seen, facts.Facts((4, 6, 1), 1, (1.0,)))
    means = RANDOM.reshape(3, 2, 2, 3, 2, 1).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(shown, means, atol=1)


def test_compose_by_name_is_its_formula():
    """--scale for the label, --also-scale for the others; without that --scale for all."""
    eps = {0: 1.0, 1: -0.4, 2: 0.7, 3: 0.3}  # 3 is the null label
    values = jnp.array([eps[label] for label in range(4)])
    network = lambda params, x, t, label: jnp.array([values[label], 0.5])  # noqa: E731
    level = schedule.at(schedule.cosine(10), 5)
    for also_scale, scales in {(1.5, -0.5): (2, 1.5, -0.5), (): (2, 2, 2)}.items():
        request = Method("compose", also=(1, 2), also_scale=also_scale)
        run = runs.from_params(
            model.Model(network, schedule.cosine(10), shape=(2,), null=3), RUN.facts, {"diffusion": {}}
        )
        found = guidances.guide(request, Parts(run, request, {"diffusion": {}}, 0, 2.0))(jnp.zeros(2), level)
        each = [run_prediction(run, label, level, jnp.zeros(2)) for label in (3, 0, 1, 2)]
        for view in ("x_0", "eps"):
            u, *others = (getattr(prediction, view) for prediction in each)
            expected = u + sum(scale * (c - u) for scale, c in zip(scales, others, strict=True))
            np.testing.assert_allclose(getattr(found, view), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["classifier-free", "cfg++", "zero-star", "compose", "classifier-free+rescale+ramp"])
def test_one_program_of_the_network_serves_both_conditions(name):
    table = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)  # 3 is the null label
    network = lambda params, x, t, label: jnp.tanh(params @ x + table[label])  # noqa: E731
    run = runs.from_params(
        model.Model(network, schedule.cosine(10), shape=(3,), null=3), RUN.facts, {"diffusion": None}
    )
    level, also = schedule.at(schedule.cosine(10), 5), (1,) if name == "compose" else ()

    def guided(params, label, observed):
        parts = Parts(run, Method(name, also=also), {"diffusion": params}, label, 2.0, observed=observed)
        return guidances.guide(parts.request, parts)(jnp.ones(3), level)

    weights = jnp.linspace(-1.0, 2.0, 9).reshape(3, 3)
    found, separate = (jax.jit(lambda p, y, o=o: guided(p, y, o))(weights, 2) for o in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, separate)
    calls = [str(jax.make_jaxpr(lambda p, y, o=o: guided(p, y, o))(weights, 2)).count("tanh") for o in (False, True)]
    assert calls == ([2, 3] if also else [1, 2])


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_diagnostics_of_a_threshold_count_no_guidance_where_there_is_none(scale):
    """What +dynamic does to both models is no guidance; at scale 0 both are the unguided one."""
    network = lambda params, x, t, label: jnp.array([9.0, -3.0]) * (1 + label)  # noqa: E731
    table = schedule.cosine(10)
    own = model.Model(network, table, "x_0", shape=(2,), null=1)
    run = runs.from_params(own, RUN.facts, {"diffusion": {}})
    request = Method("classifier-free+dynamic", steps="3")
    recipe, parts = resolve(request, run), Parts(run, request, {"diffusion": {}}, 0, scale)
    level, x = schedule.at(table, 5), jnp.ones(2)
    observe = diagnostics.observer(parts, request, False, recipe.clip)
    seen = observe(x, recipe.guide(parts)(x, level), level)
    assert (float(seen["guidance"]) == 0) == (scale == 0)


def test_conditions_of_another_structure_are_called_apart():
    """A network of one's own may take None, or fewer numbers, where it has no condition."""

    def network(params, x, t, condition):
        return jnp.tanh(x + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(condition)))

    for null in ({}, {"words": jnp.ones(2)}):
        own = model.Model(network, schedule.cosine(10), shape=(3,), null=null)
        run = runs.from_params(own, RUN.facts, {"diffusion": {}}, raw=lambda label: {"words": jnp.full(4, label)})
        parts = Parts(run, Method("classifier-free"), {"diffusion": {}}, 0.5, 2.0)
        level = schedule.at(schedule.cosine(10), 5)
        found = guidances.guide(parts.request, parts)(jnp.ones(3), level)
        c, u = (run_prediction(run, condition, level, jnp.ones(3)) for condition in (run.raw(0.5), null))
        np.testing.assert_allclose(found.eps, u.eps + 2 * (c.eps - u.eps), atol=1e-6)


def run_prediction(run, condition, level, x):
    return runs.make_denoiser(run, {}, condition)(x, level)
