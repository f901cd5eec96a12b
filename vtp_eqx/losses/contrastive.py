"""Contrast between images and captions over the global batch.

Row `i` of the images and row `i` of the texts are a pair; every other row of the global
batch is a negative. Inputs are unit-norm embeddings; logits are float32. They exist for
a block of rows at a time: of 32768 pairs, all of them are 4 GiB in each direction.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.losses.checks import require_finite
from vtp_eqx.losses.chunked_vmap import chunked_vmap
from vtp_eqx.losses.cosines import pairwise_cosine
from vtp_eqx.losses.shards import gathered, global_rows


def clip_loss(
    image: Float[Array, "batch embed"],
    text: Float[Array, "batch embed"],
    *,
    log_scale: Float[Array, ""],
    axis_name: str | None = None,
    block: int | None = None,
) -> Float[Array, " batch"]:
    """Symmetric cross-entropy of finding one's partner in the global batch (CLIP).

    - `image`, `text`: unit-norm embeddings of this shard's pairs.
    - `log_scale`: natural log of the logit multiplier. The paper starts at
        `log(1 / 0.07)` and keeps it at or below `log 100`; the limit is the caller's.
    - `axis_name`: mesh axis that the batch is split over, or `None` off-mesh.
    - `block`: rows of logits at a time; `None`: see `vtp_eqx.losses.chunked_vmap`.

    For each local pair, the mean of its two directions (image to texts and text to
    images), in nats.

    Radford et al. 2021, https://arxiv.org/abs/2103.00020, Figure 3.
    """
    require_finite(image=image, text=text, log_scale=log_scale)
    scale = jnp.exp(log_scale.astype(jnp.float32))
    own = global_rows(image.shape[0], axis_name)

    def direction(queries, keys):
        everyone = gathered(keys, axis_name)

        def surprise(query, own):
            logits = scale * pairwise_cosine(query[None], everyone)[0]
            return -jax.nn.log_softmax(logits)[own]

        return chunked_vmap(surprise, queries, own, columns=len(everyone), block=block)

    return (direction(image, text) + direction(text, image)) / 2


def siglip_loss(
    image: Float[Array, "batch embed"],
    text: Float[Array, "batch embed"],
    *,
    log_scale: Float[Array, ""],
    bias: Float[Array, ""],
    axis_name: str | None = None,
    block: int | None = None,
) -> Float[Array, " batch"]:
    """Binary cross-entropy of every image with every text of the global batch (SigLIP).

    - `image`, `text`: unit-norm embeddings of this shard's pairs.
    - `log_scale`: natural log of the logit multiplier. The paper starts at `log 10`.
    - `bias`: added to every logit. The paper starts at -10: each positive meets
        `batch - 1` negatives, and the loss should not begin by unlearning them.
    - `axis_name`: mesh axis that the batch is split over, or `None` off-mesh.
    - `block`: rows of logits at a time; `None`: see `vtp_eqx.losses.chunked_vmap`.

    For each local image, the sum over all texts, in nats.

    Zhai et al. 2023, https://arxiv.org/abs/2303.15343, Algorithm 1.
    """
    require_finite(image=image, text=text, log_scale=log_scale, bias=bias)
    scale = jnp.exp(log_scale.astype(jnp.float32))
    texts = gathered(text, axis_name)

    def cost(image, own):
        logits = scale * pairwise_cosine(image[None], texts)[0] + bias
        wrong = jnp.where(jnp.arange(len(texts)) == own, -logits, logits)
        return jnp.sum(jax.nn.softplus(wrong))

    own = global_rows(image.shape[0], axis_name)
    return chunked_vmap(cost, image, own, columns=len(texts), block=block)
