"""The U-Net of EDM2 [EDM2]."""

from guided_jax.models.edm2.network import EDM2

__all__ = ["EDM2"]
