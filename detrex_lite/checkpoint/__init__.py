"""Reading, loading and writing weights and training checkpoints."""

from .checkpointer import Checkpointer
from .convert import convert_state_dict
from .downloading import DownloadError, download, hash_file, verify_file
from .files import CheckpointError, DamagedCheckpointError, read_checkpoint, save_atomic, verify_checkpoint
from .key_maps import KEY_MAPS, KeyMap
from .load import load_checkpoint, model_state
from .report import LoadReport, Mismatch

__all__ = [
    "KEY_MAPS",
    "CheckpointError",
    "Checkpointer",
    "DamagedCheckpointError",
    "DownloadError",
    "KeyMap",
    "LoadReport",
    "Mismatch",
    "convert_state_dict",
    "download",
    "hash_file",
    "load_checkpoint",
    "model_state",
    "read_checkpoint",
    "save_atomic",
    "verify_checkpoint",
    "verify_file",
]
