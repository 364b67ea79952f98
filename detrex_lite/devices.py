"""Where to compute, by the name that a user gives."""

import torch


def choose_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is a GPU when there is one.

    Raises:
        ValueError: when there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:1' or the like, got {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but there is no CUDA device; use 'cpu' or 'auto'")
    return chosen
