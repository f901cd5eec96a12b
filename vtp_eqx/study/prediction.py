"""Which numbers of a tokenizer tell how well generators do on its latents.

The tokenizer of every finished run is diagnosed (`evaluation.latent_diagnosis`). Each
number of its panel, and the flow loss of its generator, is then ranked against what was
measured of samples, over methods and widths.
"""

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

from jaxtyping import Real
import numpy as np
from scipy.stats import rankdata

from vtp_eqx.config import require, short_hash
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.batches import encode_images
from vtp_eqx.evaluation.extract import ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.latent_diagnosis import diagnose, VERSION
from vtp_eqx.evaluation.networks import of_reconstructions
from vtp_eqx.files import write_text
from vtp_eqx.models.arrays import weights_hash
from vtp_eqx.models.generator import load_generator
from vtp_eqx.scenes.render import object_masks, SceneConfig
from vtp_eqx.study.dataset import load_dataset, prepare
from vtp_eqx.study.generation import BATCH, flow_losses
from vtp_eqx.study.measure import at_budget, RunResult
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash, without_seed
from vtp_eqx.study.stages import as_generated
from vtp_eqx.tokenizer import load


# What is predicted beside the distance of samples, and what is known of a generator
# besides, at each budget.
ACCURACY = "class accuracy"
LOSSES = ("flow loss", "excess flow loss")
CHANNELS = "channels"
# Of the whole covariance where images suffice, as EXACT says, else of a product.
OF_COVARIANCE = ("effective rank", "Gaussian flow loss")
EXACT = "VIV exact, classes pooled"
LEVEL = 0.05  # of a two-sided test
RESAMPLES = 2000  # ours: of the bootstrap
# Ours: validation images that a tokenizer is diagnosed on. The whole covariance of 88
# channels in 4 x 4 positions takes twice its 1408 numbers.
NUM_IMAGES = 3000
PERMUTATIONS = 20_000  # ours: limits are right to about 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiagnosedRun:
    """A finished run with the panel of its tokenizer.

    Runs of one `point` differ in their seed alone, and those of one `setup` in their
    tokenizer alone: scenes, generator but for its width, sampler, number of samples and
    the network that measured them are the same. `numbers` are those at each budget, and
    the distance of reconstructions. Panels are comparable where they are of as many
    images, by one `version`.
    """

    hash: str
    method: str
    setting: str
    seed: int
    width: int
    point: str
    setup: str
    panel: dict[str, float]
    numbers: dict[str, float]
    num_images: int
    version: int = 1  # of `latent_diagnosis`
    distance: str = "FD-scenes"  # what that of samples is called


class Point(NamedTuple):
    """A method at a width: means over its seeds, of the panel and at each budget."""

    method: str
    setting: str
    width: int
    num_seeds: int
    numbers: dict[str, float]
    distance: str = "FD-scenes"

    def at(self, name: str, steps: int) -> float | None:
        """A number of the tokenizer, or of its generator after so many steps."""
        return self.numbers.get(name, self.numbers.get(at_budget(name, steps)))


class Correlation(NamedTuple):
    """Spearman's correlation of two numbers over points, with its 95% interval.

    `without` are its lowest and highest value when all points of one method are left
    out. It `predicts` where its size reaches the `limit` for so many points, and, with
    the same sign, that for the points that are left without any one method.
    """

    value: float
    low: float
    high: float
    without: tuple[float, float]
    predicts: bool


def diagnosed_run(
    spec: RunSpec, paths: RunPaths, num_images: int
) -> DiagnosedRun | None:
    """A finished run with its panel, of the first `num_images` validation images.

    Of all where there are fewer, as of emoji. What took long is kept in the run's
    folder, and found again while tokenizer and number of images are the same. `None`
    where its numbers are no longer comparable.
    """
    result = RunResult.read(paths, spec)
    if result is None:
        return None
    tokenizer = load(paths.last_tokenizer(spec) / "tokenizer")
    parts = [VERSION, num_images, weights_hash(tokenizer), spec.rotation]
    parts.append(result.feature_hash)  # of the network that diagnoses, too
    parts += ["one scaling factor"] if spec.one_scaling_factor else []
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    path = paths.result(spec) / f"panel-{key}.json"
    if not path.exists():
        found = _diagnose(spec, tokenizer, paths, num_images)
        write_text(path, json.dumps(found, indent=1) + "\n")
    known: dict[str, dict[str, float]] = json.loads(path.read_text())
    distance = spec.kind.distance
    names = [
        at_budget(name, steps)
        for name in (distance, ACCURACY, *LOSSES)
        for steps in spec.budgets
    ]
    names.append(of_reconstructions(distance))
    measured = {name: result.numbers[name] for name in names if name in result.numbers}
    return DiagnosedRun(
        hash=spec_hash(spec),
        method=spec.method,
        setting=spec.setting,
        seed=spec.seed,
        width=spec.tokenizer.latent_width,
        point=spec_hash(without_seed(spec)),
        setup=f"{_setup(spec)} {result.feature_hash[:12]}",
        panel=known["panel"],
        numbers={**known["flow losses"], **measured},
        num_images=num_images,
        version=VERSION,
        distance=distance,
    )


def _setup(spec: RunSpec) -> str:
    """What is equal in runs whose samples are comparable, but for the network."""
    generate = without_seed(spec).generate
    dit = dataclasses.replace(generate.dit, latent_width=1)
    parts = (spec.data, dataclasses.replace(generate, dit=dit), spec.sampler)
    return " ".join([*map(short_hash, parts), str(spec.num_samples), spec.labels])


def _diagnose(
    spec: RunSpec,
    tokenizer: Any,
    paths: RunPaths,
    num_images: int,
) -> dict[str, dict[str, float]]:
    """The panel, and the flow losses of the generators that are still there."""
    prepare(spec.kind, paths.data(spec), print)  # where they were removed
    data = load_dataset(spec.kind, None, paths.data(spec))
    tokenizer = as_generated(spec, tokenizer, data, paths.generator(spec))
    images, labels = data.validation.image, data.validation.label
    rows, masks = slice(num_images), None
    if isinstance(spec.data, SceneConfig):
        masks = object_masks(spec.data, spec.data.validation_indices[rows])
    source = ArraySource({"image": images[rows], "label": labels[rows]})
    with tempfile.TemporaryDirectory() as folder:
        place = ExtractConfig(folder=Path(folder), batch_size=BATCH, mesh=None)
        panel = diagnose(
            tokenizer,
            Images(source=source, crop=CenterCrop(spec.data.size)),
            place,
            network=spec.kind.network(paths.data(spec)),
            masks=masks,
        ).panel
    saved = {
        steps: paths.generator(spec) / f"generator-{steps}.safetensors"
        for steps in spec.budgets
    }
    losses = flow_losses(
        spec.generate,
        tokenizer,
        encode_images(tokenizer, images, batch_size=BATCH),
        data.validation.labels(spec.labels),
        {n: load_generator(p, tokenizer) for n, p in saved.items() if p.exists()},
    )
    return {
        "panel": {name: estimate.value for name, estimate in panel.items()},
        "flow losses": {
            at_budget(name, steps): value
            for steps, numbers in losses.items()
            for name, value in numbers.items()
        },
    }


def write_runs(runs: Sequence[DiagnosedRun], path: Path) -> None:
    """Writes what the report is made of, for `read_runs`."""
    records = [dataclasses.asdict(run) for run in runs]
    write_text(path, json.dumps(records, indent=1) + "\n")


def read_runs(
    paths: Iterable[Path], num_images: int = NUM_IMAGES
) -> list[DiagnosedRun]:
    """The runs in files of `write_runs`, each once; the first of several files counts.

    Raises `ValueError` where one cannot be read, or has panels that are not comparable
    with those that this version takes of so many images.
    """
    found: dict[str, DiagnosedRun] = {}
    for path in paths:
        try:
            for record in json.loads(path.read_text()):
                found.setdefault(record["hash"], DiagnosedRun(**record))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"`--reuse-results` ({path}) must be a `panel.json` that was written "
                f"beside a report ({error}): name another, or leave it out."
            ) from error
    for run in found.values():
        require(
            (run.num_images, run.version) == (num_images, VERSION),
            f"`--reuse-results` ({run.method} {run.setting}, {run.num_images} images, "
            f"panel version {run.version}) must have panels of {num_images} images and "
            f"version {VERSION}: leave it out, or change `--num-images`.",
        )
    return [*found.values()]


def near_reconstructions(
    runs: Sequence[DiagnosedRun], most: float
) -> tuple[list[DiagnosedRun], list[DiagnosedRun]]:
    """The runs whose reconstructions have a distance of `most` or less, and the others.

    Raises `ValueError` where a run of an older `panel.json` does not say.
    """
    for run in runs:
        name = of_reconstructions(run.distance)
        require(
            name in run.numbers,
            f"`--max-rfd` ({most}) must have {name} of every run, and the "
            f"`panel.json` of {run.method} {run.setting} has none: leave either out.",
        )
    is_near = lambda run: run.numbers[of_reconstructions(run.distance)] <= most
    return [*filter(is_near, runs)], [run for run in runs if not is_near(run)]


def without_copies(runs: Sequence[DiagnosedRun]) -> list[DiagnosedRun]:
    """The runs without those that are others under another name.

    Studies plan the same training under names of their own. Of runs of one setup and
    seed that share every number the one whose point has most runs stays, or the first.
    """
    sizes = collections.Counter(run.point for run in runs)
    shared: dict[str, set[str]] = {}
    for run in runs:
        shared.setdefault(run.setup, set(run.numbers)).intersection_update(run.numbers)
    first: dict[tuple, str] = {}
    for run in sorted(runs, key=lambda run: -sizes[run.point]):
        numbers = [run.numbers[name] for name in sorted(shared[run.setup])]
        first.setdefault((run.setup, run.seed, *numbers), run.hash)
    kept = set(first.values())
    return [run for run in runs if run.hash in kept]


def largest_setup(runs: Sequence[DiagnosedRun]) -> list[Point]:
    """The points of the setup that has most, in the order of methods and widths."""
    require(
        len(runs) > 0,
        "`runs` has no finished run to rank, and one is the least: name a folder of "
        "runs or files to reuse, or choose more (`--channels`, `--max-rfd`).",
    )
    setups: dict[str, dict[str, list[DiagnosedRun]]] = {}
    for run in runs:
        setups.setdefault(run.setup, {}).setdefault(run.point, []).append(run)
    groups = max(setups.values(), key=len).values()
    ordered = lambda point: (point.method, point.width, point.setting)
    return sorted(map(_point, groups), key=ordered)


def _point(runs: Sequence[DiagnosedRun]) -> Point:
    numbers = [{**run.panel, **run.numbers, CHANNELS: run.width} for run in runs]
    shared = [name for name in numbers[0] if all(name in of for of in numbers)]
    means = {name: float(np.mean([of[name] for of in numbers])) for name in shared}
    first = runs[0]
    return Point(
        first.method, first.setting, first.width, len(runs), means, first.distance
    )


def budgets_of(points: Sequence[Point]) -> list[int]:
    """The generator steps after which every point was measured, in order."""
    start = at_budget(points[0].distance, 0).removesuffix("0")
    names = set.intersection(*({*point.numbers} for point in points))
    return sorted(int(n.removeprefix(start)) for n in names if n.startswith(start))


def uncomparable(points: Sequence[Point]) -> list[str]:
    """The numbers of the covariance, where it is whole for some points, not for all."""
    if len({EXACT in point.numbers for point in points}) == 1:
        return []
    return [name for name in points[0].numbers if name.startswith(OF_COVARIANCE)]


def predictors(points: Sequence[Point], steps: int) -> list[str]:
    """The numbers of the panel and of generators that every point has.

    Of several that give the points the same ranks, such as multiples of one another,
    the first alone; none of which all points have the same, such as one width, and
    none of `uncomparable`.
    """
    found: dict[tuple[float, ...], str] = {}
    apart = uncomparable(points)
    for name in (*points[0].numbers, *LOSSES):
        if name in apart:
            continue
        values = [point.at(name, steps) for point in points]
        if " @" not in name and None not in values and len({*values}) > 1:
            found.setdefault(tuple(rankdata(values)), name)
    return [*found.values()]


def correlation(
    points: Sequence[Point], name: str, target: str, steps: int
) -> Correlation:
    """The correlation of a number with a target, both after so many generator steps."""
    rows = [(point.at(name, steps), point.at(target, steps)) for point in points]
    values = np.array(rows, float)
    methods = np.array([point.method for point in points])
    whole, is_kept = _spearman(values), [methods != of for of in np.unique(methods)]
    left = [_spearman(values[kept]) for kept in is_kept]
    limits = [limit(int(kept.sum())) for kept in is_kept]
    predicts = len(left) > 1 and abs(whole) >= limit(len(points))
    for value, least in zip(left, limits, strict=True):
        predicts &= np.sign(whole) * value >= least
    draw = np.random.default_rng(0)
    chosen = draw.integers(len(points), size=(RESAMPLES, len(points)))
    drawn = _spearman(values[chosen])
    drawn = drawn[np.isfinite(drawn)] if np.isfinite(whole) else [np.nan]
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return Correlation(
        float(whole), low, high, (float(min(left)), float(max(left))), bool(predicts)
    )


@functools.cache
def limit(count: int) -> float:
    """The critical size of Spearman's correlation of `count` points, two-sided at 5%.

    By random permutations; infinite where no size is that rare.
    """
    if count < 2:
        return np.inf
    ranks = np.tile(np.arange(count), (PERMUTATIONS, 1))
    shuffled = np.random.default_rng(0).permuted(ranks, axis=1)
    pairs = np.stack([ranks, shuffled], axis=-1)
    sizes = np.sort(np.round(np.abs(_spearman(pairs)), 9))[::-1]
    values, counts = np.unique(-sizes, return_counts=True)
    rare = -values[np.cumsum(counts) <= LEVEL * PERMUTATIONS]
    return float(rare[-1]) if len(rare) else np.inf


def _spearman(pairs: Real[np.ndarray, "*sets count 2"]) -> Any:
    """The correlation of ranks of both columns, NaN where one is constant."""
    ranks = rankdata(pairs, axis=-2)
    ranks = ranks - ranks.mean(axis=-2, keepdims=True)
    x, y = ranks[..., 0], ranks[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
