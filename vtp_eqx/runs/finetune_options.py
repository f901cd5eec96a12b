"""Command-line options of `finetune_decoder.py`."""

import dataclasses

from vtp_eqx.config import FinetuneConfig, require, require_fields
from vtp_eqx.runs.run_options import RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """Options of a decoder's fine-tuning: tokenizer, data, config, folder."""

    config: FinetuneConfig
    tokenizer: str = ""
    """A run, a folder or file of ours or as published, or a name on the hub."""
    data: tuple[str, ...] = ()
    """Folders, tars or prepared sets (PATH:SPLIT)."""
    out: str = "runs/finetune"
    validation: str = ""
    """What the run is evaluated on; by default a few images of the data."""
    validation_split: str = ""
    perceptual: tuple[str, ...] = ()
    """The published weights of VGG16 and of LPIPS, where that is learned from."""
    vision: str = ""
    """What a discriminator of features sees with: a tokenizer, whose encoder is taken,
    or a published file of DINOv2, by its own name."""
    vision_side: int | None = None
    """What images are resized to for it; by default 224 (RAE) for DINOv2, and for a
    tokenizer its own size."""
    num_eval: int = 256
    evaluate_every: int = 1000
    keep_best: int = 0
    """Checkpoints kept beside the last: those of the best PSNR."""
    workers: int = 8

    def __post_init__(self):
        super().__post_init__()
        require_fields(self, "1 or more", "num_eval")

    def check(self) -> None:
        """Raises `ValueError` where options are missing or do not fit one another."""
        require(
            bool(self.tokenizer and self.data),
            f"`tokenizer` ({self.tokenizer!r}) and `data` ({self.data}) must name what "
            "is fine-tuned and on which images: give both.",
        )
        require(
            bool(self.validation) or not self.validation_split,
            "`validation_split` needs `validation`: give it, or leave the split out.",
        )
        is_used = self.config.reconstruction.uses_perceptual
        require(
            len(self.perceptual) == (2 if is_used else 0),
            "`perceptual` must be two files, of VGG16 and of LPIPS, where "
            "`config.reconstruction.perceptual_weight` is above 0; got "
            f"{self.perceptual} for {self.config.reconstruction.perceptual_weight}: "
            "name both, or set the weight to 0.",
        )
        kind = self.config.adversarial.discriminator.kind
        require(
            bool(self.vision) == (kind == "features"),
            "`vision` must name what a discriminator of the kind 'features' sees with, "
            f"and is for no other; got {self.vision!r} for {kind!r}: give it, or "
            "change `config.adversarial.discriminator.kind`.",
        )
        require(
            bool(self.vision) or self.vision_side is None,
            f"`vision_side` ({self.vision_side}) needs `vision`: give it, or leave the "
            "side out.",
        )


# What may not change in a run that is continued, beside its config.
FIXED = ("split", "vision_side")
