"""Command-line options of `train_generator.py`."""

import dataclasses

from vtp_eqx.config import GenerateConfig, Precision, require, require_fields
from vtp_eqx.evaluation.networks import NetworkName
from vtp_eqx.runs.run_options import RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorOptions(RunOptions):
    """Options of a generator's training: latents, config, folder."""

    config: GenerateConfig
    """Latent shape and classes are those of the latents, which need captions where
    `dit.condition` is text."""
    latents: str = ""
    """A folder of latents: of extract_latents.py, or of LightningDiT's extractor."""
    tokenizer: str = ""
    """What made the latents; by default the one beside them."""
    data: tuple[str, ...] = ()
    """In place of latents: images, encoded in every step by `tokenizer`."""
    encoder_precision: Precision = "float32"
    """What images are encoded in, without latents on disk (LightningDiT: float32)."""
    unconditional: bool = False
    """Every image is of one class."""
    out: str = "runs/generator"
    reference: str = ""
    """Statistics of real images, of evaluate.py's `reference`: with them, samples of
    the moving average are measured as it learns."""
    network: NetworkName = "scene-network"
    """What made the reference."""
    weights: str = ""
    """The published file of that network; the scene network has its own."""
    eval_samples: int = 5000
    """How many samples are measured; fewer than 50,000 have a larger gFID."""
    evaluate_every: int = 10_000
    keep_best: int = 0
    """Checkpoints kept beside the last: of the lowest gFID, or loss without it."""
    workers: int = 4
    """Threads that read latents, or read and decode images."""

    def __post_init__(self):
        super().__post_init__()
        require_fields(self, "1 or more", "eval_samples")
        require(
            not (self.latents and self.data),
            f"`latents` ({self.latents!r}) and `data` ({self.data}) cannot both be "
            "what is learned from: give one of them.",
        )
        require(
            not self.data or bool(self.tokenizer),
            f"`data` ({self.data}) needs `tokenizer`, which encodes the images: give "
            "both, or `latents`.",
        )
        require(
            bool(self.data) or (not self.split and self.encoder_precision == "float32"),
            "`split` and `encoder_precision` are of images that are encoded in every "
            "step, but there is no `data`: give it, or leave them out.",
        )
        is_text = self.config.dit.condition == "text"
        require(
            not (is_text and self.unconditional),
            "`unconditional` (True) leaves nothing to ask for, but `condition` is "
            "'text': leave either out.",
        )
        require(
            not (is_text and self.reference),
            f"`reference` ({self.reference}) measures samples of classes as they are "
            "learned, but `condition` is 'text': leave it out, and measure a folder of "
            "sample.py.",
        )
        require(
            bool(self.reference) or not self.weights,
            f"`weights` ({self.weights}) are of the network that made `reference`, "
            "which is not given: give it, or leave both out.",
        )


# What may not change in a run that is continued, beside its config.
FIXED = ("unconditional", "encoder_precision", "split")
