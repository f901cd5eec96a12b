"""The report of a study: how it was made, its tables and pictures, and all numbers."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
import platform
import re
import shutil
import time
from typing import Any

from vtp_eqx.config import as_json
from vtp_eqx.files import atomic_path
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.measure import FIRST_NETWORK, RunResult
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash, vision_flops
from vtp_eqx.study.table import (
    Column,
    differences_table,
    finished_rows,
    means_table,
    num_runs,
    Row,
    runs_table,
    unfinished_runs,
)
from vtp_eqx.training.flops import run_flops


DEFINITIONS = """\
- **FD-scenes**: Fréchet distance between samples and held-out scenes in the features
  of the shipped scene network; it is not FID. Its floor is that of as many training
  scenes.
- **PSNR** of reconstructions of held-out scenes, clipped and rounded to bytes.
- **class right, color right**: the share of samples in which the scene network sees
  what the generator was asked for (chance 4%, 17%).
- **shape read off latents**: held-out accuracy of a linear classifier on the mean
  latent of an image (chance 25%).
- `@2000`: after 2,000 steps of the generator's training; without it: after all."""
# What a record says of a run, beside its numbers.
DESCRIPTION = ("method", "setting", "seed", "hash", "commit", "date", "feature_hash")
# Their names in reports of earlier versions.
FORMER_NAMES = {"size": "setting", "judge": "feature_hash"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """How a report was made: the command, and the seconds it took."""

    command: str
    seconds: float


def write_report(
    rows: Sequence[Row],
    paths: RunPaths,
    out: Path,
    *,
    title: str,
    question: str,
    summary: Sequence[str],
    columns: Sequence[Column],
    figure: Path,
    origin: Origin,
) -> None:
    """Writes `report.md` to `out`, copies each setting's grids beside it.

    `figure` is a picture in `out` that is there already. `runs.json` there has every
    number, for figures of one's own and `read_records`.
    """
    differences = differences_table(rows)
    parts = [
        f"# {title}",
        question,
        _made_by(origin, rows),
        f"![{title}]({figure.relative_to(out)})",
        "\n".join(f"- {sentence}" for sentence in summary),
        "## Means over seeds",
        "± is half the range over seeds.",
        means_table(rows, columns),
        DEFINITIONS,
    ]
    if differences:
        parts += [
            "## Differences to AE",
            "Paired by seed; positive is better. In brackets: the 95% interval of the "
            "mean by Student's t where there are three pairs or more, else each pair. "
            "The intervals are not corrected for multiple comparisons.",
            differences,
        ]
    parts += [
        "## Every run",
        runs_table(rows, columns),
        unfinished_runs(rows),
        "## Pictures",
        "Pairs of held-out scenes and their reconstructions; samples in the order of "
        "their labels.",
        *_pictures(rows, paths, out),
        "## Settings",
        "<details><summary>Config of the first run</summary>\n\n```json\n"
        f"{as_json(rows[0].spec)}\n```\n\n</details>",
    ]
    with atomic_path(out / "report.md") as unfinished:
        unfinished.write_text("\n\n".join(part for part in parts if part) + "\n")
    with atomic_path(out / "runs.json") as unfinished:
        unfinished.write_text(json.dumps(_records(rows), indent=1) + "\n")


def rows_of(
    specs: Sequence[RunSpec],
    paths: RunPaths,
    known: Mapping[str, RunResult] | None = None,
) -> list[Row]:
    """Every run with its result and its training FLOPs, where it is finished.

    "FLOPs" are all that made its tokenizer, "frozen FLOPs" what a frozen network took.

    What `paths` does not have may be `known` by the hash of a run.
    """
    rows = []
    for spec in specs:
        result = RunResult.read(paths.result(spec), spec)
        if result is None and known is not None:
            result = known.get(spec_hash(spec))
        if result is not None and not result.is_comparable(spec):
            result = None
        if result is not None:
            flops = {"FLOPs": run_flops(spec.pretrain)}
            if spec.vision is not None:
                flops["frozen FLOPs"] = vision_flops(spec)
            numbers = result.numbers | flops | {"FLOPs": sum(flops.values())}
            result = dataclasses.replace(result, numbers=numbers)
        rows.append(Row(spec, result))
    return rows


class RecordsError(ValueError):
    """A file is not the `runs.json` of a report."""


def read_records(paths: Iterable[Path]) -> dict[str, RunResult]:
    """The results of finished runs in `runs.json` of reports, by the hash of a run.

    The first of several files counts. Raises `RecordsError` where one cannot be read.
    """
    found: dict[str, RunResult] = {}
    for path in paths:
        try:
            records = json.loads(path.read_text())
            if not isinstance(records, list):
                raise TypeError("no list of runs")
            for record in records:
                record = {
                    FORMER_NAMES.get(str(k), str(k)): v for k, v in record.items()
                }
                if "commit" in record:
                    found.setdefault(record["hash"], _result(record))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordsError(
                f"`--reuse-results` {path} is not a `runs.json` that a study wrote "
                f"beside its report ({error}): name another, or leave it out."
            ) from error
    return found


def _made_by(origin: Origin, rows: Sequence[Row]) -> str:
    done = finished_rows(rows)
    made = [row.result for row in done if row.result]
    line = (
        f"`{origin.command}`, drawn at commit `{commit()}`, {_machine()}, "
        f"{time.strftime('%Y-%m-%d')}: {num_runs(done)} of {num_runs(rows)} runs, "
        f"{origin.seconds / 60:.0f} minutes in this call (finished runs are reused)."
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
            "method": row.spec.method,
            "setting": row.spec.setting,
            "seed": row.spec.seed,
            "hash": spec_hash(row.spec),
            **({} if row.result is None else _flat(row.result)),
        }
        for row in rows
    ]


def _flat(result: RunResult) -> dict[str, object]:
    return {
        "commit": result.commit,
        "date": result.date,
        "feature_hash": result.feature_hash,
        **result.numbers,
    }


def _result(record: Mapping[str, Any]) -> RunResult:
    return RunResult(
        numbers={name: record[name] for name in record if name not in DESCRIPTION},
        commit=record["commit"],
        date=record["date"],
        feature_hash=record.get("feature_hash", FIRST_NETWORK),
    )


def _pictures(rows: Sequence[Row], paths: RunPaths, out: Path) -> list[str]:
    """One run of each method and setting: more would be no more to look at."""
    parts: dict[tuple[str, str], str] = {}
    for row in finished_rows(rows):
        name = row.spec.method, row.spec.setting
        # None where a run's numbers alone are known.
        if name not in parts and (lines := _grids(row.spec, paths, out)):
            parts[name] = "\n\n".join([f"### {row.spec.name}", *lines])
    return list(parts.values())


def _grids(spec: RunSpec, paths: RunPaths, out: Path) -> list[str]:
    """The grids of a run that are at hand, copied to `out` or there already."""
    words = f"{spec.method} {spec.setting} {spec_hash(spec)[:6]}"
    name = re.sub(r"[^\w.+-]+", "_", words)
    lines = []
    for kind, file in (
        ("reconstructions", "reconstructions"),
        ("samples", f"samples_{spec.budgets[-1]}"),
    ):
        target = out / "figures" / f"{name}_{kind}.png"
        source = paths.result(spec) / f"{file}.png"
        if source.exists():
            shutil.copyfile(source, target)
        if target.exists():
            lines.append(f"![{kind} of {spec.name}](figures/{target.name})")
    return lines
