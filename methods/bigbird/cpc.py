"""Contrastive predictive coding over sentences, the pre-training loss of ETC's global tokens.

Some sentences are masked in the input; what the global token of a masked sentence says is compared with an
encoding of that sentence on its own, against those of the other sentences in the batch (Ainslie et al. 2020,
arXiv 2004.08483, after Oord et al. 2018; BigBird uses it in appendix E.3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED_SHARE = 0.1
"""Sentences that are masked and predicted."""

LOSS_SHARE = 0.2
"""Weight of this loss beside the masked language model's 0.8."""


def cpc_loss(predicted: Tensor, encoded: Tensor, *, temperature: float = 1.0, normalise: bool = False) -> Tensor:
    """InfoNCE in the batch: -mean_i log softmax_j(predicted_i . encoded_j / temperature) at j = i.

    predicted and encoded `[S, E]`, row i of both from sentence i: its global token in context, and the encoding
    of it alone. `normalise` compares directions only. Returns a scalar, in float32 at least. ValueError for
    shapes that differ, for no sentence, or for a temperature that is not positive.
    """
    if predicted.shape != encoded.shape or predicted.dim() != 2 or not len(predicted):
        shapes = f"predicted={list(predicted.shape)} encoded={list(encoded.shape)}"
        raise ValueError(f"{shapes}: expected the same [sentences >= 1, E]")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: expected a number > 0")
    wide = torch.promote_types(predicted.dtype, torch.float32)
    predicted, encoded = predicted.to(wide), encoded.to(wide)
    if normalise:
        predicted, encoded = F.normalize(predicted, dim=-1), F.normalize(encoded, dim=-1)
    own = torch.arange(len(predicted), device=predicted.device)
    return F.cross_entropy(predicted @ encoded.T / temperature, own)


def mixed_loss(masked_language_model: Tensor, contrastive: Tensor) -> Tensor:
    """The pre-training objective: 0.8 of the masked language model's loss and 0.2 of the contrastive one."""
    return (1 - LOSS_SHARE) * masked_language_model + LOSS_SHARE * contrastive


def masked_sentences(count: int, generator: torch.Generator) -> Tensor:
    """bool `[count]`: a uniform choice of a tenth of the sentences, at least one."""
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=generator)[: max(1, round(count * MASKED_SHARE))]] = True
    return chosen
