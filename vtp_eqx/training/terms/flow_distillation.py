"""Distillation of a frozen vision network into latents and into noise between them.

Shi et al. 2025 (RecTok), https://arxiv.org/abs/2512.13421, section 3.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import PretrainConfig
from vtp_eqx.losses.alignment import cosine_loss
from vtp_eqx.models.feature_decoder import FeatureDecoder
from vtp_eqx.training.parameter_counts import num_parameters
from vtp_eqx.training.terms.alignment import (
    frozen_features,
    require_vision,
    VisionFeatures,
)
from vtp_eqx.training.terms.reconstruction import decoded_latents
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, TermFlops


@dataclasses.dataclass(frozen=True)
class FlowDistillation(SubsetTerm):
    """A small decoder predicts the features of `vision` from points of the flow.

    These are what pixels are decoded from: latents on their way to noise. Where patches
    are hidden from the encoder, features are those of the whole image.
    """

    config: PretrainConfig
    vision: VisionFeatures | None = None
    name: ClassVar[str] = "flow_distillation"

    def check(self) -> None:
        require_vision(self.vision, "flow_distillation.weight", self.weight)

    def make_head(self, key: PRNGKeyArray) -> FeatureDecoder:
        """The decoder from latents to the network's features."""
        config, tokenizer = self.config.flow_distillation, self.config.tokenizer
        return FeatureDecoder(
            config.decoder, tokenizer.latent_width, config.width, tokenizer.rope,
            key=key,
        )  # fmt: skip

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        width = self.config.flow_distillation.width
        features = frozen_features(self.vision, rows, self.config, width=width)
        points = decoded_latents(self.config, rows.passes.subset.latents, rows.views)
        predicted = rows.student.heads[self.name].batch(points).astype(jnp.float32)
        return cosine_loss(predicted, features, margin=0.0)

    def flops(self) -> TermFlops:
        """Without those of `vision`, which no config describes."""
        tokenizer = self.config.tokenizer
        positions = (tokenizer.image_size // tokenizer.patch_size) ** 2
        parameters = num_parameters(lambda: self.make_head(jr.key(0)))
        return TermFlops(
            student=2.0 * parameters * positions, subset_pass=self.encoder_flops
        )
