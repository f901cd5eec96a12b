"""Damaged files through every public reader: each ends in a number or in a sentence.

python -m benchmarks.fuzz --count 10000
python -m benchmarks.fuzz --reader weights --case 123  # one, with its traceback

Files are made as this library writes them and then damaged, mostly inside of headers
whose frame stays whole: see `benchmarks.fuzz_mutations` and `benchmarks.fuzz_readers`.
A case is a function of seed, reader and number. What must not come out: a traceback
(any error but one sentence of a user's kind), a hang, a process that ends, more than
2 GiB of memory, or code that a file has run.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
from pathlib import Path
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback


LIMIT_SECONDS, LIMIT_MIB = 20.0, 2048  # of the processor; above what was in use
# Without an answer: of a case, and while libraries load and sound files are made.
_SILENT_SECONDS, _BEGIN_SECONDS = 120.0, 600.0
_ROOM = 5 * 2**30  # of addresses, beyond what a worker has: the machine is shared
_LONGEST = 1500  # characters of a sentence
OUTCOMES = ("number", "sentence", "traceback", "hang", "memory", "ended", "executed")
GOOD = OUTCOMES[:2]
# How many of so many files go through each reader.
SHARES = {
    "images": 20, "folder": 6, "tar": 17, "index of a tar": 1, "npz of images": 8,
    "reference .npz": 6, "samples": 4, "classes, templates": 4, "vocabulary": 3,
    "tokenizer": 2, "published tokenizer": 2, "diffusers folder": 2, "generator": 2,
    "published generator": 2, "weights": 10, "latents": 3, "latents of bytes": 1,
    "LightningDiT latents": 3, "run": 1, "checkpoint": 1, "resumed checkpoint": 1,
    "card": 3,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """What came out of one damaged file."""

    reader: str
    number: int
    outcome: str
    seconds: float = 0.0  # of the processor
    mib: float = 0.0  # at most, above what was there before
    what: str = ""  # the file, and the error


def fuzz(
    count: int, *, seed: int = 0, readers: Sequence[str] = (), folder: Path
) -> Iterator[Case]:
    """Cases of all readers, or of those named, by their weights; `count` in all.

    They are done by a process of its own, which is begun anew where it hangs or ends.
    """
    left = [*_cases(count, readers)]
    while left:
        worker = _start(folder, seed, left)
        for case in _answers(worker, left, folder):
            left.pop(0)
            yield case
        worker.kill()
        worker.wait()


def _cases(count: int, readers: Sequence[str]) -> Iterator[tuple[str, int]]:
    chosen = {name: SHARES[name] for name in readers or SHARES}
    whole, share = sum(chosen.values()), 0.0
    for name, weight in chosen.items():
        before, share = share, share + count * weight / whole
        for number in range(round(share) - round(before)):
            yield name, number


def _start(folder: Path, seed: int, cases: list[tuple[str, int]]) -> subprocess.Popen:
    (folder / "cases.json").write_text(json.dumps([seed, cases]))
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    with (folder / "stderr.txt").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz", "--worker", str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip


def _answers(
    worker: subprocess.Popen, cases: list[tuple[str, int]], folder: Path
) -> Iterator[Case]:
    """What a worker says, and what its silence means."""
    lines: queue.Queue[bytes] = queue.Queue()  # the last one is empty

    def read() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    wait = _BEGIN_SECONDS
    for reader, number in [*cases]:
        try:
            while (line := lines.get(timeout=wait)).startswith(b"ma"):
                wait = _BEGIN_SECONDS if line == b"making\n" else _SILENT_SECONDS
        except queue.Empty:
            yield Case(reader, number, "hang", wait)
            return
        wait = _SILENT_SECONDS
        if not line:
            log = (folder / "stderr.txt").read_text(errors="replace")
            what = f"status {worker.wait()}: {log[-300:]}"
            yield Case(reader, number, "ended", what=what)
            return
        yield Case(reader, number, **json.loads(line))


def work(folder: Path) -> None:
    """Does all cases of `cases.json`, and prints a line of JSON for each."""
    seed, cases = json.loads((folder / "cases.json").read_text())
    sound: dict[str, Path] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    for reader, number in cases:
        if reader not in sound:
            print("making", file=answers, flush=True)
            sound[reader] = make_sound(reader, folder / "sound" / str(os.getpid()))
            limit_memory()
            print("made", file=answers, flush=True)
        case = run_case(reader, number, seed, sound[reader], folder)
        fields = dataclasses.asdict(case)
        del fields["reader"], fields["number"]
        answers.write(json.dumps(fields) + "\n")
        answers.flush()


def make_sound(reader: str, folder: Path) -> Path:
    """The sound files of a reader, which are read twice: the first time warms up."""
    from benchmarks.fuzz_readers import READERS

    place = folder / reader.replace(" ", "_")
    place.mkdir(parents=True)
    READERS[reader].make(place)
    for _ in range(2):
        READERS[reader].open(place)
    return place


def limit_memory() -> None:
    """No more addresses than a few gigabytes beyond those in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * os.sysconf("SC_PAGE_SIZE") + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def run_case(
    reader: str,
    number: int,
    seed: int,
    sound: Path,
    folder: Path,
    *,
    is_alone: bool = False,
) -> Case:
    """Damages a copy of sound files, and reads them."""
    from benchmarks.fuzz_readers import READERS

    place, marker = folder / "case", folder / "executed"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
    rng = random.Random(f"{seed} {reader} {number}")
    name = READERS[reader].mutate(place, rng, str(marker))
    before, begun = _memory("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    outcome, what = "number", ""
    try:
        READERS[reader].open(place)
    except BaseException as error:
        if is_alone:
            traceback.print_exc()
        outcome = "sentence" if is_sentence(error) else "traceback"
        at = traceback.extract_tb(error.__traceback__)[-1]
        what = (
            f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {error}"
        )
    seconds, mib = time.process_time() - begun, (_memory("VmHWM") - before) / 1024
    if mib > LIMIT_MIB:
        outcome = "memory"
    if seconds > LIMIT_SECONDS:
        outcome = "hang"
    if marker.exists():
        marker.rmdir()
        outcome = "executed"
    what = f"{name}: {what}"[:400].encode("utf-8", "replace").decode()
    return Case(reader, number, outcome, seconds, mib, what)


def is_sentence(error: BaseException) -> bool:
    """Whether an error is one sentence, of a kind that scripts show as it is."""
    text = _text(error)
    of_user = isinstance(error, ValueError | OSError) and type(error).__name__ not in (
        "JSONDecodeError", "UnicodeDecodeError", "UnicodeEncodeError"
    )  # fmt: skip
    is_short = len(text) <= _LONGEST and text.endswith(".")
    return of_user and is_short and text.isprintable()


def _text(error: BaseException) -> str:
    """The text of an error; of one whose text cannot be made, its type."""
    try:
        return str(error)
    except Exception as another:
        return f"an error whose words are another one: {type(another).__name__}"


def _memory(name: str) -> int:
    """Kibibytes, as the system counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise ValueError(f"The system counts no {name} for this process.")


def main() -> None:
    from benchmarks.table import print_table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", default=[])
    parser.add_argument("--case", type=int, help="this one alone, of one reader")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.case is not None:
            if len(options.reader) != 1:
                parser.error("--case is of one reader: name it with --reader.")
            reader = options.reader[0]
            sound = make_sound(reader, folder / "sound")
            limit_memory()
            case = run_case(
                reader, options.case, options.seed, sound, folder, is_alone=True
            )
            print(case)
            raise SystemExit(case.outcome not in GOOD)
        begun, cases = time.monotonic(), []
        for case in fuzz(
            options.count, seed=options.seed, readers=options.reader, folder=folder
        ):
            cases.append(case)
            if case.outcome not in GOOD:
                print(
                    f"{case.outcome}: {case.reader} {case.number}: {case.what}",
                    flush=True,
                )
        seconds = time.monotonic() - begun
    rows = []
    for reader in dict.fromkeys(case.reader for case in cases):
        own = [case for case in cases if case.reader == reader]
        counts = Counter(case.outcome for case in own)
        rows.append((
            reader, str(len(own)), *(str(counts[outcome]) for outcome in OUTCOMES),
            f"{sum(case.seconds for case in own):.1f}",
            f"{max(case.seconds for case in own):.1f}",
            f"{max(case.mib for case in own):.0f}",
        ))  # fmt: skip
    columns = ("reader", "files", *OUTCOMES, "all s", "slowest s", "most MiB")
    print_table(f"{len(cases)} damaged files, seed {options.seed}", columns, rows)
    print(f"\n{seconds:.0f} s in all")
    if any(case.outcome not in GOOD for case in cases):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
