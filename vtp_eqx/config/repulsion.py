"""Config of a contrastive memory bank in the training of a generator (Repulsor).

*Repulsor*: Zhang et al. 2025, https://arxiv.org/abs/2512.08648, of which we know the
abstract: a queue of many negatives, a narrow projection head, no positives. *Dispersive
Loss*, its like without a bank: Wang and He 2025, https://arxiv.org/abs/2506.09027, and
its released code.
"""

import dataclasses

from vtp_eqx.config.checks import require, require_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepulsionConfig:
    """Hidden features of a generator move away from those of former batches."""

    weight: float = 0.0  # ours, off; Dispersive Loss 0.25
    # Ours: after which share of the blocks features are read; Dispersive Loss: the
    # last. They are the mean over a latent's tokens (ours; there all tokens as one).
    depth_share: float = 0.5
    width: int = 128  # ours: of what the head projects them to, and the bank holds
    bank_size: int = 65536  # ours, MoCo's: how many of them the bank holds
    temperature: float = 0.5  # ours: of squared distances on the unit sphere

    def __post_init__(self):
        require_fields(
            self, "positive", "width", "bank_size", "temperature", of="repulsion."
        )
        require(
            self.weight >= 0,
            f"`repulsion.weight` ({self.weight}) must not be negative, which would "
            "attract: 0 leaves the term out.",
        )
        require(
            0 < self.depth_share <= 1,
            f"`repulsion.depth_share` ({self.depth_share}) must be a share of the "
            "blocks, above 0 and 1 at most: change it.",
        )
