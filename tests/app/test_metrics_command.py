"""From pictures to numbers: features on several devices, files that others read, and the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from guided_jax import metrics
from guided_jax.app import cli
from guided_jax.app import metrics as metrics_command
from guided_jax.metrics import evaluation, sets
from guided_jax.metrics.features import Features
from guided_jax.storage import images

PICTURES = np.random.default_rng(0).integers(0, 256, (30, 4, 6, 1), np.uint8)
LABELS = np.arange(30) % 3


def seen(picture):
    """A network of two layers, closed over its weights, which looks at the mean too."""
    weights = jax.random.normal(jax.random.key(0), (24, 5))
    hidden = jnp.tanh(picture.astype(jnp.float32).reshape(-1) / 255 @ weights)
    return Features(hidden, spatial=hidden[:2] ** 2, logits=hidden[:3])


def extracted(devices, batch_size, chunk=8):
    chunks = (PICTURES[start : start + chunk] for start in range(0, len(PICTURES), chunk))
    return metrics.summarize(metrics.extractor(seen, jax.devices()[:devices], batch_size)(chunks), LABELS)


def test_one_device_and_four_see_the_same_bits():
    one, four = extracted(1, 2), extracted(4, 8)
    for name in ("features", "logits"):
        np.testing.assert_array_equal(getattr(one, name), getattr(four, name))
    np.testing.assert_allclose(four.moments.mean, one.moments.mean, rtol=1e-12)
    np.testing.assert_allclose(four.spatial.covariance, metrics.moments(four.features[:, :2] ** 2)[1], rtol=1e-5)
    assert four.features.shape == (30, 5)
    # In order, each picture by itself: the last, padded chunk of six included.
    np.testing.assert_allclose(four.features[29], seen(PICTURES[29]).pool, rtol=1e-5)


def test_the_spatial_distance_is_that_of_the_spatial_features():
    """sFID, beside scipy's square root of the matrix."""
    other = np.random.default_rng(1).integers(100, 256, (30, 4, 6, 1), np.uint8)
    mine, theirs = extracted(1, 5), metrics.summarize(metrics.extractor(seen, jax.devices()[:1], 5)([other]), LABELS)
    found = metrics.evaluate(mine, metrics.statistics_of(theirs, "seen"), theirs.features)
    a, b = (np.asarray(summary.features, np.float64)[:, :2] ** 2 for summary in (mine, theirs))
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c + d - 2 * linalg.sqrtm(c @ d).real)
    np.testing.assert_allclose(found["sfd"], want, rtol=1e-4)
    assert abs(found["fd"] / want - 1) > 0.1


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_the_names_of_the_metrics_are_known_before_them(kept):
    """With spatial features, logits and the reference's features, and without each of them."""
    whole, count = extracted(1, 8), 30 if kept else 19
    features = whole.features[:count]
    few = metrics.Summary(features, metrics.Moments.of(features))
    if kept != 1:
        few = few._replace(spatial=whole.spatial)
    if kept != 2:
        few = few._replace(logits=whole.logits[:count])
    reference = None if kept == 3 else whole.features
    found = metrics.evaluate(few, metrics.statistics_of(whole, "seen"), reference)
    names = evaluation.names(count, 5, few.spatial is not None, few.logits is not None, reference is not None)
    assert [name for name in evaluation.TITLES if name in found] == names
    assert ("fd_infinity" in names) == (count == 30)


def test_any_function_of_a_picture_is_a_feature_function():
    extract = metrics.extractor(lambda picture: picture[0, :2, 0] / 2, jax.devices()[:2], 4)
    np.testing.assert_array_equal(metrics.summarize(extract([PICTURES[:3]])).features, PICTURES[:3, 0, :2, 0] / 2)
    with pytest.raises(ValueError, match="no pictures"):
        metrics.summarize(iter(()))


def statistics(seed=0):
    summary = extracted(1, 8)
    rows = np.random.default_rng(seed).permutation(30)[:20]
    return metrics.statistics_of(summary._replace(moments=metrics.Moments.of(summary.features[rows])), "mine")


def test_statistics_come_back_and_are_adms_and_pytorch_fids(tmp_path):
    metrics.save_statistics(tmp_path / "a.npz", statistics(), PICTURES, LABELS)
    with np.load(tmp_path / "a.npz") as file:
        assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0", "arr_1"} <= set(file.files)
        assert file["sigma"].dtype == np.float64
    found = metrics.load_statistics(tmp_path / "a.npz")
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(statistics()), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(images.load_npz(tmp_path / "a.npz")[0], PICTURES)
    # As others write them: float32, and nothing else.
    np.savez(tmp_path / "b.npz", mu=np.float32([1, 2]), sigma=np.float32([[2, 0], [0, 3]]))
    plain = metrics.load_statistics(tmp_path / "b.npz")
    assert (plain.features, plain.size, plain.spatial, plain.mean.dtype) == ("inception", None, None, np.float64)
    with pytest.raises(ValueError, match="cannot be merged"):
        plain.moments  # noqa: B018
    assert metrics.open_pictures(tmp_path / "b.npz") is None
    images.save_npz(tmp_path / "c.npz", PICTURES)
    assert metrics.load_statistics(tmp_path / "c.npz") is None


def test_statistics_of_several_processes_are_merged_through_files(tmp_path):
    x = np.random.default_rng(0).normal(size=(21, 3))
    for i, part in enumerate(np.array_split(x, 3)):
        metrics.save_statistics(tmp_path / f"{i}.npz", metrics.Statistics(*metrics.moments(part), size=len(part)))
    parts = [metrics.load_statistics(tmp_path / f"{i}.npz").moments for i in range(3)]
    whole = metrics.merge(metrics.merge(parts[2], parts[0]), parts[1])
    np.testing.assert_allclose(whole.covariance, metrics.moments(x)[1], rtol=1e-12)


def test_pictures_are_streamed_from_the_archive(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", PICTURES, LABELS)
    found = metrics.open_pictures(tmp_path / "a.npz")
    chunks = list(found.chunks(7))
    assert [len(chunk) for chunk in chunks] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate(chunks), PICTURES)
    np.testing.assert_array_equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.ones(2)}, "one is missing"),
        ({"mu": np.ones(2), "sigma": np.ones((3, 3))}, r"\(d,\) and \(d, d\)"),
        ({"mu": np.full(1, np.nan), "sigma": np.ones((1, 1))}, "not finite"),
        ({"mu": np.ones(2), "sigma": np.eye(2), "mu_s": np.ones(2)}, "mu_s and sigma_s"),
        ({"arr_0": np.ones((2, 3, 3), np.uint8)}, "uint8"),
        ({"arr_0": np.ones((2, 3, 3, 1))}, "uint8"),
        ({"arr_0": PICTURES, "arr_1": LABELS[:3]}, "30 integers are expected"),
        ({"mu": np.array([{}], object)}, "no npz file of arrays"),
    ],
)
def test_files_that_are_not_right_are_refused(arrays, words, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        metrics.load_statistics(tmp_path / "a.npz") or metrics.open_pictures(tmp_path / "a.npz")


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of the command."""
    code = 0
    try:
        cli.script(metrics_command.main, [str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def two(tmp_path):
    """A file of samples, and one of a reference."""
    images.save_npz(tmp_path / "samples.npz", PICTURES[:14], LABELS[:14])
    images.save_npz(tmp_path / "reference.npz", PICTURES[14:], LABELS[14:])
    return tmp_path / "samples.npz", tmp_path / "reference.npz"


def test_the_command_prints_a_table_and_writes_it(two, capsys):
    """In pixels: the numbers of the library, and again by statistics from a file alone."""
    stored = two[0].parent / "statistics.npz"
    code, out, err = run(capsys, *two, "--save-statistics", stored)
    assert code == 0, err
    assert "14 pictures of 4 x 6 x 1, 3 classes, 4 to 5 of each" in out
    assert "a covariance is singular" in out
    found = json.loads((two[0].parent / "samples.metrics.json").read_text())
    mine, other = (part.reshape(len(part), -1) / 255 for part in (PICTURES[:14], PICTURES[14:]))
    want = metrics.frechet_distance(*metrics.moments(mine), *metrics.moments(other))
    np.testing.assert_allclose(found["samples"]["fd"], want, rtol=1e-4)
    assert found["samples"]["precision"] == metrics.precision_recall(other, mine).precision
    assert f"| Fréchet distance | {found['samples']['fd']:.4g} |" in out
    # What was saved is a reference of its own, and without its pictures the Fréchet distance is left.
    np.testing.assert_array_equal(images.load_npz(stored)[0], PICTURES[14:])
    bare = two[0].parent / "bare.npz"
    metrics.save_statistics(bare, metrics.load_statistics(stored))
    for file, left in ((stored, found["samples"]), (bare, {"fd": found["samples"]["fd"]})):
        code, _, err = run(capsys, two[0], file, "--out", two[0].parent / f"{file.stem}.json")
        assert code == 0, err
        again = json.loads((two[0].parent / f"{file.stem}.json").read_text())["samples"]
        assert again == pytest.approx(left, rel=1e-9)


def test_the_file_of_the_same_command_is_replaced_and_that_of_another_is_kept(two, capsys):
    assert run(capsys, *two)[0] == 0
    assert run(capsys, *two, "--devices", 2)[0] == 0
    before = (two[0].parent / "samples.metrics.json").read_text()
    code, _, err = run(capsys, *two, "--seed", 1)
    assert (code, "--overwrite" in err) == (2, True)
    assert (two[0].parent / "samples.metrics.json").read_text() == before
    assert run(capsys, *two, "--seed", 1, "--overwrite")[0] == 0


def test_a_file_of_an_earlier_version_is_recognised(two, capsys):
    """The record of the options is what argparse wrote: the same names, every value as text."""
    samples, reference = map(str, two)
    written = {
        "samples": samples,
        "reference": reference,
        **dict.fromkeys(("split", "data_dir", "inception", "preprocessing", "judge", "features"), "None"),
        "seed": "0",
    }
    path = two[0].parent / "samples.metrics.json"
    path.write_text(json.dumps({"asked": written}))
    assert run(capsys, *two)[0] == 0
    found = json.loads(path.read_text())
    assert found["asked"] == written
    assert list(found["asked"]) == list(written)
    path.write_text(json.dumps({"asked": written | {"seed": "1"}}))
    assert run(capsys, *two)[0] == 2


def test_the_help_page_fits_a_screen_and_every_option_is_listed_on_demand(capsys):
    code, page, _ = run(capsys, "--help")
    lines = page.splitlines()
    assert (code, len(lines) <= 24, max(map(len, lines)) <= 100) == (0, True, True)
    assert run(capsys, "--help-all")[1].count("--") > page.count("--")


WRONG = {
    "Unrecognized options: --feature, x": ["--feature", "x"],
    "invalid choice 'clip' for argument '--features'": ["--features", "clip"],
    "--features dino needs --dino": ["--features", "dino"],
    "--inception 'w.npz' is not read by --features dino": ["--features", "dino", "--inception", "w.npz", "--dino", "d"],
    "there is no file dino.pth": ["--dino", "dino.pth"],
    "invalid literal for int() with base 10: 'many'": ["--seed", "many"],
    "--seed is -1; give a number from 0 to": ["--seed", "-1"],
    "--devices is 0; give at least 1": ["--devices", "0"],
    "--features judge needs --judge": ["--features", "judge"],
    "--inception 'w.npz' is not read by --features pixels": ["--features", "pixels", "--inception", "w.npz"],
    "--preprocessing 'pytorch-fid' is for --features inception": ["--preprocessing", "pytorch-fid"],
    "--split and --data-dir are for data sets": ["--split", "train"],
    "there is no file nowhere.pt": ["--inception", "nowhere.pt"],
    "nowhere is no trained judge; train one with 'guided-jax judge RUN'": ["--judge", "nowhere"],
    "99 devices": ["--devices", "99"],
    "--batch-size is 0; give at least 1": ["--batch-size", "0"],
}


@pytest.mark.parametrize(("words", "arguments"), WRONG.items(), ids=WRONG)
def test_wrong_use_is_one_sentence(words, arguments, two, capsys):
    code, _, err = run(capsys, *two, *arguments)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert words in err


def test_wrong_files_are_one_sentence(two, capsys):
    (two[0].parent / "text.npz").write_text("no archive")
    metrics.save_statistics(two[0].parent / "mine.npz", statistics())
    images.save_npz(two[0].parent / "small.npz", PICTURES[:, :2])
    wrong = {
        "no such data set": (two[0], "nothing"),
        "cannot read": (two[0].with_name("none.npz"), two[1]),
        "there is no folder": (two[0], "folder:typo"),
        "a relative path begins at --data-dir": (two[0], "folder:typo"),
        "no npz file of arrays": (two[0].with_name("text.npz"), two[1]),
        "has no pictures": (two[0].with_name("mine.npz"), two[1]),
        "statistics of mine features, and pixels": (two[0], two[0].with_name("mine.npz")),
        "(4 x 6 x 1) have 24 features and the reference 12 (2 x 6 x 1)": (two[0], two[0].with_name("small.npz")),
    }
    for words, arguments in wrong.items():
        code, _, err = run(capsys, *arguments)
        words = words.replace("no such data set", "there is no data set called 'nothing'")
        assert (code, len(err.strip().splitlines()[-1:])) == (2, 1), err
        assert words in err


def test_pictures_of_another_shape_are_refused_before_they_are_read(two, capsys, monkeypatch):
    """So are statistics of other features, and pixel features of large pictures."""
    folder = two[0].parent
    images.save_npz(folder / "small.npz", PICTURES[:, :2])
    images.save_npz(folder / "large.npz", np.zeros((3, 64, 64, 3), np.uint8))
    other = metrics.Statistics(np.zeros(5), np.eye(5), features="pixels")
    metrics.save_statistics(folder / "five.npz", other)
    metrics.save_statistics(folder / "mine.npz", statistics())
    monkeypatch.setattr(metrics_command.feature_space, "make_extractors", lambda *_: pytest.fail("pictures are read"))
    for words, arguments in {
        "have 24 features and the reference 12": (two[0], folder / "small.npz"),
        "have 24 features and the reference 5 (statistics)": (two[0], folder / "five.npz"),
        "12288 numbers, and their covariance would take 1.2 GB": (folder / "large.npz", folder / "large.npz"),
        "statistics of mine features, and pixels": (two[0], folder / "mine.npz"),
    }.items():
        code, _, err = run(capsys, *arguments)
        assert (code, words in err) == (2, True), err


def test_float_data_is_no_reference():
    from guided_jax import data

    with pytest.raises(ValueError, match="latents holds float32 arrays and metrics take uint8"):
        sets.from_source("latents", data.in_memory(np.zeros((3, 2, 2, 4), np.float32), LABELS[:3], 3))


def test_features_that_are_not_finite_are_refused():
    extract = metrics.extractor(lambda picture: picture[0, :2, 0] / 0 - jnp.inf, jax.devices()[:1], 4)
    with pytest.raises(ValueError, match="all of them finite"):
        metrics.summarize(extract([PICTURES[:3]]))


def test_a_set_of_some_rows_of_a_source():
    from guided_jax import data

    some = sets.from_source("mine", data.in_memory(PICTURES, LABELS, 3), np.array([5, 2, 7]))
    np.testing.assert_array_equal(np.concatenate(list(some.chunks(2))), PICTURES[[5, 2, 7]])
    np.testing.assert_array_equal(some.labels, LABELS[[5, 2, 7]])
