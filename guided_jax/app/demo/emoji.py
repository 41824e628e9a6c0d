"""Train on emoji with captions, or find it done, and draw prompts at several scales: a row a prompt, a column a scale."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from guided_jax.app import cli

PAGE = """usage: guided-jax demo emoji [OPTIONS]

Train a text-to-image model on emoji of 32x32 pixels, about 45 minutes on two CPU cores, and draw prompts
at several scales, a row a prompt. The same command again resumes, or only draws.

  --out FOLDER         the run, with the picture FOLDER/demo/emoji.png (default: runs/emoji)
  --prompts TEXT ...   what to draw; by default names and styles that were not trained on together
  --scales S ...       of classifier-free guidance (default: 0 1 2 3 5)
  --steps N            DPM-Solver++ steps (default: 25)
  --seed N             of the noise (default: 0)
  --experiment E       another experiment with captions, by name or by file (default: emoji)

example: guided-jax demo emoji --prompts "zebra, noto style" "a blue heart" --scales 1 4"""
# Held-out pairs of a concept and a style.
PROMPTS = (
    *("panda, twemoji style", "rainbow, noto style", "strawberry, twemoji style", "hourglass not done, fluent style"),
    *("grinning face, openmoji style", "maple leaf, twemoji style", "mammoth, noto style", "man vampire, fluent style"),
)


@dataclasses.dataclass(frozen=True)
class EmojiDemo:
    """The options of `guided-jax demo emoji`."""

    out: Path = Path("runs/emoji")
    """The run that is trained; the picture goes into its folder demo."""
    prompts: tuple[str, ...] = PROMPTS
    """What to draw."""
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 5.0)
    """Guidance scales."""
    steps: str = "25"
    """DPM-Solver++ steps."""
    seed: int = 0
    """The seed of the noise."""
    experiment: str = "emoji"
    """The experiment that is trained, by name or by file; its pictures have captions."""


def main(args: Sequence[str]) -> None:
    """Train, or resume, or find it done; draw, and print where the picture is."""
    start, options = time.monotonic(), cli.parse(EmojiDemo, "guided-jax demo emoji", args, description=PAGE)
    from guided_jax import parallel  # these take seconds to import
    from guided_jax.app import experiments
    from guided_jax.app import run as runs
    from guided_jax.app.demo import prompt_grid
    from guided_jax.app.train import command as train

    if experiments.load(options.experiment).data.text == "none":
        raise ValueError(
            f"the demo draws prompts, and {options.experiment} has no captions; give an experiment whose Data has text"
        )
    print(
        f"guided-jax demo emoji: train {options.experiment} into {options.out}, and draw prompts from it.", flush=True
    )
    parallel.use_cpu_devices()
    train.main([options.experiment, "--out", str(options.out)])
    drawing, run = time.monotonic(), runs.load(options.out)
    drawn = prompt_grid.draw_grid(run, options.prompts, options.scales, options.steps, options.seed)
    path = prompt_grid.save(options.out / "demo" / "emoji.png", drawn, options.prompts, options.scales)
    now = time.monotonic()
    print(
        f"\npicture: {path}\ntime: {now - start:.0f} s, of which {now - drawing:.0f} s to draw {drawn[..., 0, 0, 0].size}"
    )
    print(f'\nnext: guided-jax sample {options.out} --prompt "{options.prompts[0]}" --scale 3 --num-samples 9')
