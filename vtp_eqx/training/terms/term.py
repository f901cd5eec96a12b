"""What a loss term is, and how several are composed into an objective."""

from collections.abc import Callable
import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vtp_eqx.config import PretrainConfig
from vtp_eqx.training.balance import GradientBalance
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.parameter_counts import encoder_flops
from vtp_eqx.training.pretrain_views import Needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Microbatch:
    """The input of a term's forward pass: rows of a batch, and the models."""

    student: Any
    teacher: Any
    views: Any  # as `make_views` made them
    targets: Any  # as the term's own `teacher_targets` made them
    passes: Any  # the student's passes that terms share; `None` where they share none
    step: Int[Array, ""]
    key: PRNGKeyArray  # the same for all terms: what draws folds in a number of its own
    memory: Any = None  # what terms keep of former batches, by their names


class TermLoss(NamedTuple):
    """The loss of a term and the numbers it logs, each one value or one per row."""

    value: Float[Array, "*rows"]
    monitors: dict[str, Float[Array, "*rows"]]  # by their names in the log


class TermFlops(NamedTuple):
    """Forward FLOPs of a term for one of its images, by what training makes of them."""

    student: float = 0.0  # a backward pass follows, of twice the cost
    teacher: float = 0.0  # none follows
    subset_pass: float = 0.0  # as the student, but terms share this encoder pass
    frozen: float = 0.0  # all passes, both ways, of a network that learns nothing


@runtime_checkable
class Term(Protocol):
    """One loss term; all its methods are pure functions.

    Why `forward` and `loss` are two: see `vtp_eqx.training.microbatches`.
    """

    name: ClassVar[str]  # of its loss in the log, and of its weight

    @property
    def weight(self) -> float:
        """The weight of its mean in the total; 0 leaves the term out."""
        return 1.0

    def teacher_targets(self, teacher: Any, views: Any, step: Int[Array, ""]) -> Any:
        """The teacher's targets for all microbatches, stacked along a leading axis.

        A pytree of arrays, by default none. May reduce over `mesh.DATA`; gets no
        gradient.
        """
        return None

    def forward(self, rows: Microbatch) -> Any:
        """The outputs of some rows that `loss` needs: float arrays, rows first.

        May not depend on other rows, and is as small as possible.
        """
        ...

    def loss(self, student: Any, outputs: Any) -> TermLoss:
        """The loss of all rows of a device, given what `forward` returned of them.

        By default that is the loss already. The step averages it over rows and devices;
        where a row's loss needs the global batch, this reduces over `mesh.DATA`.
        """
        return TermLoss(outputs, {})

    def make_memory(self) -> Any:
        """What it keeps of former batches, before the first; by default nothing."""
        return None

    def remember(self, outputs: Any, memory: Any) -> Any:
        """What it keeps for the next step, given the outputs of the global batch."""
        return memory


class ViewsAndTargets(eqx.Module):
    """Views, and of each term the teacher's targets on them."""

    views: Any
    targets: tuple[Any, ...]


def compose(
    terms: tuple[Term, ...],
    make_views: Callable[[Any, PRNGKeyArray], Any],
    *,
    make_passes: Callable[[Any, Any, PRNGKeyArray], Any] = lambda *_: None,
) -> Objective:
    """The objective of learning all `terms` at once from the same views.

    `make_passes(student, views, key)` returns what terms share of a microbatch; it
    should compute each part of it when a term first asks.
    """

    def add_teacher_targets(
        teacher: Any, views: Any, step: Int[Array, ""]
    ) -> ViewsAndTargets:
        targets = [term.teacher_targets(teacher, views, step) for term in terms]
        return ViewsAndTargets(views, tuple(targets))

    def forward(
        student: Any,
        teacher: Any,
        rows: ViewsAndTargets,
        step: Int[Array, ""],
        key: PRNGKeyArray,
        memory: Any = None,
    ) -> tuple[Any, ...]:
        passes = make_passes(student, rows.views, key)
        of_term = lambda targets: Microbatch(
            student=student, teacher=teacher, views=rows.views, targets=targets,
            passes=passes, step=step, key=key, memory=memory,
        )  # fmt: skip
        return tuple(
            term.forward(of_term(targets))
            for term, targets in zip(terms, rows.targets, strict=True)
        )

    def loss(
        student: Any, outputs: tuple[Any, ...]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        losses, monitors = {}, {}
        for term, output in zip(terms, outputs, strict=True):
            losses[term.name], of_term = term.loss(student, output)
            monitors |= of_term
        return losses, monitors

    def remember(outputs: tuple[Any, ...], memory: dict[str, Any]) -> dict[str, Any]:
        return {
            term.name: term.remember(output, memory[term.name])
            for term, output in zip(terms, outputs, strict=True)
            if term.name in memory
        }

    return Objective(make_views, forward, loss, add_teacher_targets, remember)


def first_memory(terms: tuple[Term, ...]) -> dict[str, Any] | None:
    """What all terms keep before the first step; `None` where none keeps anything."""
    kept = {term.name: term.make_memory() for term in terms}
    return {name: one for name, one in kept.items() if one is not None} or None


@dataclasses.dataclass(frozen=True)
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
    def balance(self) -> GradientBalance | None:
        """What its weight follows in each step; by default it stays as it is."""
        return None

    @property
    def batch_size(self) -> int:
        """How many images of each batch it learns from."""
        return getattr(self.config, self.batch)

    def check(self) -> None:
        """Raises `ValueError` where what it learns from is missing."""

    def draw(self, key: PRNGKeyArray) -> Any:
        """What it draws at random: arrays with a row for each image of `batch_size`.

        They are in `views.draws`. Drawn of the whole batch at once, so that they depend
        on no number of devices or microbatches; by default none.
        """
        return None

    def make_head(self, key: PRNGKeyArray) -> Any:
        """What the student trains for this term alone: one of its `heads`."""
        return None

    def flops(self) -> TermFlops:
        """The cost of one of its images."""
        ...


class SubsetTerm(PretrainTerm):
    """A term of the images that are reconstructed, in the pass that terms share."""

    batch: ClassVar[str] = "reconstruction_batch"
    needs: ClassVar[Needs] = Needs.SUBSET

    @property
    def encoder_flops(self) -> float:
        """Of encoding one of them."""
        tokenizer = self.config.tokenizer
        return encoder_flops(tokenizer, tokenizer.image_size)

    def flops(self) -> TermFlops:
        return TermFlops(subset_pass=self.encoder_flops)

    def latent_noise(
        self, key: PRNGKeyArray
    ) -> Float[Array, "rebuilt rows columns channels"]:
        """White noise, as many numbers as the latents of all of them have."""
        tokenizer = self.config.tokenizer
        side = tokenizer.image_size // tokenizer.patch_size
        return jr.normal(key, (self.batch_size, side, side, tokenizer.latent_width))
