"""The registered methods, and everything of this package that the harness may import."""

from __future__ import annotations

from methods.base import Attention, Capabilities, Mode, PerLayer, Shape, Unsupported
from methods.encoder import Encoder, Positions
from methods.grouped import grouped, groups_as_batch, queries_as_tokens
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
    "grouped",
    "groups_as_batch",
    "queries_as_tokens",
]

#: Short name -> dotted path of the class. Each has a YAML of the same name in conf/method/.
METHODS: dict[str, str] = {
    "full": "methods.full.Full",
    "sdpa": "methods.sdpa.SDPA",
    "flash": "methods.flash.Flash",
    "flex": "methods.flex.Flex",
    "topk": "methods.topk.TopK",
    "longformer": "methods.longformer.Longformer",
    "local": "methods.local.Local",
    "bigbird": "methods.bigbird.BigBird",
    "bigbird_etc": "methods.bigbird.BigBirdETC",
    "linformer": "methods.linformer.Linformer",
    "nystromformer": "methods.nystromformer.Nystromformer",
    "performer": "methods.performer.Performer",
    "linear": "methods.linear.Linear",
    "reformer": "methods.reformer.Reformer",
    "flash_attn": "methods.adapters.flash_attn.FlashAttn",
    "xformers": "methods.adapters.xformers.XFormers",
    "fla": "methods.adapters.fla.FLA",
    "hf_longformer": "methods.adapters.hf_longformer.HFLongformer",
    "hf_bigbird": "methods.adapters.hf_bigbird.HFBigBird",
    "hf_reformer": "methods.adapters.hf_reformer.HFReformer",
    "hf_nystromformer": "methods.adapters.hf_nystromformer.HFNystromformer",
    "lucidrains_local": "methods.adapters.lucidrains_local.LucidrainsLocal",
    "lucidrains_linformer": "methods.adapters.lucidrains_linformer.LucidrainsLinformer",
    "lucidrains_performer": "methods.adapters.lucidrains_performer.LucidrainsPerformer",
    "lucidrains_reformer": "methods.adapters.lucidrains_reformer.LucidrainsReformer",
    "lucidrains_nystromformer": "methods.adapters.lucidrains_nystromformer.LucidrainsNystromformer",
}

#: What every speedup is measured against.
BASELINE = "sdpa"
