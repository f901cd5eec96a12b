"""Runs the failed steps of a pre-training again, from its postmortem."""

import dataclasses
from pathlib import Path
import tempfile

from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.runs.pretrain_setup import reopen_pretraining
from vtp_eqx.runs.recovery import read_postmortem, replay
from vtp_eqx.training.pretrain import initial_state, pretrain_step


def replay_pretraining(folder: Path) -> None:
    """Prints the metrics of the failed steps, as they were and as they are here.

    `folder` is one of a run's `postmortem`. Runs on one device.
    """
    report = read_postmortem(folder)
    with exit_with_message(ValueError, ImportError):
        setup = reopen_pretraining(folder.absolute().parent.parent)
    template = initial_state(setup.config, None)
    step = pretrain_step(setup.config, template, setup.mesh, setup.perceptual)
    # Bad examples were logged by the run itself.
    with tempfile.TemporaryDirectory() as scratch:
        batches = dataclasses.replace(setup.batches, folder=Path(scratch))
        again = replay(folder, template, step, batches, setup.mesh)
    print(f"{report['why']}\nState: {report['state']}.")
    for then, now in zip(report["bad"], again, strict=True):
        print(f"step {then['step']}, batch {then['batch']}, rows {then['rows']}")
        for name, value in now.metrics.items():
            print(f"  {name:20} then {then['metrics'].get(name)}  now {value:.6g}")
