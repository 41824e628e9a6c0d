"""Random crops: within the picture, resized as the whole is, another draw at each level, gradients as by differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from guided_jax import criteria, guidance, sampler, schedule
from guided_jax.criteria import Box, crop, draw_box, over_cutouts
from guided_jax.models.clip import preprocess
from guided_jax.prediction import Prediction
from guided_jax.reverse import ddim

PICTURE = jax.random.normal(jax.random.key(0), (12, 9, 3))
LEVELS = schedule.respace(schedule.cosine(100), 5)
LEVEL, OTHER = schedule.at(LEVELS, 2), schedule.at(LEVELS, 3)


def test_the_largest_box_is_the_whole_picture_as_clip_resizes_it():
    square = PICTURE[:9]
    for size in (4, 9, 14):
        whole = jax.jit(lambda x, size=size: crop(x, Box(0.0, 0.0, 9.0), size))(square)
        want = jax.jit(lambda x, size=size: preprocess(x, size, (0.5,) * 3, (0.5,) * 3))(square)
        np.testing.assert_allclose(whole, want, atol=1e-5)


def test_a_crop_is_that_part_of_the_picture():
    """Of a picture that is linear in the row and the column, enlarged, each pixel is the value at its middle."""
    row, column = np.meshgrid(np.arange(20.0), np.arange(24.0), indexing="ij")
    picture = jnp.asarray((row + 100 * column)[..., None], jnp.float32)
    found = jax.jit(lambda box: crop(picture, box, 10))(Box(jnp.float32(3.25), jnp.float32(7.5), jnp.float32(5.0)))
    middle = (np.arange(10) + 0.5) * 0.5 - 0.5
    want = (3.25 + middle)[:, None] + 100 * (7.5 + middle)[None]
    np.testing.assert_allclose(found[..., 0], want, rtol=1e-4)


def test_boxes_lie_within_the_picture_and_fill_the_sides_and_places_that_they_may():
    keys = jax.random.split(jax.random.key(1), 4000)
    for power in (1.0, 2.0):
        top, left, side = map(
            np.asarray, jax.jit(jax.vmap(lambda key, power=power: draw_box(key, 12, 9, 0.25, power)))(keys)
        )
        assert float(side.min()) >= 9 * 0.25
        assert float(side.max()) <= 9
        # n is uniform and independent of the place
        n = ((side / 9 - 0.25) / 0.75) ** (1 / power)
        for share in (n, top / (12 - side), left / (9 - side)):
            np.testing.assert_allclose(np.quantile(share, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
        assert abs(np.corrcoef(n, top / (12 - side))[0, 1]) < 0.05


def of_pixels(crop, level):
    """A criterion that is not linear and knows the place of each pixel."""
    weight = jnp.linspace(-1.0, 1.0, crop.size).reshape(crop.shape)
    return jnp.sum(jnp.sin(weight * crop))


def test_it_is_the_mean_over_the_crops_of_its_level():
    key = jax.random.key(2)
    found = jax.jit(lambda key, level: over_cutouts(of_pixels, key, 3, 5, 0.4, 1.5)(PICTURE, level))
    of_one = jax.jit(lambda key: of_pixels(crop(PICTURE, draw_box(key, 12, 9, 0.4, 1.5), 5), LEVEL))
    want = [of_one(each) for each in jax.random.split(schedule.fold_in(key, LEVEL), 3)]
    np.testing.assert_allclose(found(key, LEVEL), np.mean(want), rtol=1e-5)
    assert found(key, LEVEL) == found(key, LEVEL)
    for other in (found(key, OTHER), found(jax.random.key(3), LEVEL)):
        assert abs(found(key, LEVEL) - other) > 1e-3


def test_its_gradient_is_that_of_differences_for_shrunk_and_enlarged_crops():
    for size in (3, 12):
        criterion = over_cutouts(of_pixels, jax.random.key(4), 2, size)
        check_grads(
            jax.jit(lambda x, criterion=criterion: criterion(x, LEVEL)), (PICTURE,), 1, ["rev"], 1e-2, 1e-2, 1e-2
        )


def test_every_step_of_a_sampler_draws_crops_in_one_program():
    seen = []

    def criterion(crop, level):
        jax.debug.callback(lambda value: seen.append(float(value)), crop[0, 0, 0])
        return 0.0 * crop.sum()

    denoise = lambda x, level: Prediction(jnp.broadcast_to(jnp.arange(64.0), (64, 64))[..., None], x)  # noqa: E731
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def draw(key):
        guided = guidance.off_the_shelf(denoise, over_cutouts(criterion, key, 2, 8), 1.0)
        return sampler.sample(key, guided, ddim(), jnp.zeros((64, 64, 1)), LEVELS)

    compiled = jax.jit(draw)
    jax.block_until_ready([compiled(jax.random.key(seed)) for seed in (0, 1)])
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 2 * 2 * 5  # the column of the corner: of 2 crops, in 5 steps, of 2 examples


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="count is 0; give 1 crop or more"):
        criteria.over_cutouts(of_pixels, jax.random.key(0), 0, 8)
    with pytest.raises(ValueError, match=r"jax\.random\.key"):
        criteria.over_cutouts(of_pixels, None, 1, 8)
