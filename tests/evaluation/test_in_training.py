import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import TextConfig, TokenizerConfig, VIT_FEMTO
from vtp_eqx.evaluation.batches import reconstruct_images
from vtp_eqx.evaluation.in_training import evaluate_tokenizer, LabeledImages
from vtp_eqx.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    text = TextConfig(context=6, vocabulary=20, width=16, depth=1, num_heads=1)
    config = TokenizerConfig(
        encoder=VIT_FEMTO, decoder=VIT_FEMTO, text=text, image_size=16, patch_size=4
    )
    return eqx.filter_jit(Tokenizer)(config, key=jr.key(0))


def bright_and_dark(count, seed):
    """Two classes that any features tell apart."""
    draw, label = np.random.default_rng(seed), np.arange(count) % 2
    noise = draw.integers(0, 60, (count, 16, 16, 3))
    return LabeledImages(
        (noise + 180 * label[:, None, None, None]).astype(np.uint8), label
    )


def test_what_can_be_taken_is_taken(tokenizer):
    train, test = bright_and_dark(70, 0), bright_and_dark(66, 1)
    prompts = np.random.default_rng(2).integers(1, 18, (2, 1, 6)).astype(np.int32)
    prompts[..., -1] = 19
    numbers = evaluate_tokenizer(tokenizer, train, test, prompts)
    assert numbers.keys() == {"psnr", "probe", "zero_shot"}
    assert numbers["probe"] == 1  # brightness is the first thing that features tell
    rebuilt = reconstruct_images(tokenizer, test.image).astype(np.float64) / 255
    error = np.mean((rebuilt - test.image / 255) ** 2, axis=(1, 2, 3))
    assert numbers["psnr"] == pytest.approx(np.mean(-10 * np.log10(error)), rel=1e-6)
    unknown = LabeledImages(test.image, np.full(66, -1))
    assert evaluate_tokenizer(tokenizer, train, unknown, prompts).keys() == {"psnr"}
    assert evaluate_tokenizer(tokenizer, None, test).keys() == {"psnr"}
