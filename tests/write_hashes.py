"""Writes the entry of this machine in `golden/hashes.json`: see `test_hashes.py`.

python -m tests.write_hashes [PRESET ...]
"""

# isort: off
import tests.conftest  # noqa: F401 - flags of the tests, before JAX is imported

# isort: on
import json
import sys

from benchmarks.golden_hashes import machine_key, read_hashes, step_hashes, twins
from tests.test_hashes import HASHES
from vtp_eqx.files import atomic_path


def main() -> None:
    key, wanted = machine_key(), sys.argv[1:]
    for config, names in twins().items():
        if wanted and not {*wanted} & {*names}:
            continue
        print(f"{', '.join(names)}", flush=True)
        hashes = step_hashes(config)
        entries = read_hashes(HASHES)  # another machine's, and the presets before
        entries[key] = entries.get(key, {}) | dict.fromkeys(names, hashes)
        with atomic_path(HASHES) as unfinished:
            unfinished.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    print(f"{HASHES}: {key}")


if __name__ == "__main__":
    main()
