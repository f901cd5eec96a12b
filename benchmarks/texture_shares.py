"""How much of FD-scenes is that generators draw some textures too rarely.

python -m benchmarks.texture_shares RUNS [--methods AE VTP] [--samples 1200]

A table for each data set of a folder of runs. For every finished point of it: the
textures that the scene network sees in its first samples, FD-scenes of these, and
FD-scenes of held-out scenes that are weighted so that their textures are as frequent as
in the samples. That is what a generator would have that draws each texture perfectly,
but so often.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import tyro

from benchmarks.table import print_table
from vtp_eqx.config import from_dict
from vtp_eqx.data.scene_captions import TEXTURES
from vtp_eqx.data.scenes import SceneConfig
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.generation import (
    predictions,
    read_scenes,
    reading_moments,
    shares,
)
from vtp_eqx.models.generator import load_generator
from vtp_eqx.models.scene_network import load_scene_network
from vtp_eqx.study.dataset import load_dataset
from vtp_eqx.study.measure import samples
from vtp_eqx.study.point import Places, Point, point_hash
from vtp_eqx.tokenizer import load


@dataclasses.dataclass(frozen=True)
class Options:
    """Which points of a folder of runs are looked at."""

    runs: tyro.conf.Positional[Path]
    methods: tuple[str, ...] = ("AE", "VTP")
    samples: int = 1200


def main(options: Options) -> None:
    found: dict[SceneConfig, list[Point]] = {}
    for point in found_points(options):
        found.setdefault(point.data, []).append(point)
    for points in found.values():
        print_shares(points, options)


def print_shares(points: list[Point], options: Options) -> None:
    """The table of points with the same scenes."""
    network, places, rows = load_scene_network(), Places(options.runs), []
    data = load_dataset(points[0], places.data(points[0]))
    real = read_scenes(network, data.validation.image)
    textures, moments = predictions(real)["texture"], reading_moments(real)
    held_out = shares("texture", textures)
    for point in points:
        tokenizer = load(
            (places.decoder if point.decode else places.tokenizer)(point) / "tokenizer"
        )
        generator = load_generator(places.generator(point) / "generator.safetensors")
        labels = np.arange(options.samples) % data.num_classes
        images = samples(point, tokenizer, generator, labels, lambda *_: None)
        seen = read_scenes(network, images)
        wanted = shares("texture", predictions(seen)["texture"])
        alone = weighted(np.asarray(real.features), textures, wanted, held_out)
        rows.append(
            (
                f"{point.name} ({point_hash(point)[:6]})",
                *(f"{share:.2f}" for share in wanted),
                f"{frechet_distance(reading_moments(seen), moments):.2f}",
                f"{frechet_distance(alone, moments):.2f}",
            )
        )
    last = ("held-out scenes", *(f"{share:.2f}" for share in held_out), "0", "0")
    print_table(
        f"Shares of textures in {options.samples} samples",
        ("run", *TEXTURES, "FD-scenes", "of shares alone"),
        [*rows, last],
    )


def found_points(options: Options) -> list[Point]:
    """Finished points, by method, size and seed."""
    done = [
        from_dict(Point, json.loads((path.parent / "point.json").read_text()))
        for path in options.runs.glob("points/*/result.json")
    ]
    order = lambda point: (point.size, options.methods.index(point.method), point.seed)
    return sorted([one for one in done if one.method in options.methods], key=order)


def weighted(
    features: np.ndarray, values: np.ndarray, wanted: np.ndarray, has: np.ndarray
) -> Moments:
    """Moments of features in which each value has the share that is wanted."""
    # Rows in proportion, to one in a hundred.
    counts = np.round(100 * (wanted / np.maximum(has, 1e-9))[values]).astype(int)
    return Moments.of(np.repeat(features, counts, axis=0))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
