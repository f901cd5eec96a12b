import ast
import dataclasses
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import ReconstructionConfig
from vtp_eqx.training.pretrain import needs_of, pretrain_terms, text_config
from vtp_eqx.training.pretrain_views import Needs
from vtp_eqx.training.terms.term import compose, Microbatch, Term, TermFlops, TermLoss


ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Shifted(Term):
    """Says how far the student's number is from the rows and from the teacher."""

    by: float
    name: ClassVar[str] = "shifted"

    @property
    def weight(self) -> float:
        return 1.0

    def teacher_targets(self, teacher, views, step):
        return views + teacher + self.by

    def forward(self, rows: Microbatch):
        assert rows.passes == "shared"
        return rows.targets - rows.student

    def loss(self, student, outputs) -> TermLoss:
        return TermLoss(outputs**2, {"distance": outputs})

    def flops(self) -> TermFlops:
        return TermFlops(student=1.0)


@dataclasses.dataclass(frozen=True)
class Plain(Shifted):
    """Has no targets."""

    name: ClassVar[str] = "plain"

    def teacher_targets(self, teacher, views, step):
        return Term.teacher_targets(self, teacher, views, step)

    def forward(self, rows: Microbatch):
        assert rows.targets is None
        return rows.views * rows.student

    def loss(self, student, outputs) -> TermLoss:
        return TermLoss(outputs, {})


def test_each_of_some_terms_gets_its_own_targets_and_outputs():
    made = []
    objective = compose(
        (Shifted(0.5), Plain(0.0)),
        lambda batch, key: 2 * batch,
        make_passes=lambda student, views, key: made.append(views) or "shared",
    )
    step = jnp.zeros((), jnp.int32)
    views = objective.make_views(jnp.arange(3.0), jr.key(0))
    rows = objective.add_teacher_targets(10.0, views, step)
    outputs = objective.forward(3.0, 10.0, rows, step, jr.key(0))
    losses, monitors = objective.loss(3.0, outputs)
    away = np.array([7.5, 9.5, 11.5])  # 2 * row + 10 + 0.5 - 3
    np.testing.assert_allclose(losses["shifted"], away**2)
    np.testing.assert_allclose(losses["plain"], [0, 6, 12])
    assert monitors.keys() == {"distance"}
    np.testing.assert_allclose(monitors["distance"], away)
    assert len(made) == 1  # passes are shared


def test_terms_without_weight_are_left_out(tiny):
    names = lambda config: [term.name for term in pretrain_terms(config)]
    assert names(tiny) == ["contrast", "distillation", "reconstruction"]
    rebuilt = dataclasses.replace(
        tiny, contrast_weight=0.0, distillation_weight=0.0, smoothness_weight=0.2
    )
    assert names(rebuilt) == ["smoothness", "reconstruction"]
    assert [term.weight for term in pretrain_terms(rebuilt)] == [0.2, 0.1]
    assert needs_of(pretrain_terms(rebuilt)) == Needs.SUBSET
    assert text_config(rebuilt) is None
    assert text_config(tiny) is tiny.tokenizer.text
    looking = ReconstructionConfig(perceptual_weight=0.5)
    assert (looking.uses_perceptual, tiny.reconstruction.uses_perceptual) == (
        True,
        False,
    )


WEIGHTS = {
    f"{name}_weight"
    for name in (
        "alignment", "continuity", "contrast", "correlation", "distillation", "kl",
        "perceptual", "reconstruction", "rotation", "scale", "smoothness",
    )
}  # fmt: skip


def weights_compared(source: str) -> list[int]:
    """Lines that compare the weight of a loss term with something."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(part, ast.Attribute) and part.attr in WEIGHTS
            for side in (node.left, *node.comparators)
            for part in ast.walk(side)
        )
    ]


@pytest.mark.parametrize("folder", ["vtp_eqx", "experiments", "benchmarks"])
def test_only_the_config_asks_which_terms_have_a_weight(folder):
    config = ROOT / "vtp_eqx" / "config"
    for path in (ROOT / folder).rglob("*.py"):
        if config not in path.parents:
            assert not weights_compared(path.read_text()), path


def test_a_compared_weight_is_seen():
    assert weights_compared("if self.config.contrast_weight > 0: pass") == [1]
    assert weights_compared("a.smoothness_weight * b.l1_weight == 0") == [1]
