"""Command-line options of `pretrain.py`."""

import dataclasses

from vtp_eqx.config import PretrainConfig, require, require_fields
from vtp_eqx.runs.run_options import RunOptions
from vtp_eqx.training.pretrain import text_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainOptions(RunOptions):
    """Options of a pre-training: data, config, folder."""

    config: PretrainConfig
    out: str = "runs/pretrain"
    data: tuple[str, ...] = ()
    """Tars, folders or prepared sets (PATH:SPLIT) to learn from; by default scenes."""
    weights: tuple[float, ...] = ()
    """Shares of several sources in the batches; by default, their sizes."""
    validation: str = ""
    """What the run is evaluated on; by default a few images of the data."""
    validation_split: str = ""
    classes: str = ""
    """A file of class names, a line each, for zero-shot classes of the labels."""
    templates: str = ""
    """A file of prompts that sound like captions, a line each with {} for the class;
    by default CLIP's 80, or 'a {}' where the vocabulary is another."""
    perceptual: tuple[str, ...] = ()
    """The published weights of VGG16 and of LPIPS, where that is learned from."""
    vision: str = ""
    """A frozen network that latents are aligned with, where that has a weight: any
    tokenizer, whose encoder is taken, or a published file of DINOv2, by its name."""
    load_size: int | None = None
    """Side of the squares that views are cut from; by default the tokenizer's."""
    num_scenes: int = 12_000
    """How many scenes to learn from, where they are the data."""
    num_eval: int = 960
    latent_images: int = 2_000_000
    """Cap on the training images that latent statistics are measured on; of more, so
    many are taken, evenly spread. The default takes all of ImageNet, and adds less than
    1% to a run on 1e8 pairs."""
    evaluate_every: int = 500
    keep_best: int = 1
    """Checkpoints kept beside the last: those of the best probe, or lowest loss."""
    workers: int = 8
    processes: bool = False
    """Decode in processes, not threads."""
    window: int = 16
    """Shards whose rows are shuffled together."""
    group: int | None = None
    """Consecutive rows that stay together in a batch; by default 1, or 4 scenes."""
    one_shard_batches: bool = False
    """Each batch is of one tar, for examples that must not be negatives of each other
    and lie in different tars; needs a window of 1."""
    max_skip_rate: float = 0.1
    tensorboard: bool = False
    wandb: str = ""
    """A project of Weights & Biases."""

    def __post_init__(self):
        super().__post_init__()
        require_fields(
            self, "1 or more", "num_eval", "latent_images", "load_size", "num_scenes",
            "window", "group",
        )  # fmt: skip
        for name, value in (
            ("validation", self.validation),
            ("split", self.split),
            ("weights", self.weights),
            ("classes", self.classes),
        ):
            require(
                bool(self.data) or not value,
                f"`{name}` needs `data`; without it the built-in scenes are used: give "
                "`data`, or leave it out.",
            )
        require(
            bool(self.validation) or not self.validation_split,
            "`validation_split` needs `validation`: give it, or leave the split out.",
        )
        require(
            not (self.data and self.templates) or bool(self.classes),
            "`templates` needs `classes`, the names they are prompts for: give it, or "
            "leave the templates out.",
        )
        contrast = self.config.contrast_weight
        for name, value in (("classes", self.classes), ("templates", self.templates)):
            require(
                text_config(self.config) is not None or not value,
                f"`{name}` makes prompts for zero-shot classes, which only contrast "
                f"learns; got `config.contrast_weight` {contrast}: raise it, or leave "
                "that out.",
            )
        require(
            len(self.weights) in (0, len(self.data)),
            "`weights` has a share for each source of `data`; got "
            f"{len(self.weights)} for {len(self.data)}: give one for each, or none.",
        )
        is_used = self.config.reconstruction.uses_perceptual
        require(
            len(self.perceptual) in (0, 2) and (is_used or not self.perceptual),
            "`perceptual` are two files, of VGG16 and of LPIPS, where "
            "`config.reconstruction.perceptual_weight` is above 0; got "
            f"{self.perceptual} for {self.config.reconstruction.perceptual_weight}: "
            "name both, or raise the weight.",
        )
        require(
            not self.vision or bool(self.config.vision_widths),
            f"`vision` ({self.vision}) is what latents are aligned with, but "
            "`config.alignment-weight` and `config.flow-distillation.weight` are 0: "
            "leave it out, or raise one.",
        )

    @property
    def image_size(self) -> int:
        """Side of the squares that views are cut from."""
        return self.load_size or self.config.tokenizer.image_size


# What may not change in a run that is continued, beside its config.
FIXED = (
    "data", "num_scenes", "split", "weights", "window", "group", "one_shard_batches",
    "load_size",
)  # fmt: skip
