"""Autocast, to functions that write out their own backward pass and so choose the type of their products themselves.

A device without autocast, such as ``meta``, is one where it is off.
"""

import contextlib

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the type that products are taken in on a device; None, that of what is multiplied, where it is off."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which every operation keeps the types of what it is given."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
