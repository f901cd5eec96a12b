"""Run specifications, each named by the hash of its config, and their folders."""

from collections.abc import Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any
import warnings

from vtp_eqx.config import (
    DecodeConfig,
    DiTConfig,
    FinetuneConfig,
    from_dict,
    GenerateConfig,
    PretrainConfig,
    require,
    SamplerConfig,
    short_hash,
    TextConfig,
    TokenizerConfig,
)
from vtp_eqx.config.fields import later
from vtp_eqx.study.dataset import data_kind, DataConfig, DataKind
from vtp_eqx.study.scene_kind import Labels
from vtp_eqx.training.adapter import adapted_config, AdapterConfig
from vtp_eqx.training.flops import run_flops
from vtp_eqx.training.parameter_counts import encoder_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One tokenizer, the generator trained on its latents, and how both are measured.

    `method` and `setting` are what tables and figures call it: a curve, and a point on
    it. Where `decode` is `None`, the decoder is the one that was trained jointly.
    """

    method: str
    setting: str
    data: DataConfig
    pretrain: PretrainConfig
    decode: DecodeConfig | None
    generate: GenerateConfig
    sampler: SamplerConfig
    num_samples: int
    labels: Labels = "class"
    # Generator steps after which samples are measured; the last is the end of training.
    budgets: tuple[int, ...]
    # Seed of a random orthogonal basis that the latents are expressed in.
    rotation: int | None = None
    # The generator's latents are divided by one deviation, not each channel by its own.
    one_scaling_factor: bool = later(False)
    # The pre-training whose encoder, frozen, latents are aligned with, if they are.
    vision: PretrainConfig | None = later(None)
    # Training images that tokenizers see, the first ones; generators see all.
    tokenizer_images: int | None = later(None)
    # Over which cosines between the gradients of objectives are measured; 0: none are.
    gradient_batches: int = later(0)
    # Makes latents from features of the pre-training's encoder, frozen, in place of its
    # bottleneck.
    adapter: AdapterConfig | None = later(None)
    # The decoder's training against a discriminator after `decode`, if there is one.
    finetune: FinetuneConfig | None = later(None)

    def __post_init__(self):
        require(
            (self.vision is not None) == bool(self.pretrain.vision_widths),
            "`vision` must be there where `pretrain.alignment_weight` "
            f"({self.pretrain.alignment_weight}), or `pretrain.flow_distillation` of a "
            f"frozen network ({self.pretrain.flow_distillation.weight}), is above 0, "
            "and nowhere else: change either.",
        )
        require(
            self.gradient_batches == 0
            or (self.gradient_batches > 0 and self.pretrain.num_steps > 0),
            f"`gradient_batches` ({self.gradient_batches}) must be 0, or more where "
            f"the tokenizer is trained, here for {self.pretrain.num_steps} steps: "
            "change it.",
        )
        require(
            self.adapter is None or self.decode is not None,
            f"`decode` must be there where an `adapter` ({self.adapter}) makes "
            "latents that no decoder was trained on: give it, or leave the adapter "
            "out.",
        )
        require(
            self.finetune is None or self.decode is not None,
            f"`decode` must be there where its decoder is trained on by `finetune` "
            f"({self.finetune}): give it, or leave `finetune` out.",
        )
        known = self.kind.num_labels
        require(
            self.labels in known,
            f"`labels` ({self.labels!r}) must be known of the data, one of "
            f"{[*known]}: change it.",
        )
        dit, tokenizer = self.generate.dit, self.tokenizer
        made_for = (dit.latent_size, dit.latent_width, dit.num_classes)
        grid = tokenizer.image_size // tokenizer.patch_size
        needed = (grid, tokenizer.latent_width, known[self.labels])
        require(
            made_for == needed,
            f"`generate.dit` {made_for} (latent size, width, classes) does not fit the "
            f"tokenizer and labels {needed}: use `dit_for`.",
        )
        require(
            list(self.budgets) == sorted(set(self.budgets))
            and self.budgets[-1:] == (self.generate.num_steps,),
            f"`budgets` {self.budgets} must rise and end with the generator's "
            f"`num_steps` ({self.generate.num_steps}): change either.",
        )
        if self.tokenizer_images is not None:
            self.kind.check_subset(self.tokenizer_images)

    @property
    def kind(self) -> DataKind:
        """What a study needs of the data."""
        return data_kind(self.data)

    @property
    def text(self) -> TextConfig | None:
        """The text tower that reads the captions, if one does.

        Of a run without one, the frozen network that it learns from may have it.
        """
        return (self.vision or self.pretrain).tokenizer.text

    @property
    def seed(self) -> int:
        """The seed of tokenizer, decoder and generator."""
        return self.pretrain.seed

    @property
    def tokenizer(self) -> TokenizerConfig:
        """The shape of the tokenizer whose latents are generated."""
        shape = self.pretrain.tokenizer
        return shape if self.adapter is None else adapted_config(shape, self.adapter)

    @property
    def vision_run(self) -> "RunSpec | None":
        """The run whose tokenizer is the frozen network, if there is one."""
        if self.vision is None:
            return None
        # It may have more channels than the latents that learn from it.
        width = self.vision.tokenizer.latent_width
        dit = dataclasses.replace(self.generate.dit, latent_width=width)
        generate = dataclasses.replace(self.generate, dit=dit)
        return dataclasses.replace(
            self, pretrain=self.vision, vision=None, adapter=None, generate=generate
        )

    @property
    def name(self) -> str:
        """The name of this run for readers."""
        return f"{self.method}, {self.setting}, seed {self.seed}"


def dit_for(tokenizer: TokenizerConfig, num_labels: int, **shape: Any) -> DiTConfig:
    """A transformer for a tokenizer's latents; `shape` has its width, depth, ..."""
    return DiTConfig(
        latent_size=tokenizer.image_size // tokenizer.patch_size,
        latent_width=tokenizer.latent_width,
        num_classes=num_labels,
        **shape,
    )


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Where a study keeps what it makes. Equal work has equal names, in any study."""

    root: Path

    def data(self, spec: RunSpec) -> Path:
        """The prepared data set, shared by all runs with the same one."""
        return self.root / "data" / short_hash(spec.data)

    def tokenizer(self, spec: RunSpec) -> Path:
        """The pre-training run and its tokenizer."""
        return self.root / "tokenizers" / _joint_hash(*_tokenizer_parts(spec))

    def adapted(self, spec: RunSpec) -> Path:
        """The frozen encoder of that tokenizer, with its adapter."""
        return self.root / "tokenizers" / _joint_hash(*_latents_parts(spec))

    def decoder(self, spec: RunSpec) -> Path:
        """The decoder's run on frozen latents, and the tokenizer with that decoder."""
        joint = _joint_hash(*_latents_parts(spec), spec.decode)
        return self.root / "decoders" / joint

    def finetuned(self, spec: RunSpec) -> Path:
        """The run that trains that decoder on, and the tokenizer with the result."""
        joint = _joint_hash(*_latents_parts(spec), spec.decode, spec.finetune)
        return self.root / "decoders" / joint

    def last_tokenizer(self, spec: RunSpec) -> Path:
        """The run of the tokenizer that decodes samples: the last of these there is."""
        if spec.finetune is not None:
            return self.finetuned(spec)
        return (self.tokenizer if spec.decode is None else self.decoder)(spec)

    def generator(self, spec: RunSpec) -> Path:
        """The generator's run, and its weights after each budget."""
        trained_on = [*_latents_parts(spec), spec.rotation, spec.labels]
        trained_on += [True] if spec.one_scaling_factor else []
        joint = _joint_hash(*trained_on, spec.generate, spec.budgets)
        return self.root / "generators" / joint

    def result(self, spec: RunSpec) -> Path:
        """Pictures, numbers and card of a run."""
        return self.root / "results" / spec_hash(spec)


def finished_specs(paths: RunPaths) -> list[RunSpec]:
    """The runs in a folder that have a result, in the order of their hashes.

    Warns of those that another version wrote and this one cannot read.
    """
    specs = []
    for path in sorted(paths.root.glob("results/*/spec.json")):
        if path.with_name("result.json").exists():
            try:
                specs.append(from_dict(RunSpec, json.loads(path.read_text())))
            except ValueError as error:
                warnings.warn(f"{path} is left out: {error}", stacklevel=2)
    return specs


def saved_tokenizers(
    paths: RunPaths, methods: Sequence[str], settings: Sequence[str] = ()
) -> dict[str, Path]:
    """The tokenizers of finished runs by what tables call the runs, method by method.

    Of each method and setting that of the lowest seed; of all settings by default. A
    method or setting without any is a `ValueError`.
    """
    found: dict[tuple[str, str], RunSpec] = {}
    for spec in sorted(finished_specs(paths), key=lambda spec: spec.seed):
        found.setdefault((spec.method, spec.setting), spec)
    for name, asked, known in (
        ("methods", methods, {method for method, _ in found}),
        ("settings", settings, {setting for _, setting in found}),
    ):
        require(
            {*asked} <= known,
            f"`{name}` {[*asked]} must be of finished runs in {paths.root}, which has "
            f"{sorted(known)}: change it, or `runs`.",
        )
    return {
        spec.name: paths.last_tokenizer(spec)
        for asked in methods
        for (method, setting), spec in found.items()
        if method == asked and (not settings or setting in settings)
    }


def spec_hash(spec: RunSpec) -> str:
    """Names a run by its whole config, not by what it is called."""
    unnamed = dataclasses.replace(spec, method="", setting="")
    return short_hash(unnamed)


def without_seed(spec: RunSpec) -> RunSpec:
    """The same run with seed 0 and only its last budget: seeds of a run share it."""
    return dataclasses.replace(
        spec,
        pretrain=dataclasses.replace(spec.pretrain, seed=0),
        vision=spec.vision and dataclasses.replace(spec.vision, seed=0),
        decode=spec.decode and dataclasses.replace(spec.decode, seed=0),
        finetune=spec.finetune and dataclasses.replace(spec.finetune, seed=0),
        generate=dataclasses.replace(spec.generate, seed=0),
        rotation=None if spec.rotation is None else 0,
        budgets=spec.budgets[-1:],
    )


def vision_flops(spec: RunSpec) -> float:
    """FLOPs that a run's frozen network takes: its pre-training and its passes."""
    if spec.vision is None:
        return 0.0
    tokenizer = spec.vision.tokenizer
    num_images = spec.pretrain.num_steps * spec.pretrain.reconstruction_batch
    # The norms that an adaptive weight follows take a pass of their own.
    num_images *= 2 if spec.pretrain.alignment.weighting == "adaptive" else 1
    passes = num_images * encoder_flops(tokenizer, tokenizer.image_size)
    return run_flops(spec.vision) + passes


def _tokenizer_parts(spec: RunSpec) -> list[object]:
    """What a tokenizer depends on."""
    others = [part for part in (spec.vision, spec.tokenizer_images) if part is not None]
    return [spec.data, spec.pretrain, *others]


def _latents_parts(spec: RunSpec) -> list[object]:
    """What latents depend on, before a rotation."""
    adapter = [] if spec.adapter is None else [spec.adapter]
    return [*_tokenizer_parts(spec), *adapter]


def _joint_hash(*parts: object) -> str:
    """One name for several configs; a part's position counts too."""
    holder = dataclasses.make_dataclass(
        "Joint", [(f"part{i}", type(part)) for i, part in enumerate(parts)]
    )
    return short_hash(holder(*parts))
