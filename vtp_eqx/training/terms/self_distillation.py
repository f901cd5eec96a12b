"""Self-distillation: the student predicts the teacher's outputs for other views.

Logits over 65536 prototypes are the largest arrays of a pre-training: of every masked
patch, they do not fit. What is kept of a feature is its bottleneck, 256 wide, and
logits are made of it where they are needed, a block of rows at a time.
"""

from typing import ClassVar

import equinox as eqx
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Shaped

from vtp_eqx.config import require
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
from vtp_eqx.training.parameter_counts import encoder_flops
from vtp_eqx.training.pretrain_views import masked_patch_counts, Needs, PretrainViews
from vtp_eqx.training.terms.encoder_passes import DISTILLATION_KEY
from vtp_eqx.training.terms.term import Microbatch, PretrainTerm, TermFlops, TermLoss
from vtp_eqx.views.masking import masked_rows, shard_capacity


class TeacherTargets(eqx.Module):
    """The teacher's outputs on the global crops.

    `cls_tokens` and `masked` are bottlenecks of its prototype head, of the class tokens
    of each image's two crops and of hidden patches; `offsets` balance their logits.
    """

    cls_tokens: Float[Array, "*microbatches some 2 bottleneck"]
    masked: Float[Array, "*microbatches capacity bottleneck"]
    cls_offsets: Float[Array, "*microbatches prototypes"]
    masked_offsets: Float[Array, "*microbatches prototypes"]


class StudentOutputs(eqx.Module):
    """For each image: its losses without KoLeo, and the features KoLeo reads."""

    dino: Float[Array, " images"]
    masked: Float[Array, " images"]  # iBOT
    teacher_entropy: Float[Array, " images"]
    cls_tokens: Float[Array, "images 2 width"]  # of its two global crops


class SelfDistillation(PretrainTerm):
    """DINO + iBOT + KoLeo of each image."""

    name: ClassVar[str] = "distillation"
    batch: ClassVar[str] = "distillation_batch"
    needs: ClassVar[Needs] = Needs.CROPS
    has_teacher: ClassVar[bool] = True

    def check(self) -> None:
        require(
            bool(masked_patch_counts(self.config).any()),
            "Self-distillation needs hidden patches; got none in any crop: raise "
            "`mask_rate` or `mask_ratio` of `views`, or `distillation_batch`.",
        )

    def teacher_targets(
        self, teacher: Teacher, views: PretrainViews, step: Int[Array, ""]
    ) -> TeacherTargets:
        """Targets are balanced over all microbatches and devices."""

        def teach(views: PretrainViews):
            assert views.masks is not None
            crops, rows, weight = self._global_crops(teacher, views)
            features = teacher.head_features(teacher.encoder.batch(crops))
            narrow = teacher.prototypes.bottleneck
            masked = narrow(_flat(features.patches)[rows])
            cls = _by_image(narrow(features.cls), len(views.masks))
            return cls, masked, weight > 0

        cls, masked, kept = lax.stop_gradient(lax.map(teach, views))
        score = teacher.prototypes.score()
        balance = lambda rows, kept: sinkhorn_offsets(
            score, rows, kept, temperature=self._temperature(step),
            iterations=self.config.distillation.sinkhorn_iterations, axis_name=DATA,
        )  # fmt: skip
        all_cls = cls.reshape(-1, cls.shape[-1])
        # The same offsets for all microbatches, but each gets its own.
        each = lambda offsets: jnp.broadcast_to(offsets, (len(cls), *offsets.shape))
        return TeacherTargets(
            cls_tokens=cls,
            masked=masked,
            cls_offsets=each(balance(all_cls, jnp.ones(len(all_cls), bool))),
            masked_offsets=each(balance(_flat(masked), kept.reshape(-1))),
        )

    def forward(self, rows: Microbatch) -> StudentOutputs:
        student, teacher = rows.student, rows.teacher
        views, targets = rows.views, rows.targets
        tokenizer, config = student.tokenizer, self.config
        crops, hidden, weight = self._global_crops(tokenizer, views)
        key = jr.fold_in(rows.key, DISTILLATION_KEY)
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
        temperature = self._temperature(rows.step)
        student_temperature = config.distillation.student_temperature

        def of_image(whole, local, cls):
            wanted = balanced_targets(
                teacher_logits(cls), targets.cls_offsets, temperature=temperature
            )
            loss = dino_loss(
                student_logits(whole)[:, None], student_logits(local)[:, None],
                wanted[:, None], temperature=student_temperature,
            )  # fmt: skip
            entropy = -jnp.sum(wanted * jnp.log(wanted + 1e-9), axis=-1)
            return loss[0], entropy.mean()

        def of_patch(student_row, teacher_row):
            wanted = balanced_targets(
                teacher_logits(teacher_row), targets.masked_offsets,
                temperature=temperature,
            )  # fmt: skip
            return cross_entropy(
                student_logits(student_row), wanted, temperature=student_temperature
            )

        num_prototypes = len(student.prototypes.scale)
        by_image = lambda features: _by_image(narrow(features.cls), num_images)
        whole_rows = by_image(whole)
        local_rows = whole_rows[:, :0]
        if config.views.num_local > 0:
            crops = _crop_major(tokenizer.normalize(views.local_crops))
            local_rows = by_image(features(crops, local_key))
        dino, entropy = chunked_vmap(
            of_image, whole_rows, local_rows, targets.cls_tokens,
            columns=num_prototypes * (4 + local_rows.shape[1]),
        )  # fmt: skip
        errors = chunked_vmap(
            of_patch, narrow(_flat(whole.patches)[hidden]), targets.masked,
            columns=2 * num_prototypes,
        )  # fmt: skip
        masked = masked_mean(
            errors, weight=weight, image=hidden // views.masks.shape[-1],
            num_images=2 * num_images,
        )  # fmt: skip
        return StudentOutputs(
            dino=dino,
            masked=masked.reshape(2, num_images).mean(axis=0),
            teacher_entropy=entropy,
            cls_tokens=_by_image(whole.cls, num_images).astype(jnp.float32),
        )

    def loss(self, student: Pretrainer, outputs: StudentOutputs) -> TermLoss:
        recipe, cls_tokens = self.config.distillation, outputs.cls_tokens
        first, second = cls_tokens[:, 0], cls_tokens[:, 1]
        koleo = sum(
            koleo_loss(crop, group=recipe.koleo_group, axis_name=DATA)
            for crop in (first, second)
        )
        masked = recipe.masked_weight * outputs.masked
        spread = recipe.koleo_weight * koleo
        monitors = {
            "dino": outputs.dino,
            "masked": outputs.masked,
            "teacher_entropy": outputs.teacher_entropy,
            "koleo": koleo,
        }
        return TermLoss(outputs.dino + masked + spread, monitors)

    def flops(self) -> TermFlops:
        tokenizer, views = self.config.tokenizer, self.config.views
        # Student and teacher both see the two global crops.
        seen = 2 * encoder_flops(tokenizer, views.global_size)
        local = views.num_local * encoder_flops(tokenizer, views.local_size)
        return TermFlops(student=seen + local, teacher=seen)

    def _temperature(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The teacher's: up along a line, then constant."""
        start, end = self.config.distillation.teacher_temperature
        warmup = self.config.distillation.teacher_warmup * self.config.num_steps
        return ramp(start, end, step / warmup if warmup > 0 else 1.0)

    def _global_crops(
        self, model: Tokenizer | Teacher, views: PretrainViews
    ) -> tuple[Array, Array, Array]:
        """Normalized crops, and where their hidden patches are and what each weighs."""
        assert views.global_crops is not None
        assert views.masks is not None
        # As many as the microbatch with the most of them hides.
        num_microbatches = self.batch_size // len(views.masks)
        capacity = shard_capacity(masked_patch_counts(self.config), num_microbatches)
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
