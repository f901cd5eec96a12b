"""Tensors by name, in files of safetensors and of `torch.save`; nothing is executed."""

from vtp_eqx.tensor_files.safetensors_files import (
    as_float32 as as_float32,
    check_arrays as check_arrays,
    CONFIG_FILE as CONFIG_FILE,
    PUBLISHED_INDEX as PUBLISHED_INDEX,
    PUBLISHED_WEIGHTS as PUBLISHED_WEIGHTS,
    published_weights as published_weights,
    read_notes as read_notes,
    read_object as read_object,
    read_tensors as read_tensors,
    require_file as require_file,
    write_config as write_config,
    write_model as write_model,
    write_tensors as write_tensors,
)
from vtp_eqx.tensor_files.torch_program import StoredTensor as StoredTensor
from vtp_eqx.tensor_files.torch_reading import (
    is_torch_legacy as is_torch_legacy,
    read_torch_legacy as read_torch_legacy,
    TorchFile as TorchFile,
)
from vtp_eqx.tensor_files.torch_writing import write_torch_file as write_torch_file
