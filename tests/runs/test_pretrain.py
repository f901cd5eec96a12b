import dataclasses

import jax
import numpy as np
import pytest

from vtp_eqx.config import ControlsConfig
from vtp_eqx.data.caption_shuffle import caption_rows
from vtp_eqx.runs import pretrain as job
from vtp_eqx.runs.pretrain import check_data, pretrain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda data: {"image": data["image"] / 255}, "uint8 of shape .* got float64"),
        (lambda data: {"image": data["image"][..., :1]}, r"uint8 \[32, 16, 16, 1\]"),
        (lambda data: {"image": data["image"][:, :8]}, "got 8 x 16 for 16"),
        (lambda data: {"caption": data["caption"][:, :5]}, r"\[32, 6\]; got \[32, 5\]"),
        (lambda data: {"caption": data["caption"][:9]}, r"\[32, 6\]; got \[9, 6\]"),
        (lambda data: {"caption": None}, r"\[32, 6\]; got None"),
        (lambda data: {"caption": data["caption"] + 1}, "vocabulary of 20; got 20"),
        (lambda data: {"caption": data["caption"] - 20}, r"vocabulary of 20; got -\d"),
        (lambda data: {name: data[name][:0] for name in data}, "one or more; got"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_use_is_refused(changes, message, tiny, data):
    with pytest.raises(ValueError, match=message):
        check_data(tiny, {**data, **changes(data)})


def test_captions_are_only_asked_for_by_contrast(tiny, data):
    check_data(dataclasses.replace(tiny, contrast_weight=0), {"image": data["image"]})


def test_another_config_than_a_run_was_begun_with_is_refused(tiny, data, tmp_path):
    config = dataclasses.replace(tiny, num_steps=0)
    pretrain(config, data, folder=tmp_path)
    other = dataclasses.replace(config, seed=5)
    with pytest.raises(ValueError, match=r"^`config.seed` \(5, was 0\) may not differ"):
        pretrain(other, data, folder=tmp_path)


def test_a_tokenizer_of_a_split_state_is_whole_on_one_device(tiny, data, tmp_path):
    config = dataclasses.replace(tiny, num_steps=0, sharding="fsdp")
    tokenizer = pretrain(config, data, folder=tmp_path)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(tokenizer)} == {1}


def test_shuffled_captions_are_those_of_other_images(tiny, data, tmp_path, monkeypatch):
    batches = []

    def run_training(state, step, read, **options):
        batches.append(next(read(3)))  # as a run that is continued
        raise InterruptedError

    monkeypatch.setattr(job, "init_pretraining", lambda *_: (None, None))
    monkeypatch.setattr(job, "run_training", run_training)
    for seed in (None, 4):
        config = dataclasses.replace(
            tiny, controls=ControlsConfig(caption_shuffle=seed)
        )
        with pytest.raises(InterruptedError):
            pretrain(config, data, folder=tmp_path)
    plain, shuffled = batches
    np.testing.assert_array_equal(shuffled.image, plain.image)
    row_of = {image.tobytes(): row for row, image in enumerate(data["image"])}
    rows = [row_of[image.tobytes()] for image in plain.image]
    np.testing.assert_array_equal(plain.caption, data["caption"][rows])
    others = caption_rows(len(data["image"]), 4)[rows]
    np.testing.assert_array_equal(shuffled.caption, data["caption"][others])
