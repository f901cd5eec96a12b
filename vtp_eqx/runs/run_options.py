"""The options of every training: where it goes, how it is logged, kept and watched."""

import dataclasses

from vtp_eqx.config import require_fields
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.loop import FaultTolerance


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What pre-trainings and trainings of generators have in common."""

    out: str
    """The folder of the run."""
    split: str = ""
    """Of prepared data sets that name none, such as 'train'."""
    log_every: int = 50
    save_every: int = 1000
    evaluate_every: int
    """Steps between two evaluations; there is one at the end too."""
    keep: int = 2
    keep_best: int
    """Checkpoints kept beside the last: those that were evaluated best."""
    max_rollbacks: int = 3
    """How often the run may return to a checkpoint after steps that failed."""
    stall_seconds: float = 1800.0
    exit_on_stall: bool = False
    """End a run that has stalled, so that whoever started it can start it again."""
    workers: int
    """Threads that read and decode."""
    devices: int | None = None
    distributed: bool = False
    """One of several processes, as the cluster's environment says."""
    dry_run: bool = False
    """Print what the run will be, and end."""

    def __post_init__(self):
        require_local_fields(self)
        require_fields(
            self, "1 or more", "log_every", "save_every", "evaluate_every", "keep",
            "workers",
        )  # fmt: skip
        require_fields(self, "0 or more", "keep_best", "max_rollbacks")
        require_fields(self, "positive", "stall_seconds")

    @property
    def fault_tolerance(self) -> FaultTolerance:
        """Which checkpoints are kept, and what is done about failures and stalls."""
        return FaultTolerance(
            keep=self.keep,
            keep_best=self.keep_best,
            max_rollbacks=self.max_rollbacks,
            stall_seconds=self.stall_seconds,
            exit_on_stall=self.exit_on_stall,
        )
