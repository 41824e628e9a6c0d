"""Several labels, or a vector, for each picture: from the file to the loss, to samples and what is recorded of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import data, model, sampler
from guided_jax.app import facts, judge, trained_model
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import checks, labels
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method, Sampling
from guided_jax.app.sweep import command as sweep
from guided_jax.app.train import command as train
from guided_jax.app.train import grids, init_from, objective, sample_metrics
from guided_jax.metrics import sets
from guided_jax.storage import images
from tests.kinds import noise
from tests.scripts import run_script
from tests.untrained import TINY, make_untrained

PICTURES = noise(40, 8, 8, 1)
SEVERAL = (np.arange(40)[:, None] // [1, 2, 4] % 2).astype(np.uint8)  # (40, 3), all combinations
VECTORS = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with both kinds of data and an untrained run of each."""
    place = tmp_path_factory.mktemp("conditions")
    for name, found in {"labels": SEVERAL, "vector": VECTORS}.items():
        np.savez(place / f"{name}.npz", PICTURES, found)
        diffusion = schema.Diffusion(network=schema.UNet(**TINY))
        settings = schema.Data(name=f"npz:{place}/{name}.npz"), schema.Schedule(num_steps=20), diffusion
        make_untrained(place / name, schema.Experiment(*settings, schema.Classifier(num_steps=0)))
    return place


@pytest.fixture(params=["labels", "vector"])
def run(request, place):
    return runs.load(place / request.param)


def test_files_hold_several_labels_as_integers_and_vectors_as_floats(place):
    for name, found in {"labels": SEVERAL, "vector": VECTORS}.items():
        parts = [data.load(f"npz:{place}/{name}.npz", split) for split in ("train", "test")]
        assert [(part.labelling, part.num_classes, len(part)) for part in parts] == [
            (name, found.shape[1], 36),
            (name, found.shape[1], 4),  # every tenth of all: there are no classes to divide
        ]
        rows = parts[1].read(np.arange(4))
        assert rows["label"].dtype == np.float32
        np.testing.assert_array_equal(rows["label"], found[9::10])
        np.testing.assert_array_equal(rows["image"], PICTURES[9::10])
        batch = next(data.loader(parts[0], 4, seed=0, shuffle=False))
        np.testing.assert_array_equal(batch["label"], found[:4])
    source = data.in_memory(PICTURES, SEVERAL.astype(bool), 3)
    np.testing.assert_array_equal(data.class_frequencies(source), SEVERAL.mean(0))
    assert data.class_frequencies(data.in_memory(PICTURES, VECTORS, 2)).size == 0


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (2 * SEVERAL, "with other values than 0 and 1; integers .* say of each of K labels"),
        (SEVERAL.astype(np.int8) * 2 - 1, "other values than 0 and 1"),
        (np.full((40, 2), np.inf), "infinite numbers; a number that is not known is NaN"),
        (np.zeros((40, 0)), r"\(N, K\) with K of 1 or more is expected"),
        (np.zeros((40, 2, 2)), r"one integer an image, or \(N, K\), is expected"),
        (SEVERAL[:30], "40 images and 30 labels"),
    ],
)
def test_other_labels_are_refused(found, words, tmp_path):
    np.savez(tmp_path / "set.npz", PICTURES, found)
    with pytest.raises(ValueError, match=words):
        data.load(f"npz:{tmp_path}/set.npz", "train")


def test_splits_of_other_sizes_are_refused(tmp_path):
    for split, found in {"train": SEVERAL, "test": SEVERAL[:, :2]}.items():
        np.savez(tmp_path / f"{split}.npz", PICTURES, found)
    with pytest.raises(ValueError, match=r"has 3 numbers for each image, and another split labels \(40, 2\)"):
        data.load(f"npz:{tmp_path}", "train")


def test_a_vector_is_embedded_by_a_matrix():
    """One-hot vectors are classes: W e_i = the row of class i."""
    network = schema.UNet(**TINY)
    by_class, by_vector = network.make(1, 3, False), network.make(1, None, False, vector=3)
    x, t, label = jnp.asarray(PICTURES[:3] / 255, jnp.float32), jnp.ones(3), jnp.arange(3)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(by_class.init, jax.random.key(0), x, t, label)
    params = jax.tree.map(lambda leaf: jnp.asarray((0.3 * rng.standard_normal(leaf.shape)).astype(jnp.float32)), shapes)
    dense = {"kernel": params["params"]["label_emb"]["embedding"], "bias": jnp.zeros(32)}
    other = {"params": {**params["params"], "label_emb": dense}}
    expected = jax.jit(by_class.apply)(params, x, t, label)
    np.testing.assert_allclose(jax.jit(by_vector.apply)(other, x, t, jnp.eye(3)), expected, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.1
    for wrong, words in ((None, "was given none"), (jnp.ones((3, 4)), r"was given shape \(3, 4\)")):
        with pytest.raises(ValueError, match=rf"a vector of 3 numbers for each example, and {words}"):
            jax.eval_shape(by_vector.apply, other, x, t, wrong)


def test_the_network_of_a_run_is_told_the_numbers_and_which_are_known(run):
    size = run.facts.num_classes
    assert (run.networks.diffusion.vector, run.networks.diffusion.num_classes, run.classifier) == (2 * size, None, None)
    null = run.model.condition({}, run.model.null)
    np.testing.assert_array_equal(null, np.zeros(2 * size))
    np.testing.assert_array_equal(model.known_values(None, jnp.array([2.0, jnp.nan])), [2, 0, 1, 0])


@pytest.mark.parametrize(("rate", "known"), [(0.0, 1), (1.0, 0)])
def test_training_drops_a_label_to_the_null_condition(rate, known, run, monkeypatch):
    given = []

    def make(settings, unet, dropout):
        return lambda params, x, t, label, low_res, estimate, keys: given.append(label) or [jnp.zeros_like(x)]

    monkeypatch.setattr(trained_model, "make_training_network", make)
    diffusion = dataclasses.replace(run.experiment.diffusion, label_dropout=rate or 1e-9)
    run = run._replace(experiment=dataclasses.replace(run.experiment, diffusion=diffusion))
    batch = jax.tree.map(jnp.asarray, next(data.loader(runs.source(run), 4, seed=0)))
    objective.diffusion_loss(run)({}, sampler.keys(jax.random.key(0), jnp.arange(4)), batch)
    np.testing.assert_array_equal(
        given[0], np.concatenate([known * batch["label"], np.full_like(batch["label"], known)], 1)
    )


@pytest.mark.parametrize(
    ("name", "word", "resolved", "raw"),
    [
        ("labels", "0,2", (0, 2), [1, 0, 1]),
        ("labels", 1, (1,), [0, 1, 0]),
        ("labels", "none", (), [0, 0, 0]),
        ("labels", "b, 0", (0, 1), [1, 1, 0]),
        ("vector", "-0.5,1.25", (-0.5, 1.25), [-0.5, 1.25]),
        ("vector", "2,nan", (2.0, np.nan), [2, np.nan]),
    ],
)
def test_labels_of_a_request(name, word, resolved, raw, place):
    run = runs.load(place / name)
    known = run.facts._replace(class_names=("a", "b", "c") if name == "labels" else None)
    method = Method(also=(word,), negative=word)
    options = labels.resolve_labels(Sampling(place / name, method, labels=(word, word)), known)
    assert repr(options.labels) == repr((resolved, resolved))
    assert repr((options.method.also, options.method.negative)) == repr(((resolved,), resolved))
    np.testing.assert_array_equal(run.raw(resolved), np.float32(raw))


def labels_of(options, run):
    return labels.make_labels(options, run, sample.given_labels(options, run))


def test_the_labels_of_samples_are_the_given_ones_or_those_of_the_data(run, place):
    options = Sampling(place / run.facts.labelling, Method("classifier-free"))
    indices = np.arange(50)
    rows = labels_of(options, run)(indices)
    training = runs.source(run).read(np.arange(36))["label"]
    assert {row.tobytes() for row in rows} <= {row.tobytes() for row in training}
    assert len({row.tobytes() for row in rows}) > 4
    np.testing.assert_array_equal(labels_of(options, run)(indices[7:9]), rows[7:9])
    first, second = (tuple(map(float, row)) for row in VECTORS[:2])
    given = ((0,), (1, 2)) if run.facts.labelling == "labels" else (first, second)
    found = labels_of(dataclasses.replace(options, labels=given), run)(np.arange(3))
    np.testing.assert_array_equal(found, np.stack([run.raw(given[0]), run.raw(given[1]), run.raw(given[0])]))
    unlabelled = labels_of(dataclasses.replace(options, method=Method("none")), run)(indices)
    assert np.isnan(unlabelled).all()


def test_without_its_data_a_run_asks_for_labels(run, place):
    def gone(held_out):
        raise FileNotFoundError("there is no data")

    with pytest.raises(ValueError, match="there is no data; name some with --labels"):
        labels_of(Sampling(place, Method("classifier-free")), run._replace(source=gone))


def test_labels_of_the_data_are_read_where_it_lies_now(run, place, tmp_path):
    moved = Sampling(place / run.facts.labelling, Method("classifier-free"), data_dir=tmp_path)
    checks.check_readers(moved, run)
    with pytest.raises(ValueError, match=r"data\.dir has no effect here"):
        checks.check_readers(dataclasses.replace(moved, labels=((0,),)), run)
    (tmp_path / f"{run.facts.labelling}.npz").write_bytes((place / f"{run.facts.labelling}.npz").read_bytes())
    there = runs.load(moved.run, moved.data_dir)
    np.testing.assert_array_equal(labels_of(moved, there)(np.arange(5)), labels_of(moved, run)(np.arange(5)))


def test_a_file_of_samples_has_the_labels_that_it_was_given(run, place):
    rows = runs.source(run).read(np.arange(3))["label"]
    labelled = Sampling(place, labels=((0,),))
    recorded = labels.recorded(labelled, run, rows, True)
    assert recorded.dtype == run.facts.stored_label[0]
    np.testing.assert_array_equal(labels.of_file(run.facts, recorded), rows)
    nothing = labels.recorded(Sampling(place), run, rows, False)
    np.testing.assert_array_equal(nothing, np.full_like(rows, -1 if run.facts.labelling == "labels" else np.nan))
    assert np.isnan(labels.of_file(run.facts, nothing)).all()
    assert labels.of_file(run.facts, np.arange(3)) is None
    assert labels.of_file(facts.Facts((8, 8, 1), 10, ()), recorded) is None


def test_an_upsampler_takes_the_labels_of_its_base_samples(run, place, tmp_path):
    upsampler, rows = run._replace(low_res=4), runs.source(run).read(np.arange(3))["label"]
    options = Sampling(place, Method("none"), base_samples=tmp_path / "low.npz")
    stored = labels.recorded(options, run, rows, True)
    for given in (stored, np.full_like(stored, -1 if run.facts.labelling == "labels" else np.nan), stored[:, :1]):
        np.savez(tmp_path / "low.npz", PICTURES[:3, ::2, ::2], given)
        found = sample.given_labels(options, upsampler)
        assert (found is not None) == (given is stored)
        assert found is None or np.array_equal(labels_of(options, upsampler)(np.arange(4)), rows[[0, 1, 2, 0]])


def test_the_command_of_a_sweep_has_the_labels_as_they_were_given(place):
    method = Method("negative", negative=(0, 2))
    command = sweep.command_line(Sampling(place, method, labels=((1,), (), (0, 1))))
    assert command.endswith("--labels 1 none 0,1") or "--labels 1 none 0,1 " in command
    assert "--negative 0,2" in command


def test_vectors_are_composed_and_recorded(place, tmp_path, capsys):
    arguments = [place / "vector", "--guidance", "compose", "--labels", "0.5,-1", "-2,0", "--also", "1,1", "--scale", 2]
    arguments += ["--steps", 2, "--num-samples", 3, "--devices", 1, "--out", tmp_path]
    code, _, err = run_script(sample.main, arguments, capsys)
    assert code == 0, err
    pictures, found = images.load_npz(tmp_path / "samples.npz")
    assert (pictures.shape, found.dtype) == ((3, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(found, [[0.5, -1], [-2, 0], [0.5, -1]])
    assert sets.from_file(tmp_path / "samples.npz").labels is None


@pytest.mark.parametrize(
    ("main", "name", "arguments", "words"),
    [
        (sample.main, "labels", ["--labels", "0,3"], "label 3 is out of range; the run has the labels 0 to 2"),
        (sample.main, "labels", ["--labels", "0,cat"], "there is no class 'cat'"),
        (
            sample.main,
            "vector",
            ["--labels", "3"],
            "the label 3 is no vector of this run; give 2 numbers, such as 0.5,0.5",
        ),
        (sample.main, "vector", ["--labels", "a,b"], "the label a,b is no vector"),
        (sample.main, "vector", ["--labels", "1,inf"], "the label 1,inf is no vector"),
        (
            sample.main,
            "labels",
            ["--guidance", "classifier"],
            "needs one class for each picture, and here they have 3 labels",
        ),
        (
            sample.main,
            "vector",
            ["--guidance", "independent"],
            "here they have vectors of 2 numbers; use classifier-free",
        ),
        (sample.main, "vector", ["--guidance", "negative"], "--negative is None; name the labels, or the vector"),
        (judge.main, "labels", [], "a judge needs one class for each picture"),
        (sweep.main, "labels", ["--guidance", "classifier-free"], "measure by --inception WEIGHTS"),
    ],
)
def test_what_needs_one_class_is_refused(main, name, arguments, words, place, tmp_path, capsys):
    code, _, err = run_script(main, [place / name, *arguments, "--out", tmp_path / "out"], capsys)
    assert (code, words in err, len(err.splitlines())) == (2, True, 1), err


def test_no_classifier_is_trained_on_several_labels(place, tmp_path, capsys):
    arguments = ["npz", "--data.name", f"npz:{place}/labels.npz", "--out", tmp_path / "run"]
    code, _, err = run_script(train.main, arguments, capsys)
    assert code == 2
    assert (
        "--classifier.num-steps 5000 needs one class for each picture, and here they have 3 labels at once; give 0"
        in err
    )
    assert not (tmp_path / "run").exists()


def test_samples_during_training_have_labels_of_the_data(run):
    source = runs.source(run)
    np.testing.assert_array_equal(grids.labels_of_columns(run), source.read(np.arange(16))["label"])
    held_out = runs.source(run, held_out=True).read(np.arange(4))["label"]
    np.testing.assert_array_equal(sample_metrics.labels_of(run)[:6], held_out[[0, 1, 2, 3, 0, 1]])
    assert sample_metrics.classes_of(run) is None


def test_labels_of_an_unusual_size_are_noted():
    large = data.in_memory(PICTURES, VECTORS * [1, 100], 2)
    assert "number 1 has" in facts.describe_labels(large)
    assert "number 0" not in facts.describe_labels(large)
    assert facts.describe_labels(data.in_memory(PICTURES, VECTORS, 2)) is None
    assert facts.describe_labels(data.in_memory(PICTURES, SEVERAL, 3)) is None


def test_fine_tuning_on_other_labels_embeds_them_anew(place, tmp_path):
    run = runs.load(place / "labels")
    for source, words in (
        ("labels", "step 1"),
        ("vector", "label_emb, for 3 labels at once here and vectors of 2 numbers"),
    ):
        diffusion = dataclasses.replace(run.experiment.diffusion, init_from=place / source)
        one = runs.assemble(dataclasses.replace(run.experiment, diffusion=diffusion), run.facts)
        assert words in init_from.check(one, "diffusion", tmp_path)
        given = init_from.load(one, "diffusion")
        assert ("params/label_emb/kernel" in given) == (source == "labels")
