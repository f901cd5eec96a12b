"""Visual tokenizer pre-training: latents that are good to generate on.

Shapes and types of every public function are checked when it is traced, so that a wrong
input fails at once and names the axis. After compilation the checks cost nothing.
"""

from jaxtyping import install_import_hook


# Stays installed: it checks the modules of this package alone, and must come before
# the first of them is imported.
install_import_hook(
    "vtp_eqx", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

__version__ = "0.1.0"
