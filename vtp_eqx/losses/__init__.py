"""Losses: functions from arrays to one value per example.

They know no model, no config, no weight and no average. Terms that look at the whole
batch take the `axis_name` it is split over and then look at the global batch. To train
on several devices, average the values, `pmean` them *inside* the differentiated
function and take no collective on gradients.
"""

from vtp_eqx.losses.adversarial import (
    generator_loss as generator_loss,
    hinge_discriminator_loss as hinge_discriminator_loss,
    lecam_loss as lecam_loss,
)
from vtp_eqx.losses.alignment import (
    cosine_loss as cosine_loss,
    similarity_loss as similarity_loss,
)
from vtp_eqx.losses.contrastive import (
    clip_loss as clip_loss,
    siglip_loss as siglip_loss,
)
from vtp_eqx.losses.distillation import (
    center_targets as center_targets,
    dino_loss as dino_loss,
    ibot_loss as ibot_loss,
    koleo_loss as koleo_loss,
    updated_center as updated_center,
)
from vtp_eqx.losses.reconstruction import (
    gradient_l1_loss as gradient_l1_loss,
    l1_loss as l1_loss,
    pooled_l1_loss as pooled_l1_loss,
)
from vtp_eqx.losses.repulsion import repulsion_loss as repulsion_loss
from vtp_eqx.losses.sinkhorn import sinkhorn as sinkhorn
from vtp_eqx.losses.weighting import (
    adaptive_weight as adaptive_weight,
    FixedWeights as FixedWeights,
    LearnedWeights as LearnedWeights,
)
