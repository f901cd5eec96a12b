"""One run in a process of its own.

python -m vtp_eqx.study.worker ROOT FOLDER STUDY [CORE]
"""

import json
import os
from pathlib import Path
import signal
import sys
import threading
import time

from vtp_eqx.config import from_dict
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.run_spec import RunPaths, RunSpec
from vtp_eqx.study.scheduler import ProgressWriter, SECONDS_TO_SAVE
from vtp_eqx.study.stages import execute_run


def main(root: str, folder: str, study: str, core: str | None = None) -> None:
    """Executes the run described by `spec.json` in `folder`, on one core if given.

    Ends with the process `study` that started it, however that ended: a worker that
    went on alone would compete with those of the next call.
    """
    watcher = threading.Thread(target=_end_after, args=[int(study)], daemon=True)
    watcher.start()
    commit()  # of what is being run, wherever the checkout goes meanwhile
    if core is not None:
        # Before the first computation: XLA makes as many threads as it sees cores.
        os.sched_setaffinity(0, {int(core)})
    spec = from_dict(RunSpec, json.loads((Path(folder) / "spec.json").read_text()))
    execute_run(
        spec, RunPaths(Path(root)), ProgressWriter(Path(folder) / "progress.json")
    )


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
