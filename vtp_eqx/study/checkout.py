"""The commit that a study or a benchmark was run at."""

import functools
from pathlib import Path
import subprocess


ROOT = Path(__file__).parents[2]
CODE = ("vtp_eqx", "experiments", "benchmarks")


@functools.cache
def commit() -> str:
    """The commit the code was at when first asked, or "unknown" outside of a checkout.

    Behind it "-dirty", where code had been changed; a study may well write its report
    into the checkout.
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
