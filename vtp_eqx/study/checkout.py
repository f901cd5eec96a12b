"""Which code a study was made by."""

import functools
from pathlib import Path
import subprocess


@functools.cache
def commit() -> str:
    """The commit the code was at when first asked, or "unknown" outside of a checkout.

    Behind it "-dirty", where files had been changed.
    """
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always"]
    try:
        return subprocess.run(
            [*describe, "--dirty", "--exclude=*"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
