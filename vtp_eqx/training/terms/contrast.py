"""Image-text contrast: each image finds its caption among those of the global batch."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.losses.contrastive import clip_loss, siglip_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.models.text import TextEncoder
from vtp_eqx.models.tokenizer import Pretrainer
from vtp_eqx.nn.norms import unit_norm
from vtp_eqx.training.parameter_counts import encoder_flops, num_parameters
from vtp_eqx.training.pretrain_views import Needs
from vtp_eqx.training.terms.term import Microbatch, PretrainTerm, TermFlops, TermLoss


class Embeddings(eqx.Module):
    """Unit-norm embeddings of images and of their captions, in one space."""

    image: Float[Array, "rows embed"]
    text: Float[Array, "rows embed"]


class Contrast(PretrainTerm):
    """CLIP's or SigLIP's loss (VTP section 3)."""

    name: ClassVar[str] = "contrast"
    batch: ClassVar[str] = "batch_size"
    needs: ClassVar[Needs] = Needs.PAIRS

    def forward(self, rows: Microbatch) -> Embeddings:
        tokenizer = rows.student.tokenizer
        image = tokenizer.projection(tokenizer.contrast_features(rows.passes.whole))
        text = jax.vmap(tokenizer.text.embed)(rows.views.caption)
        # Of float32 length: a logit is 100 times a cosine.
        unit = lambda rows: unit_norm(rows.astype(jnp.float32))
        return Embeddings(image=unit(image), text=unit(text))

    def loss(self, student: Pretrainer, outputs: Embeddings) -> TermLoss:
        tokenizer = student.tokenizer
        pair = outputs.image, outputs.text
        scale = tokenizer.logit_scale
        if self.config.contrast == "clip":
            return TermLoss(clip_loss(*pair, log_scale=scale, axis_name=DATA), {})
        assert tokenizer.logit_bias is not None
        value = siglip_loss(
            *pair, log_scale=scale, bias=tokenizer.logit_bias, axis_name=DATA
        )
        return TermLoss(value, {})

    def flops(self) -> TermFlops:
        tokenizer = self.config.tokenizer
        shape = tokenizer.text
        assert shape is not None
        text = num_parameters(lambda: TextEncoder(shape, key=jax.random.key(0)).stack)
        image = encoder_flops(tokenizer, tokenizer.image_size)
        return TermFlops(student=image + 2 * text * shape.context)
