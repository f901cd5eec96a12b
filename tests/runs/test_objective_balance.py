import dataclasses
import itertools

import pytest

from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.runs.objective_balance import objective_balance
from vtp_eqx.runs.run_dir import CHECKPOINTS, write_config
from vtp_eqx.training.pretrain import initial_state


TERMS = ("contrast", "distillation", "reconstruction")


def test_a_run_tells_its_weights_and_a_cosine_for_each_pair(tiny, data, tmp_path):
    config = dataclasses.replace(tiny, weighting="learned", contrast_weight=0.25)
    write_config(tmp_path, config)
    with Checkpoints(tmp_path / CHECKPOINTS) as checkpoints:
        checkpoints.save(initial_state(config, None))
    numbers = objective_balance(tmp_path, data, num_batches=2, mesh=data_mesh(1))
    pairs = [f"gradient cosine {a}, {b}" for a, b in itertools.combinations(TERMS, 2)]
    assert numbers.keys() == {
        *(f"weight {name}" for name in TERMS), *pairs,
        *(f"{pair}, deviation" for pair in pairs),
    }  # fmt: skip
    assert numbers["weight contrast"] == pytest.approx(0.25)
    for pair in pairs:
        assert 0 < abs(numbers[pair]) < 1
        assert 0 < numbers[f"{pair}, deviation"] < 1


def test_what_has_no_gradients_to_compare_is_refused(tiny, data, tmp_path):
    with pytest.raises(ValueError, match=r"^`num_batches` \(0\) must be 1 or more"):
        objective_balance(tmp_path, data, num_batches=0)
    with pytest.raises(FileNotFoundError, match=r"^`folder` .* has a config"):
        objective_balance(tmp_path, data, num_batches=1)
    write_config(tmp_path, tiny)
    with pytest.raises(FileNotFoundError, match="must have a checkpoint"):
        objective_balance(tmp_path, data, num_batches=1)
