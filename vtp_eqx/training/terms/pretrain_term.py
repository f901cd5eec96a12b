"""What a term of a pre-training says beside its loss."""

from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray

from vtp_eqx.config import PretrainConfig
from vtp_eqx.training.pretrain_views import Needs
from vtp_eqx.training.terms.term import Term


class PretrainTerm(Term):
    """A term whose student is a `Pretrainer` and whose views are `PretrainViews`."""

    config: PretrainConfig
    batch: ClassVar[str]  # the field of the config that says from how many images
    needs: ClassVar[Needs]  # the views that are made for it
    has_teacher: ClassVar[bool] = False

    @property
    def weight(self) -> float:
        return self.config.term_weights.get(self.name, 0.0)

    @property
    def batch_size(self) -> int:
        """How many images of each batch it learns from."""
        return getattr(self.config, self.batch)

    def check(self) -> None:
        """Raises `ValueError` where what it learns from is missing."""

    def make_head(self, key: PRNGKeyArray) -> Any:
        """What the student trains for this term alone: one of its `heads`."""
        return None
