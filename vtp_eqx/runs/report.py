"""The report of a pre-training: what was run, what came out, and what went wrong."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from vtp_eqx.data.bad_examples import read_bad_examples
from vtp_eqx.files import atomic_path
from vtp_eqx.runs.log import read_log


def write_report(
    folder: Path, numbers: Mapping[str, float], *, command: str, text: str
) -> None:
    """Writes `report.md` from what is in the folder of a run.

    - `numbers`: of the finished tokenizer; what they depend on is in `card.json`.
    - `text`: a sentence or two on what was run.
    """
    lines = read_log(folder / "metrics.jsonl")
    last = {} if not lines else {**lines[-1]}
    grids = sorted((folder / "figures").glob("reconstructions-*.png"))
    pictures = [("curves", folder / "figures" / "curves.png")]
    pictures += [("images, and what came back of them", path) for path in grids[-1:]]
    parts = [
        "# A pre-trained tokenizer",
        f"`{command}`",
        f"{text} {_problems(folder, last)}",
        _table("the finished tokenizer", numbers),
        "What they depend on is in [card.json](card.json). They are for curves; those "
        "for comparisons are made by `experiments/evaluate.py`.",
        *(
            f"![{title}]({path.relative_to(folder)})"
            for title, path in pictures
            if path.exists()
        ),
        _table("the last line of the log", last),
    ]
    with atomic_path(folder / "report.md") as unfinished:
        unfinished.write_text("\n\n".join(parts) + "\n")


def _problems(folder: Path, last: Mapping[str, float]) -> str:
    counts = Counter(
        bad.skipped
        for path in folder.glob("bad_examples-*.jsonl")
        for bad in read_bad_examples(path)
    )
    return (
        f"{counts[True]} unreadable examples, {counts[False]} repaired, "
        f"{last.get('num_skipped', 0):.0f} steps skipped, "
        f"{last.get('rollbacks', 0):.0f} rollbacks."
    )


def _table(title: str, numbers: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.5g} |" for name, value in numbers.items()]
    return "\n".join([f"| {title} | |", "|---|---|", *rows])
