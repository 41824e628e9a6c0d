"""A grid of prompts against scales: each row of the same noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from guided_jax import parallel
from guided_jax.app import run as runs
from guided_jax.app.demo import comparison
from guided_jax.app.sample import draw, prompts
from guided_jax.app.sample.prompt_files import Row
from guided_jax.app.sample.request import Method
from guided_jax.app.sample.text_options import Text
from guided_jax.storage import images


def draw_grid(run: runs.Run, texts: Sequence[str], scales: Sequence[float], steps: str, seed: int = 0) -> np.ndarray:
    """Return a picture of each prompt at each scale of classifier-free guidance, uint8 (prompts, scales, h, w, c).

    run: of captions. steps: of DPM-Solver++. All pictures of a prompt start from the same noise.
    """
    told = prompts.with_prompts(run, [Row(text) for text in texts], Text())
    devices = parallel.choose_devices(len(texts))
    sample = draw.make_sampler(told, Method("classifier-free", sampler="dpm++", steps=steps), True, devices)
    placed = draw.place(told, {"diffusion": told.params("diffusion")}, devices)
    labels, chunk = np.arange(len(texts)), parallel.chunk_size(len(texts), comparison.BATCH_SIZE, devices)
    columns = [comparison.draw_labels(sample, placed, labels, scale, chunk, seed) for scale in scales]
    return np.stack(columns, axis=1)


def save(path: Path, drawn: np.ndarray, texts: Sequence[str], scales: Sequence[float], zoom: int = 2) -> Path:
    """Save the grid with its prompts beside the rows and its scales above the columns; return its path."""
    pictures = drawn.reshape(-1, *drawn.shape[2:])
    grid = images.grid(pictures, columns=len(scales), scale=zoom, labels=texts)
    head = np.full((16, *grid.shape[1:]), 255, np.uint8)
    side = drawn.shape[3] * zoom + 2
    canvas, first = Image.fromarray(head.squeeze()), grid.shape[1] - side * len(scales)
    for i, scale in enumerate(scales):
        place = (first + (i + 0.5) * side, 8)
        ImageDraw.Draw(canvas).text(place, f"{scale:g}", fill="black", font=ImageFont.load_default(), anchor="mm")
    images.save_png(path, np.concatenate([np.asarray(canvas).reshape(head.shape), grid]))
    return path
