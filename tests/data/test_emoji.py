"""The emoji: from archives of npm, made here, to pictures with captions; and what is said where one cannot be had."""

import base64
import collections
import hashlib
import io
import json
import logging
import tarfile

import numpy as np
import pytest

from guided_jax import data
from guided_jax.data import emoji

SQUARE = '<path fill="#f00" d="M4 4h8v8H4z"/>'  # red, in the middle of 16x16
ICONS = {
    "zebra": "1f993",
    "red-heart": "2764",
    "person-light": "1f464-1f3fb",  # a skin tone
    "police-car-light": "1f6a8",  # none
    "crab": "1f980",
    "logo": "e000",  # of no category of Unicode
    "old-name": "1f993",
}
CATEGORIES = {
    "Animals & Nature": ["zebra", "crab", "old-name"],
    "Symbols": ["red-heart"],
    "People & Body": ["person-light"],
    "Travel & Places": ["police-car-light"],
    "Extras Openmoji": ["logo"],
}


def write_archive(folder, style, food=(), leave_out=()):
    """Write an archive as npm pack does, with zebras and others; return its `IconSet`."""
    icons = {name: {"body": SQUARE} for name in ICONS if name not in leave_out}
    icons["old-name"]["hidden"] = True
    categories = {group: [name for name in names if name not in food] for group, names in CATEGORIES.items()}
    categories["Food & Drink"] = list(food)
    if style == "open":  # whose categories have no "&"
        categories = {group.replace(" & ", " "): names for group, names in categories.items()}
    files = {
        "icons": {"prefix": style, "icons": icons, "width": 16, "height": 16},
        "metadata": {"categories": categories},
        "chars": {code: name for name, code in ICONS.items() if name != "old-name"},
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in files.items():
            body = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}.json")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    digest = base64.b64encode(hashlib.sha512(raw.getvalue()).digest()).decode()
    made = emoji.IconSet(style, f"@icons/{style}", "1.0.0", digest, "MIT", f"{style} authors")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / made.archive).write_bytes(raw.getvalue())
    return made


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "downloads" / "manual"
    options = {"flat": {"food": ["crab"]}, "open": {}, "round": {"leave_out": ["red-heart"]}}
    return [write_archive(folder, style, **each) for style, each in options.items()]


def test_icons_without_skin_tones_old_names_and_extras(tmp_path, sets):
    found = emoji.read_icons(tmp_path / "downloads" / "manual", sets)
    names = {"zebra", "red heart", "police car light", "crab"}
    assert {icon.key for icon in found} == {
        f"{style}/{name}" for style in ("flat", "open", "round") for name in names
    } - {"round/red heart"}
    # The category of a concept is that of most of its styles.
    assert {icon.category for icon in found if icon.concept == "crab"} == {"Animals & Nature"}
    picture = emoji.draw(found[0].svg, 32)
    assert picture.shape == (32, 32, 3)
    np.testing.assert_array_equal(picture[8:24, 8:24], np.broadcast_to([255, 0, 0], (16, 16, 3)))
    assert (np.delete(picture, np.s_[8:24], 0) == 255).all()


def test_a_fifth_is_held_out_and_every_concept_is_seen():
    icons = [
        emoji.Icon(f"concept {i}", style, "Flags", "")
        for i in range(100)
        for style in ("a", "b", "c", "d")[: 1 + i % 4]
    ]
    held = emoji.hold_out(icons)
    assert len(held) == round(0.2 * len(icons)) == 50
    assert emoji.hold_out(icons[::-1]) == held  # whatever their order
    seen = collections.Counter(icon.concept for icon in icons if icon.key not in held)
    assert set(seen) == {icon.concept for icon in icons}
    assert {icon.style for icon in icons if icon.key not in held} == {"a", "b", "c", "d"}


def test_from_archives_to_captions(tmp_path, sets, monkeypatch, caplog):
    monkeypatch.setattr(emoji, "SETS", tuple(sets))
    monkeypatch.setattr(emoji, "has_npm", lambda: False)  # archives that lie there need none, and come before the font
    monkeypatch.setattr(emoji, "read_icons", lambda archives, read=emoji.read_icons: read(archives, sets))
    with caplog.at_level(logging.WARNING):
        train, test = (data.load("emoji", split, tmp_path) for split in ("train", "test"))
    assert [record.getMessage() for record in caplog.records] == [
        f"emoji, {each.style} style: {each.style} authors, @icons/{each.style} 1.0.0, MIT" for each in sets
    ]
    assert (len(train), len(test), train.image_shape) == (9, 2, (32, 32, 3))
    assert train.class_names == emoji.CATEGORIES
    assert len({*train.captions, *test.captions}) == 11
    for source in (train, test):
        batch = source.read(np.arange(len(source)))
        assert (batch["image"][:, 16, 16] == [255, 0, 0]).all()
        for caption, label in zip(source.captions, batch["label"], strict=True):
            concept, _, style = caption.partition(", ")
            assert style in {f"{each.style} style" for each in sets}
            named = next(group for group, names in CATEGORIES.items() if concept.replace(" ", "-") in names)
            assert source.class_names[label] == named
    # Prepared once: without the archives from here on.
    monkeypatch.setattr(emoji, "read_icons", lambda archives: pytest.fail("prepared twice"))
    assert data.load("emoji", "test", tmp_path).captions == test.captions
    with pytest.raises(ValueError, match="there are emoji of 32 and 64 pixels a side, not 48"):
        data.load("emoji:48", "train", tmp_path)


def test_an_archive_that_is_not_the_published_one_is_refused(tmp_path, sets):
    folder = tmp_path / "downloads" / "manual"
    (folder / sets[0].archive).write_bytes(b"something else")
    with pytest.raises(OSError, match=r"icons-flat-1.0.0.tgz is not @icons/flat 1.0.0: its sha512 is .*; delete it"):
        emoji.read_icons(folder, sets)


def test_without_npm_and_font(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    monkeypatch.setattr(emoji, "FONT", tmp_path / "absent.ttf")
    with pytest.raises(OSError, match=r"fetched by npm, which is not installed; install Node.js, or put .*fluent"):
        data.load("emoji", "train", tmp_path)


def test_what_npm_says_is_said(tmp_path, monkeypatch):
    class Done:
        returncode, stderr, stdout = 1, "npm error 404 not found\nmore", ""

    monkeypatch.setattr(emoji, "has_npm", lambda: True)
    monkeypatch.setattr(emoji.subprocess, "run", lambda *args, **options: Done)
    with pytest.raises(
        OSError, match=r"npm cannot fetch @iconify-json/noto 1.2.9 \(npm error 404 not found\); put .*noto"
    ):
        emoji.read_icons(tmp_path, [emoji.SETS[1]])


@pytest.mark.skipif(not emoji.FONT.exists(), reason="Debian's fonts-noto-color-emoji is not installed")
def test_the_font_in_the_place_of_npm(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    train = data.load("emoji", "train", tmp_path)
    assert "zebra face, noto style" in {*train.captions, *data.load("emoji", "test", tmp_path).captions}
    assert train.class_names == ("Emoji",)
