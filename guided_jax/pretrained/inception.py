"""Inception-v3 with published weights: those of pytorch-fid, the network behind FID, or torchvision's."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax.models.inception import SIDE, InceptionV3
from guided_jax.pretrained.state_dict import import_params, torch_key, variable_shapes

FID_CLASSES = 1008  # the network of 2015 behind FID counts some that are none; torchvision's has 1000


def load(state_dict: Mapping[str, np.ndarray], width: float = 1.0) -> tuple[InceptionV3, dict[str, Any]]:
    """Return (module, params), used as module.apply(params, x) with x (*batch, 299, 299, 3) in [-1, 1].

    state_dict: torch key -> array, of pytorch-fid's weights (1008 classes) or of torchvision's inception_v3, whose
    auxiliary head is left out. width: factor of all channels, for tests. ValueError naming every key missing, surplus or
    misshapen.
    """
    wanted = {key: array for key, array in state_dict.items() if not _is_ignored(key)}
    bias = wanted.get("fc.bias", np.zeros(FID_CLASSES))
    module = InceptionV3(len(bias), fid=len(bias) == FID_CLASSES, width=width)
    picture = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.float32)
    return module, import_params(variable_shapes(module, picture), wanted, torch_key)


def _is_ignored(key: str) -> bool:
    """Return whether inference does not read it: the head that helps training, and counts of batches."""
    return key.startswith("AuxLogits.") or key.endswith(".num_batches_tracked")
