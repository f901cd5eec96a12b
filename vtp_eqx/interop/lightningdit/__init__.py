"""Published LightningDiT checkpoints to `DiT` and back, by one table of names.

The published layout (hustvl/LightningDiT 2725fed) has one tensor a block, convolutional
patches and fixed positions as tensors. Here blocks are stacked, patches are a matrix,
and positions are a formula: read in, they are compared with it.
"""

from vtp_eqx.interop.lightningdit.checkpoint import (
    dit_from_published as dit_from_published,
    dit_outputs as dit_outputs,
    dit_to_published as dit_to_published,
)
from vtp_eqx.interop.lightningdit.files import (
    Part as Part,
    read_published as read_published,
    save_published_dit as save_published_dit,
    TORCH_SUFFIXES as TORCH_SUFFIXES,
)
from vtp_eqx.interop.lightningdit.settings import (
    config_from_published as config_from_published,
    config_from_training as config_from_training,
    config_to_published as config_to_published,
    LATENTS_HASH as LATENTS_HASH,
    latents_hash_of as latents_hash_of,
)
