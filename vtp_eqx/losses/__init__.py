"""Losses: functions from arrays to one value per example.

They know no model, no config, no weight and no average. Terms that look at the whole
batch take the `axis_name` it is split over and then look at the global batch. To train
on several devices, average the values, `pmean` them *inside* the differentiated
function and take no collective on gradients.
"""

from vtp_eqx.losses.alignment import cosine_loss, similarity_loss
from vtp_eqx.losses.contrastive import clip_loss, siglip_loss
from vtp_eqx.losses.distillation import (
    center_targets,
    dino_loss,
    ibot_loss,
    koleo_loss,
    updated_center,
)
from vtp_eqx.losses.reconstruction import gradient_l1_loss, l1_loss, pooled_l1_loss
from vtp_eqx.losses.sinkhorn import sinkhorn
from vtp_eqx.losses.weighting import FixedWeights, LearnedWeights


__all__ = [
    "FixedWeights",
    "LearnedWeights",
    "center_targets",
    "clip_loss",
    "cosine_loss",
    "dino_loss",
    "gradient_l1_loss",
    "ibot_loss",
    "koleo_loss",
    "l1_loss",
    "pooled_l1_loss",
    "siglip_loss",
    "similarity_loss",
    "sinkhorn",
    "updated_center",
]
