import dataclasses

import numpy as np
import pytest

from vtp_eqx.config import PretrainConfig, PrototypeConfig, published, VIT_FEMTO
from vtp_eqx.runs.pretrain_options import PretrainOptions
from vtp_eqx.runs.pretrain_setup import open_data


@pytest.fixture
def options(tmp_path) -> PretrainOptions:
    """Five images, and no validation."""
    np.savez(tmp_path / "five.npz", arr_0=np.zeros((5, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "three.npz", arr_0=np.zeros((3, 8, 8, 3), np.uint8))
    config = PretrainConfig(
        tokenizer=published(VIT_FEMTO), prototypes=PrototypeConfig()
    )
    return PretrainOptions(config=config, data=(str(tmp_path / "five.npz"),))


def test_without_validation_a_run_is_evaluated_on_its_data(options):
    data = open_data(options)
    assert data.validation is data.train
    assert (len(data.train), data.group) == (5, 1)
    assert (data.class_names, data.templates) == ([], [])


def test_what_options_name_is_opened(options, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "prompts.txt").write_text("a {}\n")
    named = dataclasses.replace(
        options, validation=str(tmp_path / "three.npz"), group=2,
        classes=str(tmp_path / "names.txt"), templates=str(tmp_path / "prompts.txt"),
    )  # fmt: skip
    data = open_data(named)
    assert (len(data.train), len(data.validation), data.group) == (5, 3, 2)
    assert (data.class_names, data.templates) == (["cat", "dog"], ["a {}"])
