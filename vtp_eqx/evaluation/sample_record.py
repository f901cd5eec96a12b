"""`samples.json`: the generator, tokenizer and settings that made some samples.

Sampling writes it and evaluation reads it, so that everything a number depends on is
written down.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from beartype.door import is_bearable

from vtp_eqx.config import from_dict, Precision, require, SamplerConfig
from vtp_eqx.evaluation.card import LabelPolicy
from vtp_eqx.files import write_text
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.models.generator import Generator, generator_hash
from vtp_eqx.models.tokenizer import Tokenizer


RECORD_FILE = "samples.json"
ARCHIVE = "samples.npz"
# What sampling writes beside its images; the last is the lock of every run.
OWN_FILES = (RECORD_FILE, ARCHIVE, "run.lock")
FORMAT = "vtp_eqx samples 1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """Everything that samples depend on; hashes as on an `EvaluationCard`."""

    num_samples: int
    sampler: SamplerConfig
    labels: LabelPolicy  # how their classes were chosen
    seed: int
    precision: Precision  # of the networks' arithmetic
    tokenizer_hash: str  # of the weights of the tokenizer that decoded them
    latents_hash: str  # of that tokenizer's latents
    generator_hash: str  # of the generator's averaged weights
    generator_latents_hash: str  # of the latents the generator was trained on
    guide_hash: str = ""  # of the weaker generator's, where one guided
    labels_hash: str = ""  # of their classes, in order
    group_size: int | None = None  # images computed together: last bits depend on it
    prompts: tuple[str, ...] = ()  # of each sample in order, where there were prompts

    def __post_init__(self):
        require(
            self.num_samples > 0,
            f"`num_samples` ({self.num_samples}) must be positive: sample some.",
        )
        require(
            self.labels in get_args(LabelPolicy) and self.labels != "none",
            f"`labels` ({self.labels!r}) must be one of {get_args(LabelPolicy)[1:]}, "
            "by which classes were chosen: name it.",
        )
        require(
            bool(self.guide_hash) == (self.sampler.guide == "generator"),
            f"`guide_hash` ({self.guide_hash!r}) must name a generator where, and "
            f"only where, the sampler's `guide` ({self.sampler.guide!r}) is one: "
            "sample again.",
        )
        for name in ("tokenizer_hash", "latents_hash", "generator_hash"):
            require(
                bool(getattr(self, name)),
                f"`{name}` ('') must name what made the samples: sample with a "
                "generator and a tokenizer that have one.",
            )
        require(
            self.generator_latents_hash == self.latents_hash,
            f"`generator_latents_hash` ({self.generator_latents_hash}) must be the "
            f"`latents_hash` of the tokenizer ({self.latents_hash}): sample again with "
            "the tokenizer that the generator was trained with, to which a published "
            "one is bound by `experiments/convert.py --to ours --tokenizer`.",
        )

    @classmethod
    def of(
        cls,
        generator: Generator,
        tokenizer: Tokenizer,
        sampler: SamplerConfig,
        *,
        guide: Generator | None = None,
        **fields: Any,
    ) -> "SampleRecord":
        """The record of samples that `tokenizer` decodes from those of `generator`.

        `fields` are those that networks do not tell, such as the `seed`. Reads all
        weights: call it once. A `ValueError` where the two do not belong together,
        `guide` generates other latents, or the tokenizer's were never measured.
        """
        weaker = None if guide is None else generator.check_guide(guide)
        return cls(
            sampler=sampler,
            precision=cast(Precision, tokenizer.precision),
            tokenizer_hash=weights_hash(tokenizer),
            latents_hash=latents_hash(tokenizer),
            generator_hash=generator_hash(generator),
            generator_latents_hash=generator.latents_hash,
            guide_hash="" if weaker is None else generator_hash(weaker),
            **fields,
        )


def write_sample_record(folder: str | Path, record: SampleRecord) -> None:
    """Writes `samples.json` into the folder of its samples, whole or not at all."""
    content = {"format": FORMAT, **dataclasses.asdict(record)}
    if not record.prompts:  # as files were before there were prompts
        del content["prompts"]
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_text(Path(folder) / RECORD_FILE, text)


def read_sample_record(samples: str | Path) -> SampleRecord:
    """The record of a folder of samples, or of an `.npz` in one.

    A `FileNotFoundError` where there is none: it is unknown what made these images. A
    `ValueError` where the file is damaged, or a field is missing, unknown or wrong.
    """
    samples = Path(samples)
    path = (samples if samples.is_dir() else samples.parent) / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"`data` ({samples}) must have a {RECORD_FILE} beside its images, of what "
            "made them: sample again, or say in words who did (`--origin`)."
        )
    try:
        fields: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"`{path}` ({error}) must be whole JSON: copy it again, or sample again."
        ) from error
    found = fields.pop("format", None) if isinstance(fields, dict) else None
    require(
        found == FORMAT,
        f"`{path}` (format {found!r}) must have the format {FORMAT!r}: read it with "
        "the version that wrote it, or sample again.",
    )
    if isinstance(fields.setdefault("prompts", []), list):  # JSON has no tuples
        fields["prompts"] = (*fields["prompts"],)
    _check_fields(fields, SampleRecord, path)
    return from_dict(SampleRecord, fields)


def _check_fields(fields: dict[str, Any], kind: type, path: Path) -> None:
    """A `ValueError` unless `fields` has all names of `kind`, no other, and its types.

    None is left to a default, which another version may have changed.
    """
    hints = get_type_hints(kind)
    for what, names in (
        ("without", hints.keys() - fields.keys()),
        ("with also", fields.keys() - hints.keys()),
    ):
        require(
            not names,
            f"`{path}` ({what} {sorted(names)}) must have the fields of a "
            f"{kind.__name__}: read it with the version that wrote it.",
        )
    for name, hint in hints.items():
        is_nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        expected = hint.__name__ if isinstance(hint, type) else str(hint)
        require(
            is_bearable(fields[name], dict if is_nested else hint),
            f"`{name}` ({fields[name]!r} in {path}) must be of the type "
            f"{expected.removeprefix('typing.')}: sample again.",
        )
        if is_nested:
            _check_fields(fields[name], hint, path)
