"""The report of a study: what was run, every number, and what follows from them."""

from collections.abc import Iterable, Mapping, Sequence
import json
import os
from pathlib import Path
import platform
import re
import shutil
import time
from typing import Any

from vtp_eqx.config import as_json
from vtp_eqx.files import replacing
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.measure import FIRST_JUDGE, Result
from vtp_eqx.study.point import Places, Point, point_hash
from vtp_eqx.study.table import (
    finished,
    markdown_table,
    means_table,
    num_runs,
    Row,
)
from vtp_eqx.training.flops import run_flops


DEFINITIONS = """\
- FLOPs: of tokenizer training with backward passes, `2 * parameters * tokens` for each
  forward pass as the paper counts (`train_flops` in `vtp_eqx/training/flops.py`).
- FD-scenes ("gFD"): Frechet distance of generated images to held-out scenes, on the
  features of the shipped scene network. It is not FID. "rFD" is the same distance of
  reconstructions, "gFD to rec" that of generated images to reconstructions. Its floor
  is that of as many training scenes to held-out ones.
- PSNR of PCA: of as many principal components of a patch as a latent has channels;
  that is where every method but "random encoder" starts.
- probe: held-out accuracy of a linear classifier on frozen encoder features, mean over
  six attributes; "probe shape" (chance 0.25) on features, "latent probe shape" on the
  mean of the latents. Zero-shot: images matched to mean caption embeddings.
- roughness: mean squared difference of neighboring latents over twice the variance of
  their channel (0: all equal, 1: neighbors are independent).
- texture drift: total variation between the shares of textures that the scene network
  sees in samples, and those of held-out scenes (0: as frequent; 0.25: a quarter of
  the samples would need another). Other attributes are in `runs.json`.
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
    figure: Path,
    command: str,
    seconds: float,
) -> None:
    """Writes `report.md`, and copies each point's grids beside it, to `out`.

    `figure` is a picture in `out` that is there already.

    `runs.json` there has every number, for figures of one's own and `read_records`.
    """
    text = "\n\n".join(
        [
            f"# {title}",
            question,
            _origin(command, seconds, rows),
            f"![{title}]({figure.relative_to(out)})",
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
            *_pictures(rows, places, out),
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
    done = finished(rows)
    made = [row.result for row in done if row.result]
    line = (
        f"`{command}`, drawn at commit `{commit()}`, {_machine()}, "
        f"{time.strftime('%Y-%m-%d')}: {num_runs(done)} of {num_runs(rows)} runs, "
        f"{seconds / 60:.0f} minutes in this call (runs that were found finished cost "
        "nothing)."
    )
    if made:
        commits = ", ".join(sorted({f"`{result.commit}`" for result in made}))
        dates = sorted({result.date for result in made})
        line += f" Runs were measured at {commits}, {dates[0]} to {dates[-1]}."
    return line


def _machine() -> str:
    return f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}"


def _records(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [
        {
            "method": row.point.method,
            "size": row.point.size,
            "seed": row.point.seed,
            "hash": point_hash(row.point),
            **({} if row.result is None else _flat(row.result)),
        }
        for row in rows
    ]


def _flat(result: Result) -> dict[str, object]:
    return {
        "commit": result.commit,
        "date": result.date,
        "judge": result.judge,
        **result.numbers,
    }


class RecordsError(ValueError):
    """A file is not the `runs.json` of a report."""


def read_records(paths: Iterable[Path]) -> dict[str, Result]:
    """The results of finished runs in `runs.json` of reports, by the hash of a point.

    Those of another scene network are left out; the first of several files counts.
    Raises `RecordsError` where one cannot be read.
    """
    found: dict[str, Result] = {}
    for path in paths:
        try:
            records = json.loads(path.read_text())
            if not isinstance(records, list):
                raise TypeError("no list of runs")
            for record in records:
                name = record["hash"]
                result = _result(record) if "commit" in record else None
                if result is not None and result.is_comparable:
                    found.setdefault(name, result)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordsError(
                "Known runs must be a `runs.json` that a study wrote beside its "
                f"report; got {path} ({error}): name another, or leave it out."
            ) from error
    return found


def _result(record: dict[str, Any]) -> Result:
    named = ("method", "size", "seed", "hash", "commit", "date", "judge")
    return Result(
        numbers={name: record[name] for name in record if name not in named},
        commit=record["commit"],
        date=record["date"],
        judge=record.get("judge", FIRST_JUDGE),
    )


def _pictures(rows: Sequence[Row], places: Places, out: Path) -> list[str]:
    """One run of each method and size: more would be no more to look at."""
    parts: dict[tuple[str, str], str] = {}
    for row in finished(rows):
        name = row.point.method, row.point.size
        # None where a run's numbers alone are known.
        if name not in parts and (lines := _grids(row.point, places, out)):
            parts[name] = "\n\n".join([f"### {row.point.name}", *lines])
    return list(parts.values())


def _grids(point: Point, places: Places, out: Path) -> list[str]:
    """The grids of a point that are at hand, copied to `out` or there already."""
    words = f"{point.method} {point.size} {point_hash(point)[:6]}"
    name = re.sub(r"[^\w.+-]+", "_", words)
    lines = []
    for kind in ("reconstructions", "samples"):
        target = out / "figures" / f"{name}_{kind}.png"
        source = places.point(point) / f"{kind}.png"
        if source.exists():
            shutil.copyfile(source, target)
        if target.exists():
            lines.append(f"![{kind} of {point.name}](figures/{target.name})")
    return lines


def rows_of(
    points: Sequence[Point], places: Places, known: Mapping[str, Result] | None = None
) -> list[Row]:
    """Every point with its result and its FLOPs, where it is finished.

    What `places` does not have may be `known` by the hash of a point.
    """
    rows = []
    for point in points:
        result = Result.read(places.point(point))
        if result is None and known is not None:
            result = known.get(point_hash(point))
        if result is not None:
            result.numbers["FLOPs"] = run_flops(point.pretrain)
        rows.append(Row(point, result))
    return rows
