"""The plan of a study: a list of points, each named by the hash of its config."""

import dataclasses
from pathlib import Path

from vtp_eqx.config import (
    DecodeConfig,
    DiTConfig,
    GenerateConfig,
    PretrainConfig,
    Remat,
    require,
    SamplerConfig,
    short_hash,
    TokenizerConfig,
)
from vtp_eqx.data.scenes import NUM_CLASSES, SceneConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One tokenizer, the generator trained on its latents, and how both are measured.

    `method` and `size` are what table and figure call it: a curve, and a place on it.
    Where `decode` is `None`, the decoder is the one that was trained jointly.
    """

    method: str
    size: str
    data: SceneConfig
    pretrain: PretrainConfig
    decode: DecodeConfig | None
    generate: GenerateConfig
    sampler: SamplerConfig
    num_samples: int

    def __post_init__(self):
        dit, tokenizer = self.generate.dit, self.pretrain.tokenizer
        made_for = (dit.latent_size, dit.latent_width, dit.num_classes)
        grid = tokenizer.image_size // tokenizer.patch_size
        needed = (grid, tokenizer.latent_width, NUM_CLASSES)
        require(
            made_for == needed,
            "A generator fits its tokenizer's latents (size, width) and the data's "
            f"number of classes; got {made_for} for {needed}: use `dit_for`.",
        )

    @property
    def seed(self) -> int:
        """The seed of the tokenizer; every study gives its generator the same one."""
        return self.pretrain.seed

    @property
    def name(self) -> str:
        """What a reader calls this point."""
        return f"{self.method} {self.size} seed {self.seed}"


def dit_for(
    tokenizer: TokenizerConfig,
    *,
    width: int,
    depth: int,
    num_heads: int,
    remat: Remat = "none",
) -> DiTConfig:
    """A transformer of this shape for a tokenizer's latents of scenes."""
    return DiTConfig(
        width=width,
        depth=depth,
        num_heads=num_heads,
        remat=remat,
        latent_size=tokenizer.image_size // tokenizer.patch_size,
        latent_width=tokenizer.latent_width,
        num_classes=NUM_CLASSES,
    )


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a study keeps what it makes. Equal work has equal names, in any study."""

    root: Path

    def data(self, point: Point) -> Path:
        """The prepared data set, shared by all points with the same one."""
        return self.root / "data" / short_hash(point.data)

    def tokenizer(self, point: Point) -> Path:
        """The pre-training run and its tokenizer."""
        return self.root / "tokenizers" / _joint_hash(point.data, point.pretrain)

    def decoder(self, point: Point) -> Path:
        """The decoder's run on frozen latents, and the tokenizer with that decoder."""
        assert point.decode is not None
        joint = _joint_hash(point.data, point.pretrain, point.decode)
        return self.root / "decoders" / joint

    def generator(self, point: Point) -> Path:
        """The generator's run and its weights."""
        joint = _joint_hash(point.data, point.pretrain, point.generate)
        return self.root / "generators" / joint

    def point(self, point: Point) -> Path:
        """Pictures, numbers and card of a point."""
        return self.root / "points" / point_hash(point)


def point_hash(point: Point) -> str:
    """Names a point by its whole config, not by what it is called."""
    unnamed = dataclasses.replace(point, method="", size="")
    return short_hash(unnamed)


def _joint_hash(*configs: object) -> str:
    """One name for several configs; a field's position is part of it."""
    holder = dataclasses.make_dataclass(
        "Joint", [(f"part{i}", type(config)) for i, config in enumerate(configs)]
    )
    return short_hash(holder(*configs))
