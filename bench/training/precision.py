"""Number formats in training: autocast for half precision, with its loss scale for float16."""

from __future__ import annotations

import torch

HALF = (torch.bfloat16, torch.float16)


def why_unsupported(device: str, dtype: str) -> str | None:
    """Why a model cannot be trained in `dtype` on `device`, or None if it can."""
    kind = device.partition(":")[0]
    if dtype == "bfloat16" and kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "hardware.dtype=bfloat16: this GPU would only emulate it; take float16"
    if dtype == "float16" and kind not in ("cpu", "cuda"):
        return f"hardware.dtype=float16: training in it runs on cpu and cuda, not on {kind}; take bfloat16"
    return None


class Precision:
    """How a model computes in `dtype`.

    Half precision: parameters stay float32, the forward runs under autocast, and float16 scales the loss so
    that small gradients do not vanish (Micikevicius et al. 2018, arXiv:1710.03740). Others are used as they are.
    """

    def __init__(self, device: str, dtype: str) -> None:
        self.kind = torch.device(device).type
        self.dtype: torch.dtype = getattr(torch, dtype)

    @property
    def weights(self) -> torch.dtype:
        """The dtype of parameters."""
        return torch.float32 if self.dtype in HALF else self.dtype

    def scaler(self) -> torch.amp.GradScaler:
        """A new loss scale, which does nothing but in float16."""
        return torch.amp.GradScaler(self.kind, enabled=self.dtype == torch.float16)

    def autocast(self) -> torch.autocast:
        """Around a forward."""
        return torch.autocast(self.kind, self.dtype, enabled=self.dtype in HALF)
