"""Tensors from files that `torch.save` wrote, of which nothing is executed."""

from vtp_eqx.torch_files.legacy import (
    is_torch_legacy as is_torch_legacy,
    read_torch_legacy as read_torch_legacy,
)
from vtp_eqx.torch_files.program import StoredTensor as StoredTensor
from vtp_eqx.torch_files.zipped import TorchFile as TorchFile
