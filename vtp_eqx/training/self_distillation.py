"""Self-distillation in pre-training: the teacher's targets and the student's outputs.

Logits over 65536 prototypes are the largest arrays of a pre-training: of every masked
patch, they do not fit. What is kept of a feature is its bottleneck, 256 wide, and
logits are made of it where they are needed, a block of rows at a time.
"""

import equinox as eqx
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from vtp_eqx.config import PretrainConfig
from vtp_eqx.losses.chunked_vmap import chunked_vmap
from vtp_eqx.losses.distillation import (
    cross_entropy,
    dino_loss,
    koleo_loss,
    masked_mean,
)
from vtp_eqx.losses.sinkhorn import balanced_targets, sinkhorn_offsets
from vtp_eqx.mesh import DATA
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer
from vtp_eqx.training.optimizer import ramp
from vtp_eqx.training.pretrain_views import PretrainViews, TeacherTargets
from vtp_eqx.views.masking import masked_rows


def add_teacher_targets(
    teacher: Teacher,
    views: PretrainViews,
    step: Int[Array, ""],
    config: PretrainConfig,
    capacity: int,
) -> PretrainViews:
    """`views`, in microbatches, with the targets of each (RECIPE 5.3).

    Targets are balanced over all microbatches and devices. `capacity` is how many
    patches a microbatch hides at most.
    """

    def teach(views: PretrainViews):
        assert views.masks is not None
        crops, rows, weight = _global_crops(teacher, views, capacity)
        features = teacher.head_features(teacher.encoder.batch(crops))
        narrow = teacher.prototypes.bottleneck
        masked = narrow(_flat(features.patches)[rows])
        cls = _by_image(narrow(features.cls), len(views.masks))
        return cls, masked, weight > 0

    cls, masked, kept = lax.stop_gradient(lax.map(teach, views))
    score = teacher.prototypes.score()
    balance = lambda rows, kept: sinkhorn_offsets(
        score, rows, kept,
        temperature=_temperature(step, config),
        iterations=config.distillation.sinkhorn_iterations, axis_name=DATA,
    )  # fmt: skip
    all_cls = cls.reshape(-1, cls.shape[-1])
    # The same offsets for all microbatches, but each gets its own.
    each = lambda offsets: jnp.broadcast_to(offsets, (len(cls), *offsets.shape))
    teacher_targets = TeacherTargets(
        cls_tokens=cls,
        masked=masked,
        cls_offsets=each(balance(all_cls, jnp.ones(len(all_cls), bool))),
        masked_offsets=each(balance(_flat(masked), kept.reshape(-1))),
    )
    return eqx.tree_at(
        lambda views: views.teacher_targets,
        views,
        teacher_targets,
        is_leaf=lambda leaf: leaf is None,
    )


def student_outputs(
    student: Pretrainer,
    teacher: Teacher,
    views: PretrainViews,
    step: Int[Array, ""],
    config: PretrainConfig,
    capacity: int,
    *,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """DINO and iBOT of each image and the teacher's entropy (RECIPE 5.3 and 5.4).

    Also `all_cls`, of each image's two global crops, for KoLeo.
    """
    assert views.local_crops is not None
    assert student.prototypes is not None
    assert views.teacher_targets is not None
    assert views.masks is not None
    teacher_targets, tokenizer = views.teacher_targets, student.tokenizer
    crops, rows, weight = _global_crops(tokenizer, views, capacity)
    global_key, local_key = jr.split(key)

    def features(crops, key, mask=None):
        found = tokenizer.encoder.batch(
            crops, mask=mask, drop_rate=config.distillation_drop, key=key
        )
        return tokenizer.head_features(found)

    whole = features(crops, global_key, _crop_major(views.masks))
    student_logits = student.prototypes.score()
    teacher_logits = teacher.prototypes.score()
    narrow = student.prototypes.bottleneck
    num_images = len(views.local_crops)
    temperature = _temperature(step, config)
    student_temperature = config.distillation.student_temperature

    def of_image(whole, local, cls):
        targets = balanced_targets(
            teacher_logits(cls), teacher_targets.cls_offsets, temperature=temperature
        )
        loss = dino_loss(
            student_logits(whole)[:, None], student_logits(local)[:, None],
            targets[:, None], temperature=student_temperature,
        )  # fmt: skip
        entropy = -jnp.sum(targets * jnp.log(targets + 1e-9), axis=-1)
        return loss[0], entropy.mean()

    def of_patch(student_row, teacher_row):
        targets = balanced_targets(
            teacher_logits(teacher_row),
            teacher_targets.masked_offsets,
            temperature=temperature,
        )
        return cross_entropy(
            student_logits(student_row), targets, temperature=student_temperature
        )

    num_prototypes = len(student.prototypes.scale)
    by_image = lambda features: _by_image(narrow(features.cls), num_images)
    whole_rows = by_image(whole)
    local_rows = whole_rows[:, :0]
    if config.views.num_local > 0:
        crops = _crop_major(tokenizer.normalize(views.local_crops))
        local_rows = by_image(features(crops, local_key))
    dino, entropy = chunked_vmap(
        of_image, whole_rows, local_rows, teacher_targets.cls_tokens,
        columns=num_prototypes * (4 + local_rows.shape[1]),
    )  # fmt: skip
    errors = chunked_vmap(
        of_patch, narrow(_flat(whole.patches)[rows]), teacher_targets.masked,
        columns=2 * num_prototypes,
    )  # fmt: skip
    masked = masked_mean(
        errors, weight=weight, image=rows // views.masks.shape[-1],
        num_images=2 * num_images,
    )  # fmt: skip
    return {
        "dino": dino,
        "masked": masked.reshape(2, num_images).mean(axis=0),
        "teacher_entropy": entropy,
        "all_cls": _by_image(whole.cls, num_images).astype(jnp.float32),
    }


def self_distillation_loss(
    outputs: dict[str, Array], config: PretrainConfig
) -> tuple[Float[Array, " some"], dict[str, Array]]:
    """DINO + iBOT + KoLeo of each image (RECIPE 5.5), and their monitors."""
    recipe = config.distillation
    first, second = outputs["all_cls"][:, 0], outputs["all_cls"][:, 1]
    koleo = koleo_loss(first, axis_name=DATA) + koleo_loss(second, axis_name=DATA)
    monitors = {name: outputs[name] for name in ("dino", "masked", "teacher_entropy")}
    masked, spread = (
        recipe.masked_weight * outputs["masked"],
        recipe.koleo_weight * koleo,
    )
    return outputs["dino"] + masked + spread, {**monitors, "koleo": koleo}


def _temperature(step: Int[Array, ""], config: PretrainConfig) -> Float[Array, ""]:
    """The teacher's: up along a line, then constant."""
    start, end = config.distillation.teacher_temperature
    warmup = config.distillation.teacher_warmup * config.num_steps
    return ramp(start, end, step / warmup if warmup > 0 else 1.0)


def _global_crops(
    model: Tokenizer | Teacher, views: PretrainViews, capacity: int
) -> tuple[Array, Array, Array]:
    """Normalized crops, and where their hidden patches are and what each weighs."""
    assert views.global_crops is not None
    assert views.masks is not None
    crops = _crop_major(model.normalize(views.global_crops))
    return crops, *masked_rows(_crop_major(views.masks), capacity)


def _crop_major(
    crops: Shaped[Array, "images crops *shape"],
) -> Shaped[Array, "rows *shape"]:
    """[crop 0 of all images, crop 1 of all images, ...]."""
    return jnp.swapaxes(crops, 0, 1).reshape(-1, *crops.shape[2:])


def _by_image(
    rows: Float[Array, "rows width"], num_images: int
) -> Float[Array, "{num_images} crops width"]:
    """Undoes `_crop_major`."""
    return jnp.swapaxes(rows.reshape(-1, num_images, rows.shape[-1]), 0, 1)


def _flat(patches: Float[Array, "some patches width"]) -> Float[Array, "rows width"]:
    return patches.reshape(-1, patches.shape[-1])
