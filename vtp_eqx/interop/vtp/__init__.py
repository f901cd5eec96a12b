"""Published checkpoints to our modules and back, by one table of names.

The published layout is that of the safetensors files and `config.json` of
MiniMaxAI/VTP-*-f16d64 (MiniMax-AI/VTP 5ce1eb6): channels before rows and columns,
convolutions where this library has linear maps, one tensor per block.
"""

from vtp_eqx.interop.vtp.checkpoint import (
    tokenizer_from_published as tokenizer_from_published,
    tokenizer_outputs as tokenizer_outputs,
    tokenizer_to_published as tokenizer_to_published,
)
from vtp_eqx.interop.vtp.settings import (
    config_from_published as config_from_published,
    config_to_published as config_to_published,
)
