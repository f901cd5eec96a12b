"""Distillation of a vision network into latents and into noise between them.

Shi et al. 2025 (RecTok), https://arxiv.org/abs/2512.13421, section 3. Theirs is frozen;
here it may be the EMA teacher of self-distillation.
"""

import dataclasses
from typing import ClassVar

from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.losses.alignment import cosine_loss
from vtp_eqx.models.decoder import FeatureDecoder
from vtp_eqx.training.parameter_counts import num_parameters
from vtp_eqx.training.pretrain_views import select_rows
from vtp_eqx.training.terms.alignment import (
    frozen_features,
    require_vision,
    VisionFeatures,
)
from vtp_eqx.training.terms.reconstruction import decoded_latents
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, TermFlops


@dataclasses.dataclass(frozen=True)
class FlowDistillation(SubsetTerm):
    """A small decoder predicts a network's features from points of the flow.

    These are what pixels are decoded from: latents on their way to noise. Where patches
    are hidden from the encoder, features are those of the whole image. The network is
    `vision`, or the teacher where the config says so.
    """

    vision: VisionFeatures | None = None
    name: ClassVar[str] = "flow_distillation"

    def check(self) -> None:
        if not self._has_own_target:
            require_vision(self.vision, "flow_distillation.weight", self.weight)

    def make_head(self, key: PRNGKeyArray) -> FeatureDecoder:
        """The decoder from latents to the network's features."""
        config, tokenizer = self.config.flow_distillation, self.config.tokenizer
        return FeatureDecoder(
            config.decoder, tokenizer.latent_width, config.width, tokenizer.rope,
            key=key,
        )  # fmt: skip

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        points = decoded_latents(self.config, rows.passes.subset.latents, rows.views)
        predicted = rows.student.heads[self.name].batch(points).astype(jnp.float32)
        return cosine_loss(predicted, self._features(rows), margin=0.0)

    @property
    def _has_own_target(self) -> bool:
        return self.config.flow_distillation.target == "teacher"

    def _features(self, rows: Microbatch) -> Float[Array, "rebuilt rows columns width"]:
        """What is predicted, without a gradient."""
        width = self.config.flow_distillation.width
        if not self._has_own_target:
            return frozen_features(self.vision, rows, self.config, width=width)
        images = select_rows(rows.views.whole, rows.views.rebuilt)
        patches = rows.teacher.encoder.batch(rows.teacher.normalize(images)).patches
        grid = rows.passes.subset.latents.shape[:3]
        features = patches.astype(jnp.float32).reshape(*grid, width)
        return lax.stop_gradient(features)

    def flops(self) -> TermFlops:
        """Without those of `vision`, which no config describes."""
        tokenizer = self.config.tokenizer
        positions = (tokenizer.image_size // tokenizer.patch_size) ** 2
        parameters = num_parameters(lambda: self.make_head(jr.key(0)))
        return TermFlops(
            student=2.0 * parameters * positions, subset_pass=self.encoder_flops,
            teacher=self.encoder_flops if self._has_own_target else 0.0,
        )  # fmt: skip
