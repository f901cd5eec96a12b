"""Self-distillation: targets of the teacher, losses of the student, spread of features.

Crops are stacked crop-major: `[2, batch, prototypes]` are two global crops of `batch`
images. Logits come raw from the prototype head; temperatures are applied here, in
float32, because 8 bits of mantissa cannot hold a sum over thousands of prototypes.
Targets carry no gradient: each function that makes them stops it in its first line.
"""

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from vtp_eqx.config import require
from vtp_eqx.losses.checks import require_finite, require_positive, unless_empty
from vtp_eqx.losses.cosines import pairwise_cosine, unit_norm
from vtp_eqx.losses.shards import gathered, global_mean, global_rows


def center_targets(
    logits: Float[Array, "*rows prototypes"],
    center: Float[Array, " prototypes"],
    temperature: ScalarLike,
) -> Float[Array, "*rows prototypes"]:
    """Teacher targets kept from collapse by a running mean: softmax of the difference.

    Caron et al. 2021, https://arxiv.org/abs/2104.14294, section 3.1.
    """
    logits, center = lax.stop_gradient((logits, center))
    require_finite(logits=logits, center=center)
    require_positive(temperature=temperature)
    centered = logits.astype(jnp.float32) - center.astype(jnp.float32)
    return jax.nn.softmax(centered / temperature, axis=-1)


def updated_center(
    center: Float[Array, " prototypes"],
    logits: Float[Array, "rows prototypes"],
    *,
    momentum: float = 0.9,
    axis_name: str | None = None,
) -> Float[Array, " prototypes"]:
    """The running mean of teacher logits, one step on; for the *next* step's targets.

    `axis_name` is the mesh axis that the rows are split over, in equal shards.
    Caron et al. 2021, https://arxiv.org/abs/2104.14294, equation 4.
    """
    center, logits = lax.stop_gradient((center, logits))
    require_finite(center=center, logits=logits)
    mean = global_mean(jnp.mean(logits.astype(jnp.float32), axis=0), axis_name)
    return momentum * center + (1 - momentum) * mean


def dino_loss(
    global_logits: Float[Array, "2 batch prototypes"],
    local_logits: Float[Array, "crops batch prototypes"],
    targets: Float[Array, "2 batch prototypes"],
    *,
    temperature: ScalarLike = 0.1,
) -> Float[Array, " batch"]:
    """Cross-entropy of the student's crops with the teacher's other views (DINO).

    Local crops meet both targets, a global crop only the target of the other one: what
    a crop shares with itself teaches nothing.

    - `global_logits`, `local_logits`: of the student. There may be no local crops.
    - `targets`: `targets[i]` is the teacher's distribution for global crop `i`, in the
        same order as `global_logits`; the exchange happens here.
    - `temperature`: divides the student's logits.

    For each image, the mean over its `2 * crops + 2` terms, in nats.

    Caron et al. 2021, https://arxiv.org/abs/2104.14294, equation 3; DINOv2's weights.
    """
    require_finite(global_logits=global_logits, local_logits=local_logits)
    require_finite(targets=targets)
    exchanged = cross_entropy(global_logits, targets[::-1], temperature=temperature)
    # Linear in the target, so two terms cost one; their mean is a distribution.
    both = cross_entropy(
        local_logits, jnp.mean(targets, axis=0), temperature=temperature
    )
    total = jnp.sum(exchanged, axis=0) + 2 * jnp.sum(both, axis=0)
    return total / (2 * local_logits.shape[0] + 2)


def ibot_loss(
    student: Float[Array, "rows prototypes"],
    targets: Float[Array, "rows prototypes"],
    *,
    weight: Float[Array, " rows"],
    image: Int[Array, " rows"],
    num_images: int,
    temperature: ScalarLike = 0.1,
    axis_name: str | None = None,
) -> Float[Array, " {num_images}"]:
    """Cross-entropy at the patches that the student could not see (iBOT).

    - `student`, `targets`: logits and distributions of the masked patches.
    - `weight`: 1 over the number of masked patches in that row's crop; 0 in padding.
    - `image`: which of this shard's `num_images` crops a row belongs to.
    - `axis_name`: mesh axis that the crops are split over, or `None` off-mesh. It only
        tells a shard without masked patches (0) from a batch without any (NaN; outside
        of jit: `ValueError`).

    For each crop, the mean over its masked patches, in nats; 0 where it has none.

    Zhou et al. 2022, https://arxiv.org/abs/2111.07832, equation 2; the division is
    DINOv2's.
    """
    require_finite(student=student, targets=targets, weight=weight)
    errors = cross_entropy(student, targets, temperature=temperature)
    loss = masked_mean(errors, weight=weight, image=image, num_images=num_images)
    return unless_empty(loss, weight > 0, axis_name=axis_name)


def masked_mean(
    errors: Float[Array, " rows"],
    *,
    weight: Float[Array, " rows"],
    image: Int[Array, " rows"],
    num_images: int,
) -> Float[Array, " {num_images}"]:
    """`ibot_loss` from the cross-entropy of each row."""
    return jax.ops.segment_sum(weight * errors, image, num_segments=num_images)


def cross_entropy(
    logits: Float[Array, "*rows prototypes"],
    targets: Float[Array, "*#rows prototypes"],
    *,
    temperature: ScalarLike,
) -> Float[Array, "*rows"]:
    """The cross-entropy of each row with its target, in nats."""
    require_positive(temperature=temperature)
    scores = logits.astype(jnp.float32) / temperature
    return -jnp.sum(targets * jax.nn.log_softmax(scores, axis=-1), axis=-1)


def koleo_loss(
    features: Float[Array, "batch width"],
    *,
    group: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Minus the log of the distance to the nearest neighbor, which spreads features.

    Takes one crop of each image: two crops of an image should stay close. Gradients
    reach both ends of each distance.

    Departs from DINOv2, whose neighbors are those of one device, so that its loss
    depends on how many devices share the batch. Here they come from a group of rows of
    the global batch, wherever it is split, and the update is the same on any mesh.

    - `features`: of the student before its prototype head, of any length above 1e-8.
    - `group`: how many consecutive rows of the global batch make a group, a divisor of
        their number; `None`: all. Among more images neighbors are nearer.
    - `axis_name`: mesh axis that the batch is split over, or `None` off-mesh.

    The loss of each image, between -log 2 and 18, without a unit.

    Sablayrolles et al. 2019, https://arxiv.org/abs/1806.03198, equation 2; epsilons of
    DINOv2.
    """
    require_finite(features=features)
    points = unit_norm(features, eps=1e-8)
    candidates = gathered(points, axis_name)
    require(
        candidates.shape[0] >= 2,
        "KoLeo needs 2 images or more, because it looks for neighbors; got "
        f"{candidates.shape[0]}: raise the batch size, or set `koleo_weight` to 0.",
    )
    similarity = lax.stop_gradient(pairwise_cosine(points, candidates))
    own = global_rows(points.shape[0], axis_name)[:, None]
    other = jnp.arange(candidates.shape[0])
    is_candidate = own != other
    if group is not None:
        require(
            group >= 2 and len(other) % group == 0,
            f"`group` ({group}) must be 2 or more and divide the batch of "
            f"{len(other)}: change it.",
        )
        is_candidate &= own // group == other // group
    nearest = jnp.argmax(jnp.where(is_candidate, similarity, -jnp.inf), axis=1)
    # The inner epsilon keeps the root's gradient finite for coinciding points.
    difference = points - candidates[nearest] + 1e-8
    return -jnp.log(jnp.sqrt(jnp.sum(difference**2, axis=-1)) + 1e-8)
