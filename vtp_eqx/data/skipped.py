"""Files of a data set that are not read, counted and named by reason."""

from collections.abc import Collection, Sequence
import dataclasses

from vtp_eqx.config import printable


# What file servers, desktops and notebooks put beside images, in lower case; the
# folders hold smaller or deleted copies of them.
SYSTEM_NAMES = frozenset({
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recycle", "@tmp", "__macosx",
    ".@__thumb", ".appledouble", ".ipynb_checkpoints", ".thumbnails", "@__thumb",
    "desktop.ini", "ehthumbs.db", "lost+found", "picasa.ini",
    "system volume information", "thumbs.db",
})  # fmt: skip
_NUM_NAMES = 5  # in a sentence


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Files that a source leaves out for one reason; `names` may be the first alone."""

    reason: str
    count: int
    names: Sequence[str]

    def without(self, names: Collection[str]) -> "Skipped":
        """The same without some names."""
        left = [name for name in self.names if name not in names]
        return Skipped(self.reason, self.count - len(self.names) + len(left), left)

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.names[:_NUM_NAMES]) else ""
        names = ", ".join(map(printable, self.names[:_NUM_NAMES]))
        return f"{self.count} {self.reason}: {names}{more}"


def skipped_of(source: object) -> tuple[Skipped, ...]:
    """The files that a source leaves out, by reason; none where it does not say."""
    return tuple(one for one in getattr(source, "skipped", ()) if one.count)
