"""The commit that a study or a benchmark was run at."""

import functools
from pathlib import Path
import subprocess


ROOT = Path(__file__).parents[2]
CODE = ("vtp_eqx", "experiments", "benchmarks")


@functools.cache
def commit() -> str:
    """The commit of the code when first asked, or "unknown" outside of a checkout.

    With "-dirty" after it where code had been changed; reports in the checkout do not
    count.
    """
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()
