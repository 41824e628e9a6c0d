"""CLIP score and retrieval in the command, by tiny CLIPs, and the tower that must not measure."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from guided_jax import metrics
from guided_jax.app import captions
from guided_jax.app import metrics as metrics_command
from guided_jax.app.convert import command as convert
from guided_jax.app.sample import command as sample
from guided_jax.metrics import clip as clip_metrics
from guided_jax.metrics import feature_space, sets
from guided_jax.models.clip.pixels import MEAN, STD
from guided_jax.storage import images
from tests import tiny_clip
from tests.scripts import run_script

PICTURES = np.random.default_rng(0).integers(0, 256, (14, 8, 8, 3), np.uint8)
LABELS = np.arange(14) % 7
PROMPTS = ["a cat", "a dog", "a red car", "the sea", "a tree", "two apples", "a cat"]  # of two labels the same


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip.own(tmp_path_factory.mktemp("clip") / "own")


@pytest.fixture
def place(tmp_path):
    """A folder with samples, and the request beside them; its run is not there."""
    images.save_npz(tmp_path / "samples.npz", PICTURES, LABELS)
    images.save_npz(tmp_path / "rows.npz", PICTURES[:7])
    request = {"run": str(tmp_path / "run"), "labels": list(range(7)), "prompt": [*PROMPTS, "of --also"]}
    (tmp_path / "samples.json").write_text(json.dumps(request))
    (tmp_path / "captions.txt").write_text("\n".join(PROMPTS))
    return tmp_path


def measure(place, capsys, *words):
    """(exit code, stdout, stderr, the JSON file) of the command."""
    out = place / "found.json"
    code, printed, err = run_script(metrics_command.main, [*words, "--out", out, "--overwrite", "--devices", 1], capsys)
    return code, printed, err, json.loads(out.read_text()) if code == 0 else None


@pytest.fixture(scope="module")
def features(clip):
    """The features of the pictures and of the different prompts, by Pillow and the networks alone."""
    found = clip_metrics.load_scorer(clip).checkpoint
    resized = [np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in PICTURES]
    pixels = (np.array(resized, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    apply = jax.jit(found.module.apply, static_argnames="method")
    image = apply(found.params, pixels, method="encode_image").projected
    text = apply(found.params, found.tokenize(PROMPTS[:6]), method="encode_text").projected
    return np.asarray(image, np.float64), np.asarray(text, np.float64)


def test_the_recorded_prompts(place, clip, features, capsys):
    """Without a reference; two labels with one prompt are one, and the others of the record are none."""
    code, out, err, found = measure(place, capsys, place / "samples.npz", "--clip", clip)
    assert code == 0, err
    image, text = features
    right = np.array([0, 1, 2, 3, 4, 5, 0] * 2)
    score, retrieval = metrics.clip_score(image, text[right]), metrics.retrieval(image, text, right)
    assert found["samples"]["clip_score"] == pytest.approx(score.mean, abs=0.02)
    assert found["samples"]["clip_score_error"] == pytest.approx(score.error, abs=0.02)
    for k in (1, 5):
        assert found["samples"][f"retrieval_top{k}"] == retrieval[k].score.mean
        assert found["chance"][f"retrieval_top{k}"] == k / 6
        assert found["chance"][f"retrieval_top{k}_error"] == pytest.approx(np.sqrt(k / 6 * (1 - k / 6) / 14))
    wrong = metrics.mismatched_clip_score(image, text, right)
    assert found["chance"]["clip_score"] == pytest.approx(wrong.mean, abs=0.02)
    assert not {"fd", "features"} & {*found["samples"], *found}
    assert f"{place / 'samples.json'}: 6 different ones, by CLIP ViT-48/8 " in out
    assert "|  | samples | chance |" in out
    assert f"| CLIP score | {found['samples']['clip_score']:.4g} ± " in out
    assert (
        f"note: whether the samples were conditioned by this CLIP is unknown, as the run {place / 'run'} cannot" in out
    )


def test_captions_of_a_file_beside_a_reference(place, clip, features, capsys):
    """A caption for each picture, where the samples have no labels; and FID in the same table."""
    (place / "samples.json").unlink()
    words = [place / "rows.npz", place / "samples.npz", "--features", "pixels"]
    code, out, err, found = measure(place, capsys, *words, "--clip", clip, "--captions", place / "captions.txt")
    assert code == 0, err
    image, text = features
    right = np.array([0, 1, 2, 3, 4, 5, 0])
    score = metrics.clip_score(image[:7], text[right])
    assert found["samples"]["clip_score"] == pytest.approx(score.mean, abs=0.02)
    assert {"fd", "precision", "retrieval_top5"} <= {*found["samples"]}
    assert (found["features"], found["counts"]) == ("pixels", {"samples": 7, "reference": 14})
    assert "| Fréchet distance |" in out
    assert "a covariance is singular" in out
    assert f"unknown, as {place / 'rows.json'} names no run" in out


def test_one_prompt_has_no_rank(place, clip, capsys):
    (place / "captions.txt").write_text("a cat")
    images.save_npz(place / "one.npz", PICTURES[:3, ..., :1], np.zeros(3, int))
    code, out, err, found = measure(
        place, capsys, place / "one.npz", "--clip", clip, "--captions", place / "captions.txt"
    )
    assert code == 0, err
    assert ({*found["samples"]}, found["chance"]) == ({"clip_score", "clip_score_error"}, {})
    assert "note: retrieval, top 1 and 5, is certain with one prompt, and left out" in out


def test_the_captions_of_pictures(place):
    """Of a file those that --prompts would take; of a record without the weights of words."""

    def texts(path, file=None):
        found = captions.read(sets.from_file(path), path, file)
        return [found.texts[label] for label in found.labels]

    assert texts(place / "samples.npz") == 2 * PROMPTS
    (place / "gaps.txt").write_text("\n\n".join(PROMPTS))
    (place / "rows.jsonl").write_text("\n".join(json.dumps({"prompt": text, "seed": 1}) for text in PROMPTS))
    for name in ("gaps.txt", "rows.jsonl"):
        assert texts(place / "rows.npz", place / name) == PROMPTS
    record = {"prompt": ["a (red:1.5) [car]", r"a \(b\)"], "labels": [0, 1]}
    images.save_npz(place / "weighed.npz", PICTURES[:2], np.arange(2))
    for text, want in (({}, record["prompt"]), ({"text": {"weighted": True}}, ["a red car", "a (b)"])):
        (place / "weighed.json").write_text(json.dumps({**record, **text}))
        assert texts(place / "weighed.npz") == want


WRONG = {
    "no prompts are recorded in": ["{rows}", "--clip", "{clip}"],
    "name a file of them with --captions": ["{rows}", "--clip", "{clip}"],
    "has 7 captions, and the labels of": ["{more}", "--clip", "{clip}", "--captions", "{captions}"],
    "go from 0 to 7; write a line for each label": ["{more}", "--clip", "{clip}", "--captions", "{captions}"],
    "has 2 captions and {rows}, without labels, 7 pictures": ["{rows}", "--clip", "{clip}", "--captions", "{two}"],
    "states.npz was drawn from states, whose words are not recorded": ["{states}", "--clip", "{clip}"],
    "rows.npz is no text file of captions": ["{rows}", "--clip", "{clip}", "--captions", "{rows}"],
    "cannot read nowhere.txt": ["{rows}", "--clip", "{clip}", "--captions", "nowhere.txt"],
    "{place} is no CLIP of both towers": ["{samples}", "--clip", "{place}"],
    "there is no folder nowhere": ["{samples}", "--clip", "nowhere"],
    "the features take pictures of 1 or 3 channels, these have 4": ["{four}", "--clip", "{clip}"],
    "there is nothing to measure the samples against": ["{samples}"],
    "--judge has no effect here; it goes with a REFERENCE": ["{samples}", "--clip", "{clip}", "--judge", "x"],
    "--save-statistics has no effect": ["{samples}", "--clip", "{clip}", "--save-statistics", "x.npz"],
    "--seed has no effect here; it goes with a REFERENCE": ["{samples}", "--clip", "{clip}", "--seed", "1"],
    "--captions has no effect here; it goes with --clip": ["{samples}", "digits", "--captions", "{captions}"],
    "--allow-same-tower has no effect here; it goes with --clip": ["{samples}", "digits", "--allow-same-tower"],
}


@pytest.mark.parametrize(("message", "words"), WRONG.items(), ids=WRONG)
def test_wrong_use_is_one_sentence_before_pictures_are_read(message, words, place, clip, capsys, monkeypatch):
    images.save_npz(place / "more.npz", PICTURES[:8], np.arange(8))
    images.save_npz(place / "four.npz", np.zeros((7, 4, 4, 4), np.uint8), np.arange(7))
    (place / "four.json").write_bytes((place / "samples.json").read_bytes())
    (place / "two.txt").write_text("a cat\na dog\n")
    images.save_npz(place / "states.npz", PICTURES[:1], np.zeros(1, int))
    (place / "states.json").write_text(json.dumps({"prompt": ["a.npz 0 (0123abcd)"], "labels": [0]}))
    for where, name in ((clip_metrics, "image_features"), (feature_space, "make_extractors")):
        monkeypatch.setattr(where, name, lambda *_: pytest.fail("pictures are read"))
    names = {path.stem: path for path in place.iterdir() if path.suffix != ".json"} | {"clip": clip, "place": place}
    code, _, err, _ = measure(place, capsys, *(word.format(**names) for word in words))
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert message.format(**names) in err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny Stable Diffusion 1 of the golden folder, converted."""
    out = tmp_path_factory.mktemp("sd1") / "run"
    convert.main([str(tiny_clip.SD1), "--out", str(out)])
    return out


def test_the_tower_that_conditioned_the_samples_is_refused(place, clip, run, capsys, monkeypatch):
    """Another CLIP is not, and the run's own only until told to; of a folder of diffusers as of a converted run."""
    (place / "samples.json").write_text(json.dumps({"run": str(run), "labels": list(range(7)), "prompt": PROMPTS}))
    own = tiny_clip.of_sd1(place / "sd1")
    code, _, err, _ = measure(place, capsys, place / "samples.npz", "--clip", own)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert f"the text tower of {own} is the one that {run} conditioned the samples by" in err
    assert "give another CLIP, or --allow-same-tower" in err
    monkeypatch.setattr(captions, "align", lambda prompts, *_: {"notes": prompts.notes})
    code, printed, err, found = measure(place, capsys, place / "samples.npz", "--clip", own, "--allow-same-tower")
    assert code == 0, err
    assert f"note: the text tower of {own} is the one that {run} conditioned the samples by" in printed
    assert "allow_same_tower" not in found["asked"]
    code, _, err, found = measure(place, capsys, place / "samples.npz", "--clip", clip)
    assert (code, found["notes"]) == (0, []), err
    (place / "samples.json").write_text(json.dumps({"run": str(tiny_clip.SD1), "labels": [0] * 7, "prompt": PROMPTS}))
    code, _, err, _ = measure(place, capsys, place / "samples.npz", "--clip", own)
    assert (code, f"is the one that {tiny_clip.SD1} conditioned the samples by" in err) == (2, True), err


@pytest.mark.slow
def test_from_a_run_to_its_score(run, clip, tmp_path, capsys):
    words = [run, "--prompt", "a cat", "two red apples", "--num-samples", 4, "--steps", 1, "--sampler", "ddim"]
    code, _, err = run_script(sample.main, [*words, "--devices", 1, "--batch-size", 4, "--out", tmp_path], capsys)
    assert code == 0, err
    code, _, err, found = measure(tmp_path, capsys, tmp_path / "samples.npz", "--clip", clip)
    assert code == 0, err
    assert found["notes"] == ["retrieval, top 5, is certain with 2 different prompts, and left out"]
    assert found["chance"]["retrieval_top1"] == 0.5
    assert 0 <= found["samples"]["retrieval_top1"] <= 1
