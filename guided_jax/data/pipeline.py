"""The pipeline of training: from a source to batches in an order that is a function of the seed and the position."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from guided_jax.data.source import THREADS, Source
from guided_jax.storage.images import from_uint8

if TYPE_CHECKING:
    import grain

# Examples that a repeating loader goes through.
ENDLESS = 2**40


def loader(
    source: Source,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    repeat: bool = True,
    flip: bool = False,
    drop_remainder: bool = True,
    threads: int = THREADS,
    prefetch: int = THREADS + 2,
    share: tuple[int, int] = (0, 1),
) -> "grain.DatasetIterator":
    """Return an endless (`repeat`) iterator over {"image": float32 (B, H, W, C), "label": int32 (B,)}.

    What else a source reads is in the batches too.
    uint8 pictures are scaled to [-1, 1]; the floats of a source of float32 stay as they are.

    The order of an epoch depends on the seed and the number of the epoch; random crops, and the horizontal flips made
    for half the images when `flip` is set, on the seed and the number of the batch. Without `repeat` it ends after one
    epoch, and `drop_remainder=False` keeps its short last batch. `get_state()` is a small JSON-able dict and
    `set_state()` returns to that batch. `prefetch` batches are read ahead by `threads`. `share=(i, n)` reads the i-th of
    n equal parts of every batch, for one process of n. Raises ValueError when not one batch can be filled, or shared.
    """
    import grain  # a tenth of a second or more, which sampling does not need

    if not repeat and drop_remainder and len(source) < batch_size:
        raise ValueError(f"{len(source)} examples do not fill one batch of {batch_size}")
    if batch_size % share[1]:
        raise ValueError(f"a batch of {batch_size} cannot be shared equally by {share[1]} processes")
    examples = ENDLESS if repeat else len(source)
    number = examples // batch_size if drop_remainder else -(-examples // batch_size)
    rows = functools.partial(_rows, len(source), batch_size, seed if shuffle else None, repeat)
    batches = grain.MapDataset.range(number).seed(seed).map(rows)
    if flip or source.random_crop:
        # For the whole batch, before it is shared: the draws are the same however many processes there are.
        batches = batches.random_map(lambda indices, rng: (indices, rng.random((len(indices), 4))))
        batches = batches.map(functools.partial(_read_varied, source, flip, share))
    else:
        batches = batches.map(lambda indices: _scale_rows(source.read(_part(indices, share))))
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))


def _rows(size, batch_size, seed, repeat, number):
    """Return the rows of batch `number`. Grain's own shuffle goes index by index: 5 ms for a batch of 128, this 0.05."""
    position = np.arange(number * batch_size, (number + 1) * batch_size)
    position = position if repeat else position[position < size]
    epochs = range(position[0] // size, position[-1] // size + 1)
    return np.concatenate([_order(size, seed, epoch)[position[position // size == epoch] % size] for epoch in epochs])


@functools.lru_cache(maxsize=4)
def _order(size, seed, epoch):
    return np.arange(size) if seed is None else np.random.default_rng((seed, epoch)).permutation(size)


def _part(rows, share):
    return np.array_split(rows, share[1])[share[0]]


def scale(image: np.ndarray) -> np.ndarray:
    """Return uint8 pictures scaled to [-1, 1], float32; floats stay as they are."""
    return from_uint8(image) if image.dtype == np.uint8 else image


def _scale_rows(rows):
    return {**rows, "image": scale(rows["image"])}


def _read_varied(source, flip, share, batch):
    """Return a batch with random crops and flips by its draws (B, 4) in [0, 1): three for the crop, one for the flip."""
    indices, draws = (_part(rows, share) for rows in batch)
    rows = source.read(indices, draws[:, :3]) if source.random_crop else source.read(indices)
    if flip:
        mirrored = (draws[:, 3] < 0.5)[:, None, None, None]
        rows = {**rows, "image": np.where(mirrored, rows["image"][:, :, ::-1], rows["image"])}
    return _scale_rows(rows)
