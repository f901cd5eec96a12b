"""Hashes of the first steps of each preset's tiny twin, and of what they depend on.

python -m tests.write_hashes [PRESET ...]

Writes the entry of this machine in `golden/hashes.json`: see `test_hashes.py`.
"""

# isort: off
import tests.conftest  # noqa: F401 - flags of the tests, before JAX is imported

# isort: on
import hashlib
from importlib.metadata import version
import json
import os
from pathlib import Path
import platform
import sys

import equinox as eqx
import jax

from benchmarks.tiny_twins import Config, init_twin, tiny_twin, twin_batch
from vtp_eqx.config import presets
from vtp_eqx.files import atomic_path
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.arrays import arrays_hash, named_arrays


HASHES = Path(__file__).parent / "golden" / "hashes.json"
NUM_STEPS = 3
# Beginnings of names of instruction sets, and of flags that choose how to compile.
_VECTORS = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "asimd", "sve")
_FLAGS = ("xla_backend", "xla_cpu", "xla_llvm", "xla_gpu")


def twins() -> dict[Config, list[str]]:
    """The tiny twins, and the presets that each is the twin of."""
    found: dict[Config, list[str]] = {}
    for name, preset in sorted(vars(presets).items()):
        if isinstance(preset, Config):
            found.setdefault(tiny_twin(preset), []).append(name)
    return found


def step_hashes(config: Config) -> dict[str, str]:
    """Hashes after each of the first steps of a training on one device.

    Of the student and of the moments of its gradients, which after the first step are
    that gradient times a number, and its square.
    """
    mesh = data_mesh(1)
    state, step = init_twin(config, mesh)
    found = {}
    for number in range(NUM_STEPS):
        batch = shard_batch(twin_batch(config, number), mesh)
        state, _ = step(state, batch)
        for name in ("student", "opt_state"):
            arrays = named_arrays(eqx.filter(getattr(state, name), eqx.is_array))
            found[f"{name} {number + 1}"] = arrays_hash(arrays)
    return found


def read_hashes() -> dict[str, dict[str, dict[str, str]]]:
    """By machine, then by preset, what `step_hashes` gave there."""
    return json.loads(HASHES.read_text())


def machine_key() -> str:
    """What the bits of a step depend on here, as text.

    Versions, the kind of device, and flags of the compiler. On CPUs also the processor
    and its vector instructions: with `--xla_cpu_max_isa=SSE4_2`, exponentials and layer
    norms have other bits than with AVX2. The number of cores is left out: on one and on
    two, products, sums and exponentials had the same.
    """
    device = jax.devices()[0]
    parts = [f"jax {jax.__version__}", f"jaxlib {version('jaxlib')}"]
    parts += [device.platform, device.device_kind, platform.machine()]
    if device.platform == "cpu":
        parts.append(f"processor {_processor()}")
    flags = os.environ.get("XLA_FLAGS", "").replace("--", "").split()
    parts += sorted({flag for flag in flags if flag.startswith(_FLAGS)})
    return ", ".join(parts)


def _processor() -> str:
    """Maker, family and model of the processor; a hash of its vector instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    names = ("vendor_id", "cpu family", "model")
    kind = "-".join(fields.get(name, "") for name in names)
    flags = fields.get("flags", fields.get("Features", "")).split()
    flags = " ".join(sorted(flag for flag in flags if flag.startswith(_VECTORS)))
    digest = hashlib.sha256(flags.encode()).hexdigest()[:8]
    return f"{kind} {digest}"


def main() -> None:
    key, wanted = machine_key(), sys.argv[1:]
    for config, names in twins().items():
        if wanted and not {*wanted} & {*names}:
            continue
        print(f"{', '.join(names)}", flush=True)
        hashes = step_hashes(config)
        entries = read_hashes()  # another machine's, and the presets before
        entries[key] = entries.get(key, {}) | dict.fromkeys(names, hashes)
        with atomic_path(HASHES) as unfinished:
            unfinished.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    print(f"{HASHES}: {key}")


if __name__ == "__main__":
    main()
