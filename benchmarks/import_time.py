"""What `import vtp_eqx` costs in a fresh process, beside the libraries it stands on.

python -m benchmarks.import_time
"""

import os
import statistics
import subprocess
import sys
import timeit

from benchmarks.table import print_table


LIMIT = 3.0  # seconds that `import vtp_eqx` may take
STATEMENTS = ("pass", "import numpy", "import jax", "import equinox, optax")
OURS = "import vtp_eqx"


def import_seconds(statement: str, *, repeats: int = 5) -> float:
    """The median wall time of a Python process that runs one statement.

    A first run, not counted, writes the compiled files, as on a user's second day.
    """
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", statement]
    start = lambda: subprocess.run(command, env=environment, check=True)
    times = timeit.repeat(start, number=1, repeat=repeats + 1)
    return statistics.median(times[1:])


def main() -> None:
    seconds = {name: import_seconds(name) for name in (*STATEMENTS, OURS)}
    base = seconds["import jax"]
    rows = [
        (name, f"{value:.2f}", f"{value / base:.2f}") for name, value in seconds.items()
    ]
    print_table("Import time", ("process", "median s", "of `import jax`"), rows)
    verdict = "within" if seconds[OURS] <= LIMIT else "over"
    print(f"\n`{OURS}` is {verdict} its limit of {LIMIT:.0f} s.")


if __name__ == "__main__":
    main()
