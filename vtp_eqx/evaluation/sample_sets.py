"""Several sets of samples, measured the same way, side by side: unguided and guided."""

from collections.abc import Mapping, Sequence
import dataclasses
import json

from rich.table import Table

from vtp_eqx.config import require, SamplerConfig
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.extract import ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import FeatureNetwork
from vtp_eqx.evaluation.reference import Reference
from vtp_eqx.evaluation.sample_record import SampleRecord
from vtp_eqx.evaluation.samples import CARD_FILE, check_comparable, evaluate_samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Samples, and the record of what made them, or their origin in words.

    Its numbers go to the subfolder `name`; where that is "", to the folder itself.
    """

    images: Images
    record: SampleRecord | str
    name: str = ""

    @property
    def title(self) -> str:
        """How they were guided, or else their origin."""
        if isinstance(self.record, str):
            return self.record
        return guidance_title(self.record.sampler)


def evaluate_sample_sets(
    sets: Sequence[SampleSet],
    measures: Mapping[str, tuple[FeatureNetwork, Reference]],
    place: ExtractConfig,
    *,
    num_samples: int,
) -> list[dict[str, float]]:
    """The numbers of each set by each network, each written with a card.

    `measures` has networks and their references by the subfolder of their cards: "" for
    the first. Numbers of the others are of distances alone. An error before any image
    is read where names are alike, or a reference does not fit.
    """
    names = [samples.name for samples in sets]
    require(
        len(set(names)) == len(names),
        f"`sets` ({names}) must have different names, by which their numbers are found "
        "again: rename a folder.",
    )
    for samples in sets:
        for network, reference in measures.values():
            check_comparable(network, reference, samples.images.crop.size)
    results = []
    for samples in sets:
        numbers: dict[str, float] = {}
        for folder, (network, reference) in measures.items():
            own = place.folder / samples.name / folder
            found = evaluate_samples(
                samples.images, samples.record, network, reference,
                dataclasses.replace(place, folder=own), num_samples=num_samples,
            )  # fmt: skip
            numbers |= {
                name: value for name, value in found.items() if name not in numbers
            }
        results.append(numbers)
    return results


def sample_table(
    sets: Sequence[SampleSet],
    results: Sequence[Mapping[str, float]],
    place: ExtractConfig,
) -> Table:
    """The numbers of sets, a column each."""
    _, card = read(place.folder / sets[0].name / CARD_FILE)
    table = Table(title=f"{card.num_samples} images against {card.num_reference}")
    table.add_column("number")
    for samples in sets:
        table.add_column(samples.title, justify="right")
    for name in dict.fromkeys(name for numbers in results for name in numbers):
        values = [numbers.get(name) for numbers in results]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        table.add_row(name, *cells)
    return table


def skipped_files(sets: Sequence[SampleSet], place: ExtractConfig) -> list[str]:
    """The files of all sets that could not be read, with reasons."""
    lines = []
    for samples in sets:
        content = (place.folder / samples.name / CARD_FILE).read_text()
        skipped = json.loads(content)["skipped"]
        lines += [f"{name} ({reason})" for name, reason in skipped.items()]
    return lines


def guidance_title(sampler: SamplerConfig) -> str:
    """How samples were guided, in a few words."""
    if sampler.guidance == 1:
        return "unguided"
    words = [f"guided by {sampler.guidance:g}"]
    if sampler.guide == "generator":
        words[0] += " from a weaker generator"
    if (sampler.guidance_start, sampler.guidance_end) != (0, 1):
        words.append(f"t {sampler.guidance_start:g} to {sampler.guidance_end:g}")
    if sampler.guided_channels is not None:
        words.append(f"{sampler.guided_channels} channels")
    return ", ".join(words)
