"""sample.py --sweep: what it draws, measures and shows; the page in a browser where there is one."""

import base64
import contextlib
import dataclasses
import html
import json
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest

from guided_jax import metrics
from guided_jax.app import judge
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method, Sweep
from guided_jax.app.sweep import command as sweeping
from guided_jax.app.sweep import evaluate, scales
from guided_jax.metrics import sets
from guided_jax.metrics.judge import judge_features, load_judge
from guided_jax.storage import images, lock
from tests.scripts import run_script

ASKED = ["--guidance", "classifier-free", "--steps", "3", "--sweep", "scale=0,2", "--sweep-seeds", "2"]
ASKED += ["--num-samples", "20"]


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory):
    """(the folder of a sweep of the tiny run, the folder of a judge of two steps)."""
    place = tmp_path_factory.mktemp("sweep")
    run = runs.load(tiny)
    judge.train(judge.Judging(tiny, out=place / "judge", num_steps=2, batch_size=16, channels=(8, 8)), run)
    words = [tiny, *ASKED, "--judge", place / "judge", "--out", place / "out"]
    sample.main([str(word) for word in words])
    return place / "out", place / "judge"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("scale=0:3", (0, 1, 2, 3)),
        ("scale=0:0.3:0.1", (0, 0.1, 0.2, 0.3)),
        ("scale=1:2:0.3", (1, 1.3, 1.6, 1.9)),
        ("scale=0,2.5,-1", (0, 2.5, -1)),
        ("scale=2", (2,)),
    ],
)
def test_the_scales_that_words_name(words, found):
    assert scales.parse(words) == found


@pytest.mark.parametrize(
    "words",
    [
        *("", "eta=0:1", "scale=", "scale=a:b", "scale=0:8:0", "scale=8:0", "scale=0:1:1e-9"),
        *("scale=0:1:2:3", "scale=0:inf", "scale=nan", "scale=1,1", "scale=0:2,4"),
    ],
)
def test_words_that_name_none_are_refused(words):
    with pytest.raises(ValueError, match=re.escape(f"--sweep is {words!r}")):
        scales.parse(words)


def test_the_scales_without_the_option(tiny, monkeypatch):
    """As requests record them: a sweep of before is found again."""
    asked = []
    monkeypatch.setattr(sweeping, "sweep_run", lambda options, *_: asked.append(options.sweep.sweep))
    for words in ([], ["--scales", "0,2"], ["--sweep", "scale=1"]):
        sweeping.main([str(tiny), "--guidance", "classifier-free", *words])
    assert asked == ["scale=0:8", "scale=0,2", "scale=1"]


def test_classes_are_asked_for_in_the_datas_proportions(tiny):
    run = runs.load(tiny)
    facts = run.facts._replace(num_classes=3, class_frequencies=(0.5, 0.25, 0.25))
    options = sample.Sampling(tiny, Method(guidance="classifier"), num_samples=8)
    labels = sweeping.labels_of(options, run._replace(facts=facts))
    assert sorted(labels) == [0, 0, 0, 0, 1, 1, 2, 2]
    assert sorted(labels[:4]) == [0, 0, 1, 2]
    assert sweeping.labels_of(sample.Sampling(tiny, labels=(1, 2), num_samples=8), run) == (1, 2)


def test_every_row_is_what_the_library_measures(swept, tiny):
    out, place = swept
    found = json.loads((out / "sweep.json").read_text())
    assert [(row["scale"], row["seed"]) for row in found["rows"]] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    pictures, labels = images.load_npz(out / "scale-2" / "seed-1" / "samples.npz")
    assert np.bincount(labels).tolist() == [2] * 10
    judging = load_judge(place)
    network = jax.jit(lambda x: judging.network.apply(judging.params, x))
    features, logits = (np.asarray(part) for part in network(images.from_uint8(pictures)))
    row = found["rows"][3]
    assert row["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    held_out = runs.load(tiny).experiment.data.make(held_out=True).read(np.arange(360))["image"]
    real = np.asarray(network(images.from_uint8(held_out))[0])
    want = metrics.frechet_distance(*metrics.moments(features), *metrics.moments(real))
    np.testing.assert_allclose(row["fd"], want, rtol=1e-3)
    assert row["recall"] == pytest.approx(metrics.precision_recall(real, features).recall, abs=2 / 360)
    # Another scale and another seed are other pictures; the noise of a seed is the same at every scale.
    others = [images.load_npz(out / f"scale-{s}" / f"seed-{i}" / "samples.npz")[0] for s, i in ((0, 1), (2, 0))]
    assert all((pictures != other).any() for other in others)
    assert [row["seed"] for row in found["real"]] == [0, 1]


def test_what_is_there_is_not_drawn_again_and_another_sweep_is_not_written_over(swept, tiny, capsys, monkeypatch):
    out, place = swept

    def refuse(*arguments):
        raise AssertionError("drawn again")

    monkeypatch.setattr(sample.streaming, "open_stream", refuse)
    words = [tiny, *ASKED, "--judge", place, "--out", out]
    code, printed, err = run_script(sample.main, words, capsys)
    assert code == 0, err
    assert "| real |" in printed
    code, _, err = run_script(sample.main, [*words, "--seed", 5], capsys)
    assert (code, "is of another request" in err) == (2, True)
    assert (out / "scale-2" / "seed-1" / "samples.npz").exists()


def folder(out):
    return sorted(path for path in out.rglob("*") if path.is_file())


REPLACED_BY_NOTHING = {
    "nowhere is no trained judge": ["--judge", "nowhere"],
    "has no diffusion checkpoint with": ["--checkpoint", "best"],
    "is in use by process": [],
}


@pytest.mark.parametrize(("words", "arguments"), REPLACED_BY_NOTHING.items(), ids=REPLACED_BY_NOTHING)
def test_a_sweep_is_replaced_when_nothing_can_be_refused_any_more(words, arguments, swept, tiny, tmp_path, capsys):
    """Not before the judge and the weights are there, and never while another process writes to the folder."""
    out, run = shutil.copytree(swept[0], tmp_path / "out"), tmp_path / "run"
    config = json.loads((tiny / "config.json").read_text())
    config["experiment"]["diffusion"]["keep_best_by"] = "samples_fd"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config))
    (run / "diffusion").symlink_to(tiny / "diffusion")
    before = folder(out)
    other = [run, *ASKED, "--judge", swept[1], "--seed", 5, "--out", out, "--overwrite", *arguments]
    with lock.hold(out) if not arguments else contextlib.nullcontext():
        code, _, err = run_script(sample.main, other, capsys)
    assert (code, words in err) == (2, True), err
    assert folder(out) == before


def test_a_named_judge_is_never_trained(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "train", lambda *_: pytest.fail("trained"))
    options = sample.Sampling(tiny, sweep=Sweep(judge=tmp_path / "jugde"))
    with pytest.raises(ValueError, match="jugde is no trained judge"):
        evaluate.choose_features(options, runs.load(tiny))


def test_without_data_there_is_no_judge_to_train(tiny, swept, tmp_path):
    run = runs.load(tiny)._replace(source=None)
    options = sample.Sampling(tmp_path, Method(guidance="classifier"))
    with pytest.raises(ValueError, match="no data to train a judge with; name one by --judge, or give --inception"):
        evaluate.choose_features(options, run)
    with pytest.raises(ValueError, match="this run has no data of its own; name pictures in a file instead"):
        evaluate.real_pictures("held-out", run)
    name = str(swept[0] / "scale-2" / "seed-0" / "samples.npz")
    assert evaluate.real_pictures(name, run)[1] is None
    named = dataclasses.replace(options, sweep=Sweep(judge=swept[1]))
    assert evaluate.choose_features(named, run).judge is not None


def test_devices_are_those_of_the_option(tiny, tmp_path, monkeypatch):
    """As many of them as divide the batch of 64; the judge is trained on them too."""
    devices = lambda count: len(evaluate.devices_for(64, sample.Sampling(tiny, devices=count)))  # noqa: E731
    assert [devices(count) for count in (None, 1, 2, 3, 8)] == [8, 1, 2, 2, 8]
    told = []
    monkeypatch.setattr(judge, "train", lambda options, run: told.append(options.devices))
    for count in (None, 2):
        with pytest.raises(ValueError, match="no trained judge"):
            evaluate.choose_features(sample.Sampling(tmp_path, devices=count), runs.load(tiny))
    assert told == [None, 2]


LABELS = {
    "3 7, in turn": ({"labels": (3, 7)}, "classifier"),
    "any of 3 5": ({"any_of": (3, 5)}, "classifier"),
    "in the data's proportions": ({}, "classifier-free"),
    "none": ({}, "self-attention"),
}


@pytest.mark.parametrize(("words", "asked"), LABELS.items(), ids=LABELS)
def test_the_page_says_which_classes_were_asked_for(words, asked, tiny):
    fields, name = asked
    method = Method(name, any_of=fields.get("any_of", ()))
    options = sample.Sampling(tiny, method, labels=fields.get("labels"))
    assert sweeping.describe_labels(options, runs.load(tiny)) == words


def test_a_network_without_a_null_label_is_always_given_one(tiny):
    run = runs.load(tiny)
    run = run._replace(model=run.model._replace(null=None))
    options = sample.Sampling(tiny, Method("self-attention"))
    assert sweeping.describe_labels(options, run) == "drawn by the data's frequencies"


WRONG = {
    "0:8, 0:8:0.5 or 0,1,2.5": ["--guidance", "classifier-free", "--sweep", "steps=1:3"],
    "has no effect with --guidance none": ["--sweep", "scale=0:2"],
    "leave out --scale": ["--guidance", "classifier-free", "--sweep", "scale=0:2", "--scale", "3"],
    "leave out --sweep": ["--guidance", "classifier-free", "--sweep", "scale=0:2", "--diagnose"],
    "--sweep-seeds is 0": ["--guidance", "classifier-free", "--sweep", "scale=0:2", "--sweep-seeds", "0"],
    "--judge has no effect here; it goes with --sweep": ["--judge", "somewhere"],
    "cannot read nowhere.npz": ["--guidance", "classifier-free", "--sweep", "scale=0:2", "--reference", "nowhere.npz"],
}


@pytest.mark.parametrize(("words", "arguments"), WRONG.items(), ids=WRONG)
def test_wrong_sweeps_are_told_in_one_sentence(words, arguments, tiny, tmp_path, capsys):
    code, _, err = run_script(sample.main, [tiny, *arguments, "--out", tmp_path / "out"], capsys)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_judge_that_guides_should_not_measure(swept, tiny, tmp_path, capsys):
    """It guides the run of pixels, in the place of the noisy classifier; a sweep that it measures too says so."""
    place = swept[1]
    words = [tiny, "--guidance", "off-the-shelf", "--clean-classifier", place, "--steps", "3", "--labels", "3"]
    by_noisy = [word for word in words if word not in ("--clean-classifier", place)]
    drawn = []
    for name, asked in (("judge", words), ("noisy", by_noisy)):
        out = tmp_path / name
        assert run_script(sample.main, [*asked, "--num-samples", "4", "--scale", "3000", "--out", out], capsys)[0] == 0
        drawn.append(images.load_npz(out / "samples.npz")[0])
    assert (drawn[0] != drawn[1]).any()
    swept_by = [*words, "--sweep", "1", "--sweep-seeds", "1", "--num-samples", "20", "--judge", place]
    code, _, err = run_script(sample.main, [*swept_by, "--out", tmp_path / "sweep"], capsys)
    assert code == 0, err
    assert "the same judge guides and measures" in err
    code, _, err = run_script(sample.main, [*by_noisy, "--clean-classifier", tmp_path], capsys)
    assert (code, "is no trained judge; train one with 'guided-jax judge RUN'" in err) == (2, True)
    wrong = [word if word != "off-the-shelf" else "classifier" for word in words]
    code, _, err = run_script(sample.main, wrong, capsys)
    assert (code, "--clean-classifier has no effect here" in err) == (2, True)


def test_a_judge_of_other_pictures_or_half_trained_is_refused(swept, tmp_path):
    place = swept[1]
    function = judge_features(load_judge(place))
    with pytest.raises(ValueError, match=r"trained on pictures of \(8, 8, 1\), these are \(4, 4, 1\)"):
        function(np.zeros((4, 4, 1), np.uint8))
    copy = shutil.copytree(place, tmp_path / "judge")
    said = json.loads((copy / "judge.json").read_text())
    (copy / "judge.json").write_text(json.dumps({**said, "trained": None}))
    with pytest.raises(ValueError, match="no trained judge"):
        load_judge(copy)
    with pytest.raises(ValueError, match="another judge"):
        judge.describe(copy, load_judge(place).network.clone(num_classes=3), (8, 8, 1))


def test_a_picture_is_moved_by_an_eighth_at_most():
    picture = np.zeros((8, 8, 1), np.float32)
    picture[4, 4] = 1
    moved = np.asarray(jax.vmap(judge.shift, (0, None))(jax.random.split(jax.random.key(0), 40), picture))
    places = {tuple(np.argwhere(each[..., 0])[0]) for each in moved}
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}
    assert all(each.sum() == 1 for each in moved)


def test_the_page_has_everything_in_it(swept):
    """Numbers, pictures as data, nothing from elsewhere."""
    text = (swept[0] / "sweep.html").read_text()
    found = json.loads((swept[0] / "sweep.json").read_text())
    assert set(re.findall(r"""(?:src|href)=["']?(data:|#|[^"']*)""", text)) == {"data:", "#"}
    assert "<script" not in text
    assert "url(" not in text
    for scale in (0, 2):
        mean = np.mean([row["fd"] for row in found["rows"] if row["scale"] == scale])
        assert re.search(rf'<th scope="row">{scale}</th>.*?{str(mean)[:4]}', text)
    pictures = re.findall(r"data:image/(\w+)[^;]*;base64,([^\"]+)", text)
    assert [kind for kind, _ in pictures] == ["svg"] * 4 + ["png"] * 3
    assert base64.b64decode(pictures[-1][1]).startswith(b"\x89PNG")
    assert html.unescape(re.search("measured by <code>(.*?)</code>", text)[1]).endswith(f"--judge {swept[1]}")
    assert (swept[0] / "sweep.png").read_bytes().startswith(b"\x89PNG")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOOK = """
<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const stops = [...page.querySelectorAll("a[href], [tabindex]")];
  const said = {
    widths: [...page.images].map((image) => image.naturalWidth),
    described: [...page.images].every((image) => image.alt),
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    stops: stops.length,
    reached: stops.filter((stop) => { stop.focus(); return page.activeElement === stop; }).length,
    lost: stops.filter((stop) => stop.hash && !page.getElementById(stop.hash.slice(1))).length,
    table: page.querySelector("tbody").innerText,
  };
  document.body.dataset.said = JSON.stringify(said);
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_page_in_a_browser_as_wide_as_a_phone(swept, tmp_path):
    """Every picture is loaded, every link and the table are reached by the keyboard, nothing is wider than 360 pixels."""
    page = html.escape((swept[0] / "sweep.html").read_text(), quote=True)
    frame = f'<iframe style="width: 360px; height: 640px; border: 0" srcdoc="{page}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><meta charset=utf-8><body>{frame}{LOOK}")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120)
    said = json.loads(html.unescape(re.search('data-said="(.*?)"', done.stdout)[1]))
    assert (len(said["widths"]), min(said["widths"]) > 0, said["described"]) == (7, True, True)
    assert said["needed"] <= said["width"] <= 360
    assert said["stops"] == said["reached"] == 2 + 3 + 1
    assert said["lost"] == 0
    assert "±" in said["table"]


def test_grids_have_a_column_a_class_where_classes_are_known():
    pictures = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
    labels = np.array([1, 0, 1, 0, 0, 1])
    chunks = lambda size: iter([pictures])  # noqa: E731
    known = sweeping.grid_of(sets.PictureSet("known", 6, (2, 2, 1), labels, chunks), rows=2)
    np.testing.assert_array_equal(known, images.grid(pictures[[1, 0, 3, 2]], 2, scale=16))
    unknown = sweeping.grid_of(sets.PictureSet("unknown", 6, (2, 2, 1), None, chunks), rows=2, columns=2)
    np.testing.assert_array_equal(unknown, images.grid(pictures[:4], 2, scale=16))
