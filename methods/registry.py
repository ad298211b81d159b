"""The registered methods, and everything of this package that the harness may import."""

from __future__ import annotations

from methods.base import Attention, Capabilities, Mode, PerLayer, Shape, Unsupported
from methods.encoder import Encoder, Positions
from methods.mixer import Mixer

__all__ = [
    "BASELINE",
    "METHODS",
    "Attention",
    "Capabilities",
    "Encoder",
    "Mixer",
    "Mode",
    "PerLayer",
    "Positions",
    "Shape",
    "Unsupported",
]

#: Short name -> dotted path of the class. Each has a YAML of the same name in conf/method/.
METHODS: dict[str, str] = {
    "full": "methods.full.Full",
    "sdpa": "methods.sdpa.SDPA",
    "longformer": "methods.longformer.Longformer",
    "linformer": "methods.linformer.Linformer",
    "performer": "methods.performer.Performer",
}

#: What every speedup is measured against.
BASELINE = "sdpa"
