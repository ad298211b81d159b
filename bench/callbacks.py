"""What Hydra calls around a --multirun."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CollectAfterMultirun(Callback):
    """Write the tables once more when all jobs of a --multirun are over, whichever processes ran them."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect the run's folder."""
        from bench.collect import collect
        from bench.store import Store

        store = Store(config.results_dir, config.run or config.sweep.name or "adhoc")
        if store.cells.exists():
            collect(store)
