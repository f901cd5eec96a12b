"""The report of a study: how it was made, its tables and pictures, and all numbers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from vtp_eqx.files import write_text
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.measure import RecordsError, RunResult
from vtp_eqx.study.recipe import Scale
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash, vision_flops
from vtp_eqx.study.table import (
    Column,
    COLUMNS,
    differences_table,
    finished_rows,
    generation_columns,
    generation_table,
    means_table,
    num_runs,
    Row,
    runs_table,
    unfinished_runs,
)
from vtp_eqx.training.flops import run_flops


BUDGETS = """\
- `@2000`: after 2,000 steps of the generator's training; without it: after all."""
# By the first column that each line explains.
GENERATION = {
    "modeling gap": "**modeling gap**: {distance} of samples less that of decoded "
    "latents of training {noun}, which have a decoder's losses alone.",
    "MIND": "**MIND**: sliced Wasserstein distance in the features of {distance}.",
    "FD-classes": "**FD-classes**: Fréchet distance in the features of a network that "
    "was trained on the class alone, as FID's was.",
    "FD per class": "**FD per class**: the mean over classes of the Fréchet distance "
    "in 16 principal components.",
    "FD reweighted": "**FD reweighted**: {distance} of samples that are weighted to "
    "have the shares of each attribute of real {noun}.",
    "precision": "**precision, density**: whether samples are like real {noun}; "
    "**recall, coverage**: whether all kinds of real {noun} are there; of 5 neighbors.",
    "class accuracy, normalized": "**class right, normalized**: over that of "
    "reconstructions by the same tokenizer.",
    "memorization, features": "**memorization**: how many times as often as held-out "
    "{noun} samples are very near to training {noun} (1: no sign of copies; 20: all "
    "may be).",
    "straightness": "**straightness** of the paths from noise to latents (1: "
    "straight).",
    "excess flow loss": "**excess flow loss**: above that of Gaussian latents of the "
    "same covariance.",
}
# What a record says of a run, and of when it was measured and how; numbers follow.
RUN = ("method", "setting", "seed", "hash")
MEASURED = ("commit", "date", "feature_hash", "class_hash")
# Their names in reports of earlier versions.
FORMER_NAMES = {"size": "setting", "judge": "feature_hash"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked, by which runs, and how the answer is drawn and summarized.

    The `question` is the docstring of the study's script: question and design, and
    commands, which are indented and not in the report.
    """

    name: str
    title: str
    question: str | None
    plan: Callable[[Scale, Sequence[int]], list[RunSpec]]
    figure: Callable[[Sequence[Row], Path, str], None]
    summary: Callable[[Sequence[Row]], list[str]]
    columns: Sequence[Column] = COLUMNS

    def guided(self, guidance: float) -> "Study":
        """The same of guided samples, with a report of its own; 1 is no guidance."""
        if guidance == 1:
            return self
        return self.variant(f"guided_{guidance:g}", f"guidance {guidance:g}")

    def variant(self, name: str, title: str) -> "Study":
        """The same with something changed, which ends its name and its title."""
        return dataclasses.replace(
            self, name=f"{self.name}_{name}", title=f"{self.title}, {title}"
        )

    def sentences(self, rows: Sequence[Row]) -> list[str]:
        """The summary, after how many runs are finished where some are not."""
        done, planned = num_runs(finished_rows(rows)), num_runs(rows)
        if done == planned:
            return self.summary(rows)
        progress = f"{done} of {planned} runs are finished"
        return [f"{progress}; what follows is about those.", *self.summary(rows)]


def write_report(
    study: Study,
    rows: Sequence[Row],
    paths: RunPaths,
    out: Path,
    *,
    command: str,
    seconds: float,
) -> None:
    """Writes `report.md` to `out`, with the study's figure and grids of its runs.

    `runs.json` there has every number, for figures of one's own and `read_records`.
    `command` made the report, and took so many `seconds`.
    """
    figure = out / "figures" / f"{study.name}.png"
    study.figure(rows, figure, study.title)
    differences, generation = differences_table(rows), generation_table(rows)
    kind = rows[0].spec.kind
    question = (study.question or "").strip().split("\n\n")
    parts = [
        f"# {study.title}",
        *(part for part in question if not part.startswith("    ")),
        _origin(rows, command, seconds),
        f"![{study.title}]({figure.relative_to(out)})",
        "\n".join(f"- {sentence}" for sentence in study.sentences(rows)),
        "## Means over seeds",
        "± is half the range over seeds.",
        means_table(rows, study.columns),
        f"{kind.definitions}\n{BUDGETS}",
    ]
    if generation:
        parts += ["## Generation in other numbers", generation, _generation_words(rows)]
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
        runs_table(rows, study.columns),
        unfinished_runs(rows),
        "## Pictures",
        (
            f"Pairs of held-out {kind.noun} and their reconstructions; samples"
            if kind.is_ours
            else "Samples"
        )
        + " in the order of their labels.",
        *_pictures(rows, paths, out),
        "## Settings",
        "<details><summary>Config of the first run</summary>\n\n```json\n"
        f"{as_json(rows[0].spec)}\n```\n\n</details>",
    ]
    records = json.dumps([*map(_record, rows)], indent=1)
    for name, text in (
        ("report.md", "\n\n".join(part for part in parts if part)),
        ("runs.json", records),
    ):
        write_text(out / name, text + "\n")


def rows_of(
    specs: Sequence[RunSpec],
    paths: RunPaths,
    known: Mapping[str, RunResult] = {},
) -> list[Row]:
    """Every run with its result and its training FLOPs, where it is finished.

    "FLOPs" are all that made its tokenizer, "frozen FLOPs" what a frozen network took.
    What `paths` does not have may be `known` by the hash of a run.
    """
    rows = []
    for spec in specs:
        result = RunResult.read(paths, spec)
        if result is None and (of_report := known.get(spec_hash(spec))):
            result = of_report.comparable(paths, spec)
        if result is None:
            rows.append(Row(spec, None))
            continue
        numbers, frozen = dict(result.numbers), vision_flops(spec)
        if spec.vision is not None:
            numbers["frozen FLOPs"] = frozen
        elif spec.adapter is not None:
            numbers["frozen FLOPs"] = run_flops(spec.pretrain)
        numbers["FLOPs"] = run_flops(spec.pretrain) + frozen
        rows.append(Row(spec, dataclasses.replace(result, numbers=numbers)))
    return rows


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
                numbers: dict[str, Any] = {
                    FORMER_NAMES.get(str(k), str(k)): v for k, v in record.items()
                }
                if "commit" in numbers:
                    run = {name: numbers.pop(name) for name in RUN}
                    measured = {n: numbers.pop(n) for n in MEASURED if n in numbers}
                    result = RunResult(numbers=numbers, **measured)
                    found.setdefault(run["hash"], result)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordsError(
                f"`--reuse-results` {path} is not a `runs.json` that a study wrote "
                f"beside its report ({error}): name another, or leave it out."
            ) from error
    return found


def _generation_words(rows: Sequence[Row]) -> str:
    """What the columns of `generation_table` mean."""
    kind, names = rows[0].spec.kind, [one.name for one in generation_columns(rows)]
    return "\n".join(
        f"- {text.format(distance=kind.distance, noun=kind.noun)}"
        for name, text in GENERATION.items()
        if name in names
    )


def _origin(rows: Sequence[Row], command: str, seconds: float) -> str:
    """A paragraph that says by what, where and when a report was made."""
    machine = f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}"
    line = (
        f"`{command}`, drawn at commit `{commit()}`, {machine}, "
        f"{time.strftime('%Y-%m-%d')}: {num_runs(finished_rows(rows))} of "
        f"{num_runs(rows)} runs, {seconds / 60:.0f} minutes in this call (finished "
        "runs are reused)."
    )
    results = [row.result for row in rows if row.result]
    if results:
        commits = ", ".join(sorted({f"`{result.commit}`" for result in results}))
        dates = sorted({result.date for result in results})
        line += f" Runs were measured at {commits}, {dates[0]} to {dates[-1]}."
    return line


def _record(row: Row) -> dict[str, Any]:
    """A run in `runs.json`; what is not finished has no numbers."""
    spec, result = row
    names = (spec.method, spec.setting, spec.seed, spec_hash(spec))
    record: dict[str, Any] = dict(zip(RUN, names, strict=True))
    if result is None:
        return record
    measured = {name: getattr(result, name) for name in MEASURED}
    return record | measured | result.numbers


def _pictures(rows: Sequence[Row], paths: RunPaths, out: Path) -> list[str]:
    """The grids of one run of each method and setting, of which there are any."""
    parts: dict[tuple[str, str], str] = {}
    for row in finished_rows(rows):
        name = row.spec.method, row.spec.setting
        if name not in parts and (lines := _grids(row.spec, paths, out)):
            parts[name] = "\n\n".join([f"### {row.spec.name}", *lines])
    return list(parts.values())


def _grids(spec: RunSpec, paths: RunPaths, out: Path) -> list[str]:
    """The grids of a run, copied to `out` or there already; none of a known result."""
    words = f"{spec.method} {spec.setting} {spec_hash(spec)[:6]}"
    name = re.sub(r"[^\w.+-]+", "_", words)
    files = {"samples": f"samples_{spec.budgets[-1]}.png"}
    if spec.kind.is_ours:
        files = {"reconstructions": "reconstructions.png", **files}
    lines = []
    for kind, file in files.items():
        target = out / "figures" / f"{name}_{kind}.png"
        source = paths.result(spec) / file
        if source.exists():
            shutil.copyfile(source, target)
        if target.exists():
            lines.append(f"![{kind} of {spec.name}](figures/{target.name})")
    return lines
