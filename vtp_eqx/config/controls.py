"""Config of controls: what else might make latents good to generate on.

Without them a study cannot say that semantics helps. All are off by default. Where a
source is named its value stands beside the default; the rest is ours.
"""

from collections.abc import Collection
import dataclasses
from typing import Literal

from vtp_eqx.config.checks import require, require_fields
from vtp_eqx.config.fields import later
from vtp_eqx.config.shapes import TokenizerConfig


# How much of the noise an image gets, where `latent_noise` says how much there is.
NoiseLaw = Literal["fixed", "uniform", "interpolated", "shifted"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlsConfig:
    """Regularizers of latents that know nothing of what is in an image."""

    # Ours: "fixed" adds all of it to each image. RAE's decoder: "uniform" adds a share
    # of it, drawn for each image. DeTok: "interpolated" mixes such shares of noise and
    # latents, `(1 - s) z + s noise`, with a `latent_noise` of 3. RecTok: "shifted" does
    # so with more noise where latents have more numbers, and a `latent_noise` of 1.
    noise_law: NoiseLaw = later("fixed")
    # Shares of patches that the encoder does not see, uniform, one an image; below 0
    # none is hidden. DeTok: -0.1 to 0.7, one a batch, and of its decoder.
    masked_ratio: tuple[float, float] = later((-0.1, 0.0))
    # VA-VAE, LDM: 1e-6. Beside a mean over pixels it weighs what theirs does beside a
    # sum: the divergence of all latents of an image is divided by its pixel values.
    kl_weight: float = later(0.0)
    # Ours: of the variance before the first step. Theirs is about 0, which drowns the
    # latents of a short training.
    kl_log_variance: float = later(-6.0)
    # Improving the Diffusability: L(x, D(z)) + weight * L(down x, D(down z)). Their
    # weight is not known to us; ours, to begin with: 0.25.
    scale_weight: float = later(0.0)
    scale_factor: int = later(2)  # theirs: 2 or 4
    # EQ-VAE turns latents and targets in half of the steps, in place of the plain loss.
    # Ours: a term beside it.
    rotation_weight: float = later(0.0)
    continuity_weight: float = later(0.0)  # PAE: 0.5
    continuity_degrees: tuple[float, float] = later((42.5, 85.0))  # PAE
    # SSVAE: 0.1, times 0.02 times a ratio of gradients; ours is fixed.
    correlation_weight: float = later(0.0)
    correlation_threshold: float = later(0.75)  # SSVAE
    # Ours: the seed by which captions change places before training, so that none says
    # anything of its image; `None`: they stay.
    caption_shuffle: int | None = later(None)

    def __post_init__(self):
        require_fields(
            self, "0 or more", "kl_weight", "scale_weight", "rotation_weight",
            "continuity_weight", "correlation_weight", of="controls.",
        )  # fmt: skip
        low, high = self.masked_ratio
        require(
            low <= high < 1,
            f"`masked_ratio` {self.masked_ratio} must rise, and end below 1: an image "
            "that is hidden whole teaches nothing.",
        )
        first, second = self.continuity_degrees
        require(
            0 < first < second <= 90,
            f"`continuity_degrees` {self.continuity_degrees} must rise, from above 0 "
            "to 90 at most: change them.",
        )
        require(
            -30 <= self.kl_log_variance <= 20,
            f"`kl_log_variance` ({self.kl_log_variance}) must lie between -30 and 20, "
            "to which the posterior is clipped: change it.",
        )
        require(
            self.scale_factor >= 2,
            f"`scale_factor` ({self.scale_factor}) must be 2 or more: latents become "
            "so many times smaller.",
        )
        require(
            -1 <= self.correlation_threshold <= 1,
            f"`correlation_threshold` ({self.correlation_threshold}) must lie between "
            "-1 and 1, as cosines do: change it.",
        )

    @property
    def masks_patches(self) -> bool:
        """Whether the encoder does not see all patches of images that are decoded."""
        return self.masked_ratio[1] > 0

    @property
    def term_weights(self) -> dict[str, float]:
        """The weight of each loss term, those of 0 too."""
        return {
            "kl": self.kl_weight,
            "scale_equivariance": self.scale_weight,
            "rotation_equivariance": self.rotation_weight,
            "continuity": self.continuity_weight,
            "local_correlation": self.correlation_weight,
        }


def check_noise(name: str, law: NoiseLaw, latent_noise: float) -> None:
    """Raises `ValueError` where the field `name` is a law of no noise."""
    require(
        latent_noise > 0 or law == "fixed",
        f"`{name}` ({law!r}) is of noise, but `latent_noise` is 0: raise it, or leave "
        "the law out.",
    )


def check_controls(
    controls: ControlsConfig,
    terms: Collection[str],
    tokenizer: TokenizerConfig,
    *,
    latent_noise: float,
    accumulate: int,
) -> None:
    """Raises `ValueError` where a control would do nothing, or cannot do its work.

    `terms` are the names of all loss terms that have a weight.
    """
    has_noise = latent_noise > 0
    used = [name for name in controls.term_weights if name in terms]
    used += ["smoothness"] if "smoothness" in terms else []
    used += ["noise"] if has_noise else []
    used += ["masking"] if controls.masks_patches else []
    require(
        not used or "reconstruction" in terms,
        f"Controls ({', '.join(used)}) act on latents that are decoded, but "
        "`reconstruction_weight` is 0: raise it, or leave them out.",
    )
    # After a norm, the deviation of latents is known.
    measures_noise = has_noise and tokenizer.latent_norm == "none"
    require(
        not (measures_noise or "smoothness" in terms) or accumulate == 1,
        "Smoothness and noise need the variance of all latents of a batch before "
        f"they are decoded, but `accumulate` is {accumulate}: set it to 1, or, "
        "for noise, `tokenizer.latent_norm` to 'rms'.",
    )
    check_noise("controls.noise_law", controls.noise_law, latent_noise)
    side = tokenizer.image_size // tokenizer.patch_size
    require(
        "scale_equivariance" not in terms or side % controls.scale_factor == 0,
        f"`controls.scale_factor` ({controls.scale_factor}) must divide the grid of "
        f"{side} x {side} latents: change it, or leave the term out.",
    )
    require(
        controls.caption_shuffle is None or "contrast" in terms,
        f"`controls.caption_shuffle` ({controls.caption_shuffle}) moves captions, but "
        "only contrast reads them and `contrast_weight` is 0: raise it, or leave the "
        "shuffle out.",
    )
