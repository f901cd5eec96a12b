"""The report of a study: what was run, every number, and what follows from them."""

from collections.abc import Sequence
import json
import os
from pathlib import Path
import platform
import re
import shutil
import subprocess
import time

from vtp_eqx.config import as_json
from vtp_eqx.files import replacing
from vtp_eqx.study.measure import Result
from vtp_eqx.study.point import Places, Point, point_hash
from vtp_eqx.study.table import finished, markdown_table, means_table, Row


DEFINITIONS = """\
- FLOPs: of tokenizer training, forward passes only, `2 * parameters * tokens` as the
  paper counts (`vtp_eqx/training/flops.py`); training costs about three times that.
- FD-scenes ("gFD"): Frechet distance of generated images to held-out scenes, on the
  features of the shipped scene network. It is not FID. "rFD" is the same distance of
  reconstructions, "gFD to rec" that of generated images to reconstructions.
- probe: held-out accuracy of a linear classifier on frozen encoder features, mean over
  six attributes; "probe shape" (chance 0.25) on features, "latent probe shape" on the
  mean of the latents. Zero-shot: images matched to mean caption embeddings.
- roughness: mean squared difference of neighboring latents over twice the variance of
  their channel (0: all equal, 1: neighbors are independent).
- color, shape, class shown: how often the scene network sees in a sample what the
  generator was asked for (chance 0.17, 0.25, 0.04)."""


def write_report(
    rows: Sequence[Row],
    findings: Sequence[str],
    places: Places,
    out: Path,
    *,
    title: str,
    question: str,
    command: str,
    seconds: float,
) -> None:
    """Writes `report.md`, and copies each point's grids beside it, to `out`.

    `runs.json` there has every number, for figures of one's own.
    """
    text = "\n\n".join(
        [
            f"# {title}",
            question,
            _origin(command, seconds, rows),
            f"![{title}](figures/{out.name}.png)",
            "## What the numbers say",
            "\n".join(f"- {line}" for line in findings),
            "## Means of seeds",
            "Behind `±`: half of what seeds differ by.",
            means_table(rows),
            DEFINITIONS,
            "## Every run",
            markdown_table(rows),
            "## Pictures",
            "Pairs of held-out scenes and their reconstructions; samples, two of each "
            "class: a row is a shape, colors run in pairs.",
            *(_pictures(point, places, out) for point in _shown(rows)),
            "## Settings",
            "<details><summary>Config of the first run</summary>\n\n```json\n"
            f"{as_json(rows[0].point)}\n```\n\n</details>",
        ]
    )
    with replacing(out / "report.md") as unfinished:
        unfinished.write_text(text + "\n")
    with replacing(out / "runs.json") as unfinished:
        unfinished.write_text(json.dumps(_records(rows), indent=1) + "\n")


def _origin(command: str, seconds: float, rows: Sequence[Row]) -> str:
    done = len(finished(rows))
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


def _records(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [
        {
            "method": row.point.method,
            "size": row.point.size,
            "seed": row.point.seed,
            "hash": point_hash(row.point),
            **({} if row.result is None else row.result.numbers),
        }
        for row in rows
    ]


def _shown(rows: Sequence[Row]) -> list[Point]:
    """One run of each method and size: more would be no more to look at."""
    first: dict[tuple[str, str], Point] = {}
    for row in rows:
        if row.result is not None:
            first.setdefault((row.point.method, row.point.size), row.point)
    return list(first.values())


def _pictures(point: Point, places: Places, out: Path) -> str:
    words = f"{point.method} {point.size} {point_hash(point)[:6]}"
    name = re.sub(r"[^\w.+-]+", "_", words)
    lines = [f"### {point.name}"]
    for kind in ("reconstructions", "samples"):
        target = out / "figures" / f"{name}_{kind}.png"
        shutil.copyfile(places.point(point) / f"{kind}.png", target)
        lines.append(f"![{kind} of {point.name}](figures/{target.name})")
    return "\n\n".join(lines)


def rows_of(points: Sequence[Point], places: Places) -> list[Row]:
    """Every point with its result, where it is finished."""
    return [Row(point, Result.read(places.point(point))) for point in points]
