"""How good a generator is while it is being trained: gFID of a few thousand samples."""

import jax
from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import SampleConfig, SamplerConfig
from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.evaluation.networks import FeatureNetwork, network_outputs
from vtp_eqx.evaluation.reference import Reference
from vtp_eqx.evaluation.samples import check_comparable, generation_numbers
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.sample import choose_labels, draw_images


DEFAULT = SamplerConfig()


def measure_generation(
    generator: Generator,
    tokenizer: Tokenizer,
    reference: Reference,
    num_samples: int = 5000,
    *,
    network: FeatureNetwork,
    sampler: SamplerConfig = DEFAULT,
    group_size: int = 8,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """Numbers as `evaluate_samples` gives them, of samples that are kept nowhere.

    For curves of one run: the same noise and classes (each as often) every time, and
    so few samples that a distance is larger than of 50,000. Compare equal counts. An
    error where generator, tokenizer, reference and network do not belong together.
    """
    size = generator.dit.config.latent_size * tokenizer.config.patch_size
    check_comparable(network, reference, size)
    generator.check_latents_hash(latents_hash(tokenizer))
    config = SampleConfig(
        num_samples=num_samples, sampler=sampler, group_size=group_size
    )
    labels = choose_labels(config, generator.dit.config.num_classes)
    parts = []
    for _, images in draw_images(config, generator, tokenizer, labels, mesh=mesh):
        # Without this, accelerators multiply float32 with a few bits of it.
        with jax.default_matmul_precision("highest"):
            parts.append(in_batches(network_outputs, network, images, batch_size=64))
    columns = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return generation_numbers(
        network, reference, columns, lambda name: Moments.of(columns[name]),
        columns.__getitem__,
    )  # fmt: skip
