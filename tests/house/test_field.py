"""Inputs that failed in the field, as small as they get; each asserts the right value."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from PIL import Image

from guided_jax import data, denoiser, models, reverse, sampler, schedule
from guided_jax.app import limits, settings
from guided_jax.app.train import checks
from guided_jax.storage import images, streaming

LEVELS = schedule.respace(schedule.cosine(1000), 5)


def folder_of(root, ending="png", mode="L", name="{}"):
    """Two classes of twelve pictures each below `root`."""
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(12):
            Image.new(mode, (4, 4)).save(root / label / f"{name.format(i)}.{ending}")


def first_picture(root, **settings):
    return data.load(f"folder:{root}", "train", **settings).read(np.arange(1))["image"][0]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    target = tmp_path / "samples.npz"
    with streaming.open_stream(target, 4, (2, 2, 1), {"seed": 1}) as (stream, _):
        with pytest.raises(ValueError, match="in use"), streaming.open_stream(target, 4, (2, 2, 1), {"seed": 2}):
            pass
        streaming.put(stream, 0, np.full((4, 2, 2, 1), 7, np.uint8), np.zeros(4, int))
        streaming.finish(stream, target)
    assert (np.load(target)["arr_0"] == 7).all()


def test_the_default_sampler_runs_in_shard_map():
    denoise = denoiser.from_network(lambda x, t: 0.5 * x, "eps")

    def draw(key):
        return sampler.sample(key, denoise, reverse.dpm_solver(2), jax.random.normal(key, (3,)), LEVELS)

    mesh, keys = Mesh(np.array(jax.devices()[:2]), ("d",)), sampler.keys(jax.random.key(0), jnp.arange(4))
    spec = PartitionSpec("d")
    found = jax.jit(jax.shard_map(jax.vmap(draw), mesh=mesh, in_specs=spec, out_specs=spec))(keys)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(draw))(keys), atol=1e-6)


def test_a_folder_with_train_alone_has_its_classes(tmp_path):
    folder_of(tmp_path / "train")
    assert data.load(f"folder:{tmp_path}", "train").num_classes == 2


def test_one_stray_picture_beside_class_folders_is_refused(tmp_path):
    folder_of(tmp_path, name="IMG_{}")
    Image.new("L", (4, 4)).save(tmp_path / "contact_sheet.png")
    with pytest.raises(ValueError, match=r"1 of the 25 pictures in .* lie beside the folders"):
        data.load(f"folder:{tmp_path}", "train")


def test_webp_beside_png_is_read(tmp_path):
    folder_of(tmp_path)
    folder_of(tmp_path, "webp", "RGB", "w{}")
    place = f"folder:{tmp_path}"
    assert len(data.load(place, "train", channels=3)) + len(data.load(place, "test", channels=3)) == 48


def test_float_pictures_keep_their_values():
    source = data.in_memory(np.full((4, 2, 2, 1), 0.9, np.float32), np.zeros(4, int), 1)
    np.testing.assert_array_equal(source.read(np.arange(4))["image"], np.float32(0.9))


def test_there_and_back_a_grey_value_falls_by_one_at_most():
    """[ADM] truncates: exact would be to round, and would not be its pictures."""
    grey = np.arange(256, dtype=np.uint8)
    assert set((grey.astype(int) - images.to_uint8(images.from_uint8(grey))).tolist()) <= {0, 1}


def test_a_label_beyond_the_classes_is_refused():
    unet = models.UNet(1, 8, (1,), 1, (), num_head_channels=8, num_classes=4, num_groups=4)
    x = jnp.zeros((4, 4, 1))
    params = jax.eval_shape(lambda: unet.init(jax.random.key(0), x, 0.0, 0))
    for label in (7, -1):
        with pytest.raises(ValueError, match=str(label)):
            jax.eval_shape(lambda params, label=label: unet.apply(params, x, 0.0, label), params)


def test_a_network_that_returns_more_than_its_output_is_refused():
    denoise = denoiser.from_network(lambda x, t: (x, 1), "eps")
    with pytest.raises(ValueError, match="tuple"):
        denoise(jnp.ones(3), schedule.at(schedule.cosine(10), 5))


def test_an_eps_network_is_not_trained_on_a_schedule_that_ends_in_pure_noise():
    assert float(schedule.linear(20).alpha[-1]) == 0
    with pytest.raises(ValueError, match=r"--schedule\.num-steps"):
        checks.check(settings.Experiment(schedule=settings.Schedule(name="linear", num_steps=20)))


def test_the_room_of_samples_is_reserved(tmp_path):
    with streaming.open_stream(tmp_path / "samples.npz", 4096, (8, 8, 1), {}) as (stream, _):
        assert os.stat(stream.folder / "arr_0.npy").st_blocks * 512 >= 4096 * 64


def test_a_sample_that_is_not_finite_is_no_black_picture():
    with pytest.raises(ValueError, match="1 of 1 pictures are not finite: 0"):
        images.to_uint8(np.full((1, 2, 2, 1), np.nan, np.float32))


@pytest.mark.parametrize(("seed", "right"), [(-1, False), (0, True), (2**32 - 1, True), (2**32, False)])
def test_two_seeds_are_never_the_same_key(seed, right):
    if right:
        limits.check(settings.Experiment(seed=seed))
    else:
        with pytest.raises(ValueError, match="--seed"):
            limits.check(settings.Experiment(seed=seed))


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    """Orientation 6: what is stored at the top is shown on the right."""
    (tmp_path / "a").mkdir()
    pixels, exif = np.zeros((16, 16, 3), np.uint8), Image.Exif()
    pixels[:8], exif[0x112] = 255, 6
    for i in range(2):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i}.jpg", exif=exif)
    picture = first_picture(tmp_path).astype(float)
    assert picture[:, 8:].mean() > 250
    assert picture[:, :8].mean() < 5


def test_12_bits_in_a_16_bit_file_are_not_16_grey_levels(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(2):
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "a" / f"{i}.png")
    with pytest.raises(ValueError, match="its 16-bit values stay below 4096, which leaves 16 levels of 8 bits"):
        first_picture(tmp_path)


def test_what_is_transparent_shows_the_background(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(2):
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a" / f"{i}.png")
    np.testing.assert_array_equal(first_picture(tmp_path, channels=3)[0, 0], [255, 255, 255])


def test_64_bit_mode_keeps_the_type_of_x():
    with jax.enable_x64(True):
        denoise = denoiser.from_network(lambda x, t: x, "eps")
        draw = lambda x: sampler.sample(jax.random.key(0), denoise, reverse.dpm_solver(2), x, LEVELS)  # noqa: E731
        found = jax.eval_shape(draw, jnp.ones(3, jnp.float32))
    assert found.dtype == jnp.float32
