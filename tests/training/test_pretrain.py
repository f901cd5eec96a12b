import dataclasses

import numpy as np

from vtp_eqx.losses.weighting import FixedWeights, LearnedWeights
from vtp_eqx.training.pretrain import loss_weights


def test_terms_without_weight_are_left_out(tiny):
    found = loss_weights(dataclasses.replace(tiny, contrast_weight=0))
    assert isinstance(found, FixedWeights)
    assert found.weight.keys() == {"distillation", "reconstruction"}


def test_learned_weights_start_as_configured(tiny):
    found = loss_weights(dataclasses.replace(tiny, weighting="learned"))
    assert isinstance(found, LearnedWeights)
    np.testing.assert_allclose(found.current()["reconstruction"], 0.1, rtol=1e-6)
