"""Find out if a device computes at all."""

from __future__ import annotations


def problem(device: str) -> str | None:
    """Return why a device can compute nothing, in the library's own words; None where it computes."""
    import torch

    try:
        torch.ones(1, device=device).add(1).item()
    except torch.cuda.OutOfMemoryError:  # others have its memory, for now
        return None
    except Exception as error:
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None
