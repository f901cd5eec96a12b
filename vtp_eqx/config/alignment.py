"""Configs of what latents learn from a frozen vision network.

*VA-VAE*: Yao et al. 2025, https://arxiv.org/abs/2501.01423, section 3.2, and its
released code. *RecTok*: Shi et al. 2025, https://arxiv.org/abs/2512.13421, section 3,
and its released code.
"""

from collections.abc import Collection
import dataclasses
from typing import Literal

from vtp_eqx.config.checks import require, require_fields
from vtp_eqx.config.fields import later
from vtp_eqx.config.shapes import TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """What is compared, with which margins, and how much it weighs."""

    width: int = 1024  # VA-VAE: of the features, DINOv2's ViT-L/14
    cosine_weight: float = 1.0  # VA-VAE
    similarity_weight: float = 1.0  # VA-VAE
    cosine_margin: float = 0.5  # VA-VAE, its last phase; 0 before
    similarity_margin: float = 0.25  # VA-VAE, its last phase; 0 before
    # VA-VAE: "adaptive" multiplies the weight, in each step, by the norm of the
    # gradient of reconstruction over its own, at the last layer of the encoder. Ours:
    # "fixed" does not.
    weighting: Literal["fixed", "adaptive"] = later("fixed")
    weight_eps: float = later(1e-4)  # VA-VAE: added to the norm it is divided by
    weight_limit: float = later(1e8)  # VA-VAE: of the ratio of both norms

    def __post_init__(self):
        of = "alignment."
        require_fields(self, "positive", "weight_eps", "weight_limit", of=of)
        require_fields(self, "0 or more", "cosine_weight", "similarity_weight", of=of)


SMALL_DECODER = TransformerConfig(width=192, depth=3, num_heads=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowDistillationConfig:
    """Features are predicted from latents on their way to noise (RecTok)."""

    weight: float = 0.0  # ours, off; RecTok 1
    # Whose features: RecTok's, of a "frozen" network. Ours: of the EMA "teacher" of
    # self-distillation, its encoder's, so that no other network is needed.
    target: Literal["frozen", "teacher"] = later("frozen")
    width: int = 768  # RecTok: of the features, DINOv3's ViT-B/16
    # RecTok: of three blocks; it is no part of the tokenizer.
    decoder: TransformerConfig = SMALL_DECODER

    def __post_init__(self):
        require_fields(self, "0 or more", "weight", of="flow_distillation.")


def check_flow_distillation(
    config: FlowDistillationConfig,
    terms: Collection[str],
    noise_law: str,
    encoder_width: int,
) -> None:
    """Raises `ValueError` where there is no flow to distill along, or no teacher."""
    if "flow_distillation" not in terms:
        return
    require(
        noise_law in ("interpolated", "shifted"),
        "`flow_distillation.weight` needs latents on their way to noise, a "
        "`latent_noise` with the `controls.noise_law` 'interpolated' or 'shifted'; got "
        f"{noise_law!r}: change it, or set the weight to 0.",
    )
    if config.target == "frozen":
        return
    require(
        "distillation" in terms,
        "`flow_distillation.target` ('teacher') is the teacher of self-distillation, "
        "but `distillation_weight` is 0: raise it, or take 'frozen'.",
    )
    require(
        config.width == encoder_width,
        f"`flow_distillation.width` ({config.width}) must be that of the encoder "
        f"({encoder_width}), whose teacher is the target: change it.",
    )


def check_alignment(
    alignment: AlignmentConfig, terms: Collection[str], weighting: str
) -> None:
    """Raises `ValueError` where an adaptive weight has nothing to follow.

    `terms` are the names of all loss terms that have a weight, `weighting` how the
    others are weighed.
    """
    if "alignment" not in terms or alignment.weighting == "fixed":
        return
    require(
        "reconstruction" in terms,
        "`alignment.weighting` ('adaptive') follows the gradient of reconstruction, "
        "but `reconstruction_weight` is 0: raise it, or take 'fixed'.",
    )
    require(
        weighting == "fixed",
        "`alignment.weighting` ('adaptive') needs the `weighting` 'fixed', because a "
        f"weight cannot be learned too; got {weighting!r}: change either.",
    )
