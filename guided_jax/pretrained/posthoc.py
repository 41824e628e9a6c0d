"""Averages of another length, from the snapshots that EDM2's training stores: network-snapshot-<kimg>-<sigma_rel>.pkl.

Source: [EDM2] Karras et al. 2312.02696 section 3 and appendix C; the weights are those of `training.averaging`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from guided_jax.pretrained import pickles
from guided_jax.pretrained.readers import Tensors
from guided_jax.training import averaging

NAME = re.compile(r".*-(\d+)-(\d+\.\d+)\.pkl")


class Snapshot(NamedTuple):
    """An average of the weights: of length sigma_rel, after `kimg` thousand pictures of training."""

    kimg: int
    sigma_rel: float
    state_dict: Mapping[str, np.ndarray]


def read_snapshot(path: str | Path) -> Snapshot:
    """Return the average of a file; ValueError unless its name ends in -<kimg>-<sigma_rel>.pkl, and as `pickles.read`."""
    path = Path(path)
    named = NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(f"{path} does not say its average: name it such as network-snapshot-2147483-0.100.pkl")
    return Snapshot(int(named[1]), float(named[2]), pickles.read(path)["state_dict"])


def combine(snapshots: Sequence[Snapshot], sigma_rel: float, kimg: int | None = None) -> Mapping[str, np.ndarray]:
    """sum_i w_i theta_i, nearest to the average of length sigma_rel ([EDM2] algorithm 3), for `edm2.load`.

    snapshots: of one training. kimg: where the average ends, which has to be the end of a snapshot; the last if not given.
    Return a mapping torch key -> array, float32. Each is computed on access, so that no more than one is in memory.
    ValueError for none, for those of another network, and for a sigma_rel too far from theirs.
    """
    ends = sorted({snapshot.kimg for snapshot in snapshots})
    kimg = ends[-1] if kimg is None and ends else kimg
    if kimg not in ends:
        raise ValueError(f"no snapshot ends at kimg {kimg}; there are {', '.join(map(str, ends)) or 'none'}")
    used = sorted((each for each in snapshots if each.kimg <= kimg), key=lambda each: each[:2])
    for each in used:
        if different := each.state_dict.keys() ^ used[-1].state_dict.keys():
            raise ValueError(
                f"the snapshots are of different networks: not all have {', '.join(sorted(different)[:3])}"
            )
    steps, sigma_rels = [each.kimg for each in used], [each.sigma_rel for each in used]
    weights = averaging.mixture(steps, sigma_rels, kimg, sigma_rel)
    averaging.check_mixture(steps, sigma_rels, weights, kimg, sigma_rel)
    return Tensors(list(used[-1].state_dict), lambda name: _sum(name, used, weights))


def _sum(name: str, snapshots: Sequence[Snapshot], weights: np.ndarray) -> np.ndarray:
    """Return the sum of a tensor; frequencies and phases, which are not trained, are those of the last snapshot."""
    last = snapshots[-1].state_dict[name]
    if name.endswith((".freqs", ".phases")):
        return last.astype(np.float32)
    total = np.zeros(last.shape)
    for weight, snapshot in zip(weights, snapshots, strict=True):
        tensor = snapshot.state_dict[name]
        if tensor.shape != total.shape:
            raise ValueError(f"the snapshots are of different networks: {name} is {tensor.shape} and {total.shape}")
        total += weight * tensor.astype(np.float64)
    return total.astype(np.float32)
