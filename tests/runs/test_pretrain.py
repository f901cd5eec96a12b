import dataclasses

import pytest

from vtp_eqx.runs.pretrain import check_data, pretrain


def test_good_data_passes(tiny, data):
    check_data(tiny, data)


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
