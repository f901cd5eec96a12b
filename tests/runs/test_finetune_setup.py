import dataclasses

import pytest

from vtp_eqx.config import AdversarialConfig, DiscriminatorConfig, presets
from vtp_eqx.runs.finetune_setup import FinetuneOptions


GIVEN = dict(tokenizer="t", data=("x",))


@pytest.mark.parametrize(
    ("config", "given", "sentence"),
    [
        ("LAPTOP", dict(tokenizer="t"), r"`data` \(\(\)\) must name"),
        ("LAPTOP", dict(**GIVEN, validation_split="test"), "needs `validation`"),
        ("LAPTOP", dict(**GIVEN, perceptual=("a", "b")), "set the weight to 0"),
        ("VA_VAE", GIVEN, r"`perceptual` must be two files"),
        ("LAPTOP", dict(**GIVEN, vision="v"), "and is for no other; got 'v'"),
        ("RAE", dict(**GIVEN, perceptual=("a", "b")), "`vision` must name"),
        ("LAPTOP", dict(**GIVEN, vision_side=32), "needs `vision`"),
    ],
)
def test_options_that_do_not_fit_one_another_are_a_sentence(config, given, sentence):
    options = FinetuneOptions(config=getattr(presets, f"FINETUNE_{config}"), **given)
    with pytest.raises(ValueError, match=sentence):
        options.check()


def test_values_that_do_not_fit_one_another_are_a_sentence():
    laptop = presets.FINETUNE_LAPTOP
    with pytest.raises(ValueError, match=r"`accumulate` \(2\) must be 1 .* 'group'"):
        dataclasses.replace(laptop, accumulate=2)
    with pytest.raises(ValueError, match=r"`discriminator_start` \(200\) must lie"):
        dataclasses.replace(laptop, num_steps=200)
    with pytest.raises(ValueError, match=r"not after `decoder_start` \(3\)"):
        AdversarialConfig(discriminator_start=4, decoder_start=3)
    with pytest.raises(ValueError, match=r"`kernel` \(4\) must be odd"):
        DiscriminatorConfig(kernel=4)
