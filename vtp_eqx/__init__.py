"""Visual tokenizer pre-training: latents that are good to generate on.

Shapes and types of every public function are checked when it is traced, so that a wrong
input fails at once and names the axis. After compilation the checks cost nothing.
"""

from vtp_eqx import interrupts as interrupts  # isort: skip - before what takes seconds

# A library that is first imported by a checked module is compiled again under the
# checker's cache name, which takes seconds: the large ones come before the hook.
import beartype  # noqa: F401
import equinox  # noqa: F401
from jaxtyping import install_import_hook
import optax  # noqa: F401


# Stays installed: it checks the modules of this package alone, and must come before
# the first of them is imported. An integer is accepted where a float is due.
install_import_hook(
    "vtp_eqx", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

__version__ = "0.1.0"
