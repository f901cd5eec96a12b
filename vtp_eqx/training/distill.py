"""Self-distillation as pre-training does it: teacher, student, and their terms."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from vtp_eqx.config import PretrainConfig
from vtp_eqx.data.masking import masked_rows
from vtp_eqx.losses.distillation import dino_loss, ibot_loss, koleo_loss
from vtp_eqx.losses.sinkhorn import sinkhorn
from vtp_eqx.mesh import DATA
from vtp_eqx.models.tokenizer import Pretrainer, Teacher
from vtp_eqx.training.optimizer import ramp
from vtp_eqx.training.pretrain_views import PretrainViews


def distillation(
    student: Pretrainer,
    teacher: Teacher,
    views: PretrainViews,
    progress: Float[Array, ""],
    config: PretrainConfig,
    capacity: int,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, " some"], dict[str, Array]]:
    """DINO + iBOT + KoLeo of each image (RECIPE 5.3 to 5.5), and their monitors."""
    assert views.global_crops is not None
    assert views.local_crops is not None
    assert views.hidden is not None
    assert student.prototypes is not None
    recipe, tokenizer = config.distillation, student.tokenizer
    global_key, local_key = jr.split(key)
    num_images = len(views.global_crops)
    crops = _crop_major(tokenizer.normalize(views.global_crops))
    hidden = _crop_major(views.hidden)
    rows, weight = masked_rows(hidden, capacity)
    image_of_row = rows // hidden.shape[1]

    start, end = recipe.teacher_temperature
    temperature = ramp(start, end, progress / recipe.teacher_warmup)
    taught = teacher.head_features(teacher.encoder.batch(crops))
    balance = lambda logits, weight=None: sinkhorn(
        logits, temperature=temperature, iterations=recipe.sinkhorn_iterations,
        weight=weight, axis_name=DATA,
    )  # fmt: skip
    targets = balance(teacher.prototypes(taught.cls))
    patch_targets = balance(
        teacher.prototypes(_flat(taught.patches)[rows]),
        (weight > 0).astype(jnp.float32),
    )

    def learn(crops, key, hidden=None):
        features = tokenizer.encoder.batch(
            crops, hidden=hidden, drop_rate=config.distillation_drop, key=key
        )
        return tokenizer.head_features(features)

    learned = learn(crops, global_key, hidden)
    narrow = learn(_crop_major(tokenizer.normalize(views.local_crops)), local_key)
    by_crop = lambda rows: rows.reshape(-1, num_images, rows.shape[-1])
    dino = dino_loss(
        by_crop(student.prototypes(learned.cls)),
        by_crop(student.prototypes(narrow.cls)),
        by_crop(targets),
        temperature=recipe.student_temperature,
    )
    masked = ibot_loss(
        student.prototypes(_flat(learned.patches)[rows]), patch_targets,
        weight=weight, image=image_of_row, num_images=2 * num_images,
        temperature=recipe.student_temperature, axis_name=DATA,
    ).reshape(2, num_images).mean(axis=0)  # fmt: skip
    first, second = jnp.split(learned.cls, 2)
    koleo = koleo_loss(first, axis_name=DATA) + koleo_loss(second, axis_name=DATA)
    total = dino + recipe.masked_weight * masked + recipe.koleo_weight * koleo
    entropy = -jnp.sum(targets * jnp.log(targets + 1e-9), axis=-1)
    return total, {
        "dino": dino, "masked": masked, "koleo": koleo, "teacher_entropy": entropy
    }  # fmt: skip


def _crop_major(
    crops: Shaped[Array, "images crops *shape"],
) -> Shaped[Array, "rows *shape"]:
    """[crop 0 of all images, crop 1 of all images, ...]."""
    return jnp.swapaxes(crops, 0, 1).reshape(-1, *crops.shape[2:])


def _flat(patches: Float[Array, "images patches width"]) -> Float[Array, "rows width"]:
    return patches.reshape(-1, patches.shape[-1])
