"""The report of a study: what was run, every number, and what follows from them."""

from collections.abc import Sequence
import os
from pathlib import Path
import platform
import shutil
import subprocess
import time

import numpy as np

from vtp_eqx.config import as_json
from vtp_eqx.files import replacing
from vtp_eqx.study.measure import Result
from vtp_eqx.study.point import Places, Point, point_hash
from vtp_eqx.study.table import markdown_table, Row


DEFINITIONS = """\
- FLOPs: of tokenizer training, forward passes only, `2 * parameters * tokens` as the
  paper counts (`vtp_eqx/training/flops.py`); training costs about three times that.
- FD-scenes ("gFD"): Frechet distance of generated images to held-out scenes, on the
  features of the shipped scene network. It is not FID. "rFD" is the same distance of
  reconstructions, "gFD to rec" that of generated images to reconstructions.
- probe: held-out accuracy of a linear classifier on frozen encoder features, mean over
  six attributes; "probe shape" (chance 0.25) on features, "latent probe shape" on the
  mean of the latents. Zero-shot: images matched to mean caption embeddings.
- color, shape, class shown: how often the scene network sees in a sample what the
  generator was asked for (chance 0.17, 0.25, 0.04)."""


def write_report(
    rows: Sequence[Row],
    places: Places,
    out: Path,
    *,
    title: str,
    question: str,
    command: str,
    seconds: float,
) -> None:
    """Writes `report.md`, and copies each point's grids beside it, to `out`."""
    text = "\n\n".join(
        [
            f"# {title}",
            question,
            _origin(command, seconds, rows),
            f"![{title}](figures/{out.name}.png)",
            "## What the numbers say",
            "\n".join(f"- {line}" for line in findings(rows)),
            "## Every run",
            markdown_table(rows),
            DEFINITIONS,
            "## Pictures",
            "Pairs of held-out scenes and their reconstructions; samples, two of each "
            "class: a row is a shape, colors run in pairs.",
            *(_pictures(row.point, places, out) for row in rows if row.result),
            "## Settings",
            "<details><summary>Config of the first run</summary>\n\n```json\n"
            f"{as_json(rows[0].point)}\n```\n\n</details>",
        ]
    )
    with replacing(out / "report.md") as unfinished:
        unfinished.write_text(text + "\n")


def findings(rows: Sequence[Row]) -> list[str]:
    """What follows from the table, sentence by sentence; where VTP is behind first."""
    done = [row for row in rows if row.result is not None]
    if not done:
        return ["Nothing is finished yet."]
    lines = [] if len(done) == len(rows) else [
        f"{len(rows) - len(done)} of {len(rows)} runs are not finished: what follows "
        "is about the others."
    ]  # fmt: skip
    comparisons = [
        found
        for size in dict.fromkeys(row.point.size for row in done)
        if (found := _compare(done, size))
    ]
    lines += [line for _, line in sorted(comparisons, key=lambda pair: pair[0])]
    lines.append(_seeds(done))
    lines += _understanding(done)
    lines += _reconstruction(done)
    floor = _mean(done, "FD-scenes floor")
    lines.append(
        f"Held-out against training scenes, FD-scenes is {floor:.2f}: its floor."
    )
    return lines


def _compare(rows: Sequence[Row], size: str) -> tuple[float, str] | None:
    """VTP's lead at one size (negative: behind) and its sentence."""
    pair = [
        [row for row in rows if (row.point.size, row.point.method) == (size, method)]
        for method in ("VTP", "AE")
    ]
    if not all(pair):
        return None
    joint, alone = (_mean(rows, "FD-scenes") for rows in pair)
    shown = [_mean(rows, "class agreement") for rows in pair]
    compute = [_mean(rows, "FLOPs") for rows in pair]
    lead = alone - joint
    word = "ahead of" if lead > 0 else "behind"
    return lead, (
        f"{size}: at equal samples VTP is {word} AE in FD-scenes, {joint:.2f} against "
        f"{alone:.2f} (its samples show the class asked for in {shown[0]:.0%}, AE's in "
        f"{shown[1]:.0%}), at {compute[0] / compute[1]:.1f} times the compute."
    )


def _seeds(rows: Sequence[Row]) -> str:
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        assert row.result is not None
        key = (row.point.method, row.point.size)
        groups.setdefault(key, []).append(row.result.numbers["FD-scenes"])
    spreads = [np.ptp(values) for values in groups.values() if len(values) > 1]
    if not spreads:
        return (
            "There is one seed for each point, so that the spread between seeds is "
            "unknown: differences of FD-scenes that are small beside its distance to "
            "the floor may be chance, and no trend over three sizes is established."
        )
    return (
        "Between seeds of the same point, FD-scenes differs by up to "
        f"{max(spreads):.2f} (mean {np.mean(spreads):.2f}): smaller differences "
        "between points are not shown."
    )


def _understanding(rows: Sequence[Row]) -> list[str]:
    lines = []
    for method in dict.fromkeys(row.point.method for row in rows):
        own = [row for row in rows if row.point.method == method]
        line = (
            f"{method}: a linear probe reads shape from encoder features with accuracy "
            f"{_range(own, 'probe features shape')} and from mean latents with "
            f"{_range(own, 'probe latents shape')} (chance 0.25), all attributes from "
            f"features with {_range(own, 'probe features mean')}"
        )
        if all("zero-shot shape" in row.result.numbers for row in own if row.result):
            line += f"; zero-shot shape {_range(own, 'zero-shot shape')}"
        lines.append(line + ".")
    return lines


def _reconstruction(rows: Sequence[Row]) -> list[str]:
    return [
        f"{method}: reconstruction at {_range(own, 'PSNR', '.1f')} dB PSNR; principal "
        f"components of the same size reach {_mean(own, 'PSNR of PCA'):.1f} dB."
        for method in dict.fromkeys(row.point.method for row in rows)
        if (own := [row for row in rows if row.point.method == method])
    ]


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row.result.numbers[name] for row in rows if row.result]))


def _range(rows: Sequence[Row], name: str, form: str = ".2f") -> str:
    values = [row.result.numbers[name] for row in rows if row.result]
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _origin(command: str, seconds: float, rows: Sequence[Row]) -> str:
    done = sum(row.result is not None for row in rows)
    return (
        f"`{command}`, commit `{_commit()}`, {_machine()}, "
        f"{time.strftime('%Y-%m-%d')}: {done} of {len(rows)} runs, {seconds / 60:.0f} "
        "minutes in this call (runs that were found finished cost nothing)."
    )


def _commit() -> str:
    """The commit the code is at, or "unknown" outside of a checkout."""
    here = Path(__file__).parent
    describe = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            describe, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _machine() -> str:
    return f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}"


def _pictures(point: Point, places: Places, out: Path) -> str:
    name = f"{point.method}_{point.size}_{point_hash(point)[:6]}"
    lines = [f"### {point.name}"]
    for kind in ("reconstructions", "samples"):
        target = out / "figures" / f"{name}_{kind}.png"
        shutil.copyfile(places.point(point) / f"{kind}.png", target)
        lines.append(f"![{kind} of {point.name}](figures/{target.name})")
    return "\n\n".join(lines)


def rows_of(points: Sequence[Point], places: Places) -> list[Row]:
    """Every point with its result, where it is finished."""
    return [Row(point, Result.read(places.point(point))) for point in points]
