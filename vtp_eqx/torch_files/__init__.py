"""Tensors from and to files of `torch.save`, of which nothing is executed."""

from vtp_eqx.torch_files.legacy import (
    is_torch_legacy as is_torch_legacy,
    read_torch_legacy as read_torch_legacy,
)
from vtp_eqx.torch_files.program import StoredTensor as StoredTensor
from vtp_eqx.torch_files.writing import write_torch_file as write_torch_file
from vtp_eqx.torch_files.zipped import TorchFile as TorchFile
