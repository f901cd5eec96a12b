"""Eight simulated devices, quick compilation, one hypothesis profile, fresh keys."""

import os
from pathlib import Path


# Before JAX is imported anywhere: it reads these once. Compiling takes most of the time
# of tests: LLVM's expensive passes are left out, and XLA's newer emitters of fusions,
# which take twice as long; a program is one part, not one for each of many cores, and
# its copies are found region by region: together a third off the largest step. What one
# process compiled serves the others and the next time.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Every core runs tests already: threads of NumPy's products would wait for one another,
# and a linear probe take ten times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    " --xla_cpu_copy_insertion_use_region_analysis=true"
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).parent.parent / ".pytest_cache" / "compiled"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

from collections.abc import Callable
import gc
import itertools

import hypothesis
import jax.random as jr
from jaxtyping import PRNGKeyArray
import pytest


# Each new shape compiles anew, so examples are few, free of deadlines and always the
# same: draw shapes with `sampled_from` and values from an integer seed.
hypothesis.settings.register_profile(
    "vtp_eqx",
    max_examples=25,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
    ],
)
hypothesis.settings.load_profile("vtp_eqx")


# The files that take longest, for one of them begun last would keep one process busy
# while the others have nothing left to do.
TESTS = Path(__file__).parent
LONGEST = [
    TESTS / name
    for name in (
        "study/test_recipe.py",
        "training/test_presets.py",
        "test_quickstart.py",
        "test_hashes.py",
        "runs/test_multihost.py",
        "study/test_emoji_data.py",
        "runs/test_survive.py",
        "training/test_step.py",
        "experiments/test_evaluate.py",
        "experiments/test_pretrain.py",
        "training/test_pretrain_objective.py",
        "training/terms/test_alignment.py",
        "training/test_precision.py",
        "runs/test_finetune_decoder.py",
        "training/terms/test_controls.py",
    )
]


def pytest_configure(config: pytest.Config) -> None:
    """The order below is kept: xdist would begin with the files of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others as they were found."""
    assert all(path.is_file() for path in LONGEST)
    place = {path: number for number, path in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """What was imported stays to the end: no garbage collection looks at it again.

    Traced programs are many objects, which live: the others are looked for less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture
def getkey() -> Callable[[], PRNGKeyArray]:
    """A function that returns a new key each time, the same ones in every run."""
    counter = itertools.count()
    return lambda: jr.fold_in(jr.key(0), next(counter))
