"""The options of a generator's training: on which latents, and where it goes."""

import dataclasses

from vtp_eqx.config import GenerateConfig, Precision, require
from vtp_eqx.evaluation.options import NetworkName
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.loop import FaultTolerance
from vtp_eqx.runs.watchdog import StallConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """What is trained, on what, and where it goes."""

    config: GenerateConfig
    """Latent shape and classes are those of the latents."""
    latents: str = ""
    """A folder of latents: of extract_latents.py, or of LightningDiT's extractor."""
    tokenizer: str = ""
    """What made the latents; by default the one beside them."""
    data: tuple[str, ...] = ()
    """In place of latents: images, encoded in every step by `tokenizer`."""
    split: str = ""
    """Of prepared data sets that name none, such as 'train'."""
    encoder_precision: Precision = "float32"
    """What images are encoded in, without latents on disk (LightningDiT: float32)."""
    unconditional: bool = False
    """Every image is of one class."""
    out: str = "runs/generator"
    """The folder of the run."""
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
    """Steps between two measurements; there is one at the end too."""
    log_every: int = 50
    save_every: int = 1000
    keep: int = 2
    keep_best: int = 0
    """Checkpoints kept beside the last: of the lowest gFID, or loss without it."""
    max_rollbacks: int = 3
    """How often the run may return to a checkpoint after steps that failed."""
    stall_seconds: float = 1800.0
    exit_on_stall: bool = False
    """End a run that has stalled, so that whoever started it can start it again."""
    workers: int = 4
    """Threads that read latents, or read and decode images."""
    devices: int | None = None
    distributed: bool = False
    """One of several processes, as the cluster's environment says."""
    dry_run: bool = False
    """Print what the run will be, and end; needs no latents."""

    def __post_init__(self):
        require_local_fields(self)
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
        require(
            bool(self.reference) or not self.weights,
            f"`weights` ({self.weights}) are of the network that made `reference`, "
            "which is not given: give it, or leave both out.",
        )
        positive = (
            "log_every", "save_every", "evaluate_every", "eval_samples", "workers",
        )  # fmt: skip
        for name in positive:
            require(
                getattr(self, name) >= 1,
                f"`{name}` ({getattr(self, name)}) must be 1 or more: raise it.",
            )

    @property
    def fault_tolerance(self) -> FaultTolerance:
        """Which checkpoints are kept, and what is done about failures and stalls."""
        return FaultTolerance(
            keep=self.keep,
            keep_best=self.keep_best,
            max_rollbacks=self.max_rollbacks,
            stall=StallConfig(seconds=self.stall_seconds, ends=self.exit_on_stall),
        )


# What may not change in a run that is continued, beside its config.
FIXED = ("unconditional", "encoder_precision", "split")
