"""The commands of the pages on published models run, in their order, on tiny files of the same names."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from guided_jax.app import cli
from guided_jax.storage import images
from tests import tiny_published

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    *("howto/steer-published.md", "models/dit.md", "models/sit.md", "models/edm2.md", "models/autoencoders.md"),
    "models/stable-diffusion.md",
)
FEW = (
    "--num-samples",
    "2",
    "--steps",
    "2",
    "--batch-size",
    "2",
    "--devices",
    "1",
)  # what counts of an option is its last value
# The files that a page takes from elsewhere.
MADE = re.compile(
    r"(DiT|SiT|sd-|stable-diffusion|edm2|last|my-dit|v1-5-pruned|control_)[\w.-]*"
    r"|(photo|mask|rows|prompts|edges|style|light)\.\w+"
)


def commands(page):
    """Return the words of every `guided-jax` command of a page, but of measurements and of all files of a folder."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [
        words[1:]
        for words in lines
        if words[0] == "guided-jax" and words[1] != "metrics" and "*" not in " ".join(words)
    ]


def run(words, folder):
    """Run a command on what it names; return the output folder of samples, None of a conversion."""
    here = []
    for word in words:
        name, colon, multiplier = word.partition(":")  # of a LoRA
        made = tiny_published.write(folder, name) if MADE.fullmatch(name) else name
        here.append(made + colon + multiplier)
    if "--size" in here:  # of the tiny models
        here[(place := here.index("--size") + 1) : place + 2] = ["16", "24"]
    command, *arguments = [*here, *FEW] if here[0] == "sample" else here
    cli.script(importlib.import_module(f"guided_jax.app.{cli.COMMANDS[command][0]}").main, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    assert {words[0] for words in found} == {"convert", "sample"}
    for words in found:
        run(words, tmp_path)
        said = capsys.readouterr().out
        if words[0] == "sample":
            drawn, _ = images.load_npz(Path(said.split(" and ")[0]))
            assert drawn.dtype == "uint8"
            assert len(drawn) == 2
            assert drawn.std() > 1
