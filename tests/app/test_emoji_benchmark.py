"""benchmarks.emoji on a tiny run of captions: the tables come from what was drawn, which is drawn once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import emoji, emoji_judge
from guided_jax import schedule
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.storage import images
from tests.app.test_captions_as_condition import CAPTIONS, experiment
from tests.kinds import noise
from tests.untrained import TINY, make_untrained

PAIRS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run with a CLIP, one that was tuned from it, and a judge: all of them untrained."""
    place = tmp_path_factory.mktemp("emoji")
    np.savez(
        place / "set.npz", images=noise(200, 8, 8, 1), labels=np.arange(200) // 50, captions=np.array(CAPTIONS * 5)
    )
    with_clip = experiment(place, classifier=schema.Classifier(num_steps=1, network=schema.Encoder(**TINY)))
    for seed, name in enumerate(("run", "judge")):
        make_untrained(place / name, with_clip, seed)
    make_untrained(place / "tuned", experiment(place), 2)
    return place


@pytest.fixture(scope="module")
def judge(place):
    return emoji_judge.Judge(place / "judge", emoji_judge.captions_of(runs.load(place / "run")))


def test_the_judge_compares_pictures_with_captions_as_the_guide_of_its_run_would(place, judge):
    """Its features times its texts are the similarities that `--guidance classifier` of the judge's run goes along."""
    run = runs.load(place / "judge")
    pictures = noise(3, 8, 8, 1, seed=1)
    logits = jax.jit(run.text.classifier(run.text.tokenize(judge.captions)))
    level = schedule.at(run.model.levels, 1)
    ours = judge.features(pictures) @ judge.texts.T
    theirs = np.stack([logits(judge.params, jnp.asarray(images.from_uint8(each)), level) for each in pictures])
    ratio = theirs / ours
    np.testing.assert_allclose(ratio, np.full_like(ratio, ratio[0, 0]), rtol=1e-3)  # 1 / temperature
    assert sorted(judge.captions) == sorted(set(CAPTIONS))


def test_pairs_are_the_same_for_every_run_of_the_data(place, judge):
    one, other = (emoji.choose_pairs(runs.load(place / name), judge, PAIRS) for name in ("run", "tuned"))
    assert one.captions == other.captions
    assert len(one.captions) == len(one.pictures) == PAIRS
    assert len(one.reference) == 20 - PAIRS
    found = judge.look(*one)
    assert set(found) == set(emoji_judge.NUMBERS)
    assert 0 <= found["top1"] <= found["top5"] <= 1


@pytest.mark.slow
def test_what_was_drawn_is_measured_once(place, capsys, monkeypatch):
    line = [str(place / "run"), "--judge", str(place / "judge"), "--tuned", str(place / "tuned"), "--pairs", str(PAIRS)]
    line += ["--guidances", "none", "classifier-free", "--scales", "1", "4", "--tuned-scales", "0", "1"]
    line += ["--seeds", "0", "1", "--steps", "3"]
    emoji.main(line)
    first = capsys.readouterr().out
    tables = first[first.index("\nemoji\n") :]
    assert tables.count("| classifier-free |") == 4  # two scales, of the run and of the tuned one
    assert tables.count("| none |  |") == 1
    assert tables.count("| real pictures |") == 2
    monkeypatch.setattr(emoji, "measure", None)
    emoji.main(line)
    assert capsys.readouterr().out == first
    # At scale 1 all guidances of the tuned model are that model, and away from it they differ.
    found = {
        words.split(": ")[0]: words.split(": ", 1)[1]
        for words in first.splitlines()
        if words.startswith(("from the base", "domain"))
    }
    assert found["from the base, scale 1, seed 0"] == found["domain, scale 1, seed 0"]
    assert found["from the base, scale 0, seed 0"] != found["domain, scale 0, seed 0"]


def test_bad_requests(place):
    with pytest.raises(ValueError, match="run guides, and favours what it guided; train another for --judge"):
        emoji.main([str(place / "run"), "--judge", str(place / "tuned" / ".." / "run")])
    with pytest.raises(ValueError, match="there is no guidance 'cfg'; there is none, classifier-free"):
        emoji.main([str(place / "run"), "--guidances", "cfg"])
