"""Performer (Choromanski et al. 2021, arXiv 2009.14794): softmax attention by random features, FAVOR+.

A_ij = exp(q_i . k_j), q and k scaled by D^(-1/4), is estimated by phi(q_i) . phi(k_j) and rows are normalised, so
that attention becomes phi(Q) (phi(K)^T V) in time linear in N (sections 2.2 to 2.4). W holds random rows:

positive         exp(W x - |x|^2 / 2)                                     Lemma 1; unbiased
hyperbolic       the same for W and -W, half of `features` each           Lemma 1; lower variance
trigonometric    exp(|x|^2 / 2) (cos W x, sin W x), half each             section 2.3; of any sign
relu, elu        max(W x, 0), or elu(W x) + 1: kernels of their own       section 2.2; no softmax

`projection=false` drops W from the last two (D features). Positive and hyperbolic features are stabilised before
`eps` is added: a query by its own largest feature, keys by the largest of one head of one sequence (in the
causal form, so far), with |x|^2 / 2 counted, which the paper's code leaves out. Padded keys have features 0, not
phi(0). Constants are treated as constants by the gradient. Constant factors (1/sqrt(m)) cancel in a row.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Attention, Capabilities, PerLayer, Shape, Unsupported
from methods.ops.features import (
    Elu,
    Exponential,
    FeatureMap,
    Norms,
    Rectified,
    Trigonometric,
    gaussian_projection,
    log_positive_features,
    orthogonal_projection,
)
from methods.ops.kernelised import LOW, kernelised_attention
from methods.ops.kernelised_causal import (
    CHUNK,
    State,
    absorb,
    attend_next,
    causal_kernelised_attention,
    empty_state,
)

Kernel = Literal["positive", "hyperbolic", "trigonometric", "relu", "elu"]

FLOORS: dict[str, float] = {"positive": 1e-6, "hyperbolic": 1e-6, "relu": 1e-3}
"""The default eps of a kernel: appendix B.2 and A.4 of the paper; 0 for the others."""

NORMS = {"positive": -0.5, "hyperbolic": -0.5, "trigonometric": 0.5}
"""Share of |x|^2 in the logarithm of a softmax kernel's features."""


class Performer(Attention):
    """`features` numbers represent a row; one projection a layer, shared by its heads.

    While training the projection is drawn anew every `redraw` forwards, from a seed of the construction and the
    number of the draw; evaluation uses the one that stands. With trigonometric features a row's mass can be
    negative or near 0 (`masses` tells); it keeps its sign. NaN or infinity in a query stays in its row, in a key
    or value it reaches the whole head (causal: from its chunk on).
    """

    capabilities = Capabilities(deterministic=False, decode=True, position_free=True)
    budget = "features"

    def __init__(
        self,
        shape: Shape,
        *,
        features: PerLayer = 256,
        kernel: Kernel = "positive",
        projection: bool = True,
        orthogonal: bool = True,
        norms: Norms = "chi",
        redraw: int = 1000,
        eps: float | None = None,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if features < 1:
            raise ValueError(f"features={features}: expected an integer >= 1")
        for name, value, known in (("kernel", kernel, Kernel), ("norms", norms, Norms)):
            if value not in get_args(known):
                raise ValueError(f"{name}={value}: expected one of {', '.join(get_args(known))}")
        if kernel in ("hyperbolic", "trigonometric") and features % 2:
            raise ValueError(f"features={features}: expected an even number with kernel={kernel}")
        if redraw < 0:
            raise ValueError(f"redraw={redraw}: expected an integer >= 0")
        if eps is not None and not 0 <= eps < 1:
            raise ValueError(f"eps={eps}: expected a number from 0 to 1, or null")
        if not projection and kernel in NORMS:
            raise Unsupported(f"projection=false needs kernel=relu or elu, not {kernel}")
        if eps and kernel == "trigonometric":
            raise Unsupported(f"eps={eps} needs a kernel other than trigonometric, whose features have any sign")
        if norms == "sqrt_d" and not orthogonal:
            raise Unsupported("norms=sqrt_d needs orthogonal=true")
        self.features = features if projection else shape.head_dim
        self.kernel = kernel
        self.orthogonal = orthogonal
        self.norms: Norms = norms
        self.redraw = redraw
        self.eps = FLOORS.get(kernel, 0.0) if eps is None else eps
        generator = generator if generator is not None else torch.Generator().manual_seed(layer)
        self.seed = int(torch.randint(2**62, (1,), generator=generator, device="cpu"))
        self.drawn = 0
        self.projection: Tensor | None
        self.register_buffer("projection", self.draw(0) if projection else None)

    def draw(self, index: int) -> Tensor:
        """The projection number `index`, `[rows, D]` float32: the same whenever it is asked for."""
        generator = torch.Generator().manual_seed((self.seed + index * 0x9E3779B97F4A7C15) % 2**63)
        rows = self.features // 2 if self.kernel in ("hyperbolic", "trigonometric") else self.features
        if self.orthogonal:
            return orthogonal_projection(rows, self.shape.head_dim, generator, self.norms)
        return gaussian_projection(rows, self.shape.head_dim, generator)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Half precision is computed in float32 inside."""
        if self.training:
            self._redraw()
        attend = causal_kernelised_attention if self.shape.causal else kernelised_attention
        return attend(q, k, v, *self._maps(q), key_padding_mask)

    def _redraw(self) -> None:
        """Bring the projection to the draw that this training forward has, and count the forward."""
        wanted = self.draw_index // self.redraw if self.redraw else self.drawn
        if self.projection is not None and wanted != self.drawn:
            self.projection = self.draw(wanted).to(self.projection)  # a new tensor: graphs hold the old one
            self.drawn = wanted
        self.draw_index += 1

    def _maps(self, q: Tensor) -> tuple[FeatureMap, FeatureMap]:
        """The feature maps of queries, whose norm cancels in a row, and of keys."""
        wide = torch.promote_types(q.dtype, torch.float32)
        W = None if self.projection is None else self.projection.to(q.device, wide)
        dim = self.shape.head_dim
        scale = dim**-0.25
        if W is None or self.kernel in ("relu", "elu"):
            generalised = (Elu if self.kernel == "elu" else Rectified)(dim, W, scale, floor=self.eps)
            return generalised, generalised
        softmax = Trigonometric if self.kernel == "trigonometric" else Exponential
        W = torch.cat([W, -W]) if self.kernel == "hyperbolic" else W
        return softmax(dim, W, scale, 0.0, self.eps), softmax(dim, W, scale, NORMS[self.kernel], self.eps)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """The estimated N x N matrix phi(Q) phi(K)^T, masked, row-normalised, times V."""
        weights = self._weights(q, k, key_padding_mask)
        mass = weights.sum(dim=-1, keepdim=True)
        return weights @ v / torch.where(mass == 0, torch.ones_like(mass), mass)

    def masses(self, q: Tensor, k: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """Rows' sums of the unnormalised weights `[B, H, N]`: what is divided by, up to a factor > 0.

        At or below 0 the estimate of that row is meaningless; only trigonometric features come there.
        """
        return self._weights(q, k, key_padding_mask).sum(dim=-1)

    def _weights(self, q: Tensor, k: Tensor, padding: Tensor | None) -> Tensor:
        """phi(q_i) . phi(k_j), `[B, H, N, N]`, each row at a scale of its own, 0 where masked."""
        x, y = (rows * self.shape.head_dim**-0.25 for rows in (q, k))
        W = None if self.projection is None else self.projection.to(q.dtype)
        causal, scale = self.shape.causal, None
        if W is None or self.kernel in ("relu", "elu"):
            phi_q, phi_k = (self._generalised(rows if W is None else rows @ W.T) for rows in (x, y))
        else:
            if self.kernel == "trigonometric":
                growth = y.square().sum(dim=-1) / 2
                phi_q, waves = (torch.cat([(rows @ W.T).cos(), (rows @ W.T).sin()], dim=-1) for rows in (x, y))
                scale = _stabiliser(growth.detach(), padding, causal)
                phi_k = waves * (growth - scale)[..., None].exp()
            else:
                W = torch.cat([W, -W]) if self.kernel == "hyperbolic" else W
                log_q, log_k = x @ W.T, log_positive_features(y, W)  # |x|^2 / 2 cancels against the maximum
                phi_q = (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp() + self.eps
                scale = _stabiliser(log_k.detach().amax(dim=-1), padding, causal)
                phi_k = (log_k - scale[..., None]).exp() + self.eps
        weights = phi_q @ phi_k.transpose(-1, -2)
        if causal and scale is not None:  # a key counts at its own time's scale, which row i sees shrunk
            weights = weights * (scale[..., None, :] - scale[..., :, None]).clamp_max(0.0).exp()
        weights = weights.tril() if causal else weights
        return weights if padding is None else weights.masked_fill(padding[:, None, None], 0.0)

    def _generalised(self, projected: Tensor) -> Tensor:
        return (F.relu(projected) if self.kernel == "relu" else F.elu(projected) + 1.0) + self.eps

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N m D for the features of q and k, 4 N m (D + 1) for state and rows; causal adds its chunks."""
        return batch_size * self.shape.heads * sum(self._head_flops(seq_len))

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3 times the forward; causal, since the backward goes over the chunks twice, 3.5 times the states and
        4 times the rest.
        """
        if not self.shape.causal:
            return 3 * self.flops(batch_size, seq_len)
        features, states, pairs = self._head_flops(seq_len)
        return batch_size * self.shape.heads * (4 * features + states * 7 // 2 + 4 * pairs)

    def _head_flops(self, seq_len: int) -> tuple[int, int, int]:
        """Of one head's forward: the features of q and k, the states and rows, the pairs within chunks."""
        dim, m = self.shape.head_dim, self.features
        projected = 0 if self.projection is None else self.projection.shape[0]
        projected = m if self.kernel == "hyperbolic" else projected
        sizes = [min(CHUNK, seq_len - start) for start in range(0, seq_len, CHUNK)] if self.shape.causal else []
        pairs = sum(2 * size**2 * (m + dim + 1) for size in sizes)
        return 4 * seq_len * projected * dim, 4 * seq_len * m * (dim + 1), pairs

    def degenerate(self, seq_len: int) -> bool:
        """No fewer features than tokens: from `features >= seq_len` on nothing is saved."""
        return self.features >= seq_len

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """No token yet."""
        if not self.shape.causal:
            raise Unsupported("Performer decodes in its causal form only (causal=true)")
        return empty_state(batch_size, self.shape.heads, self.shape.head_dim, self.features, device, dtype)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.step`; O(m D), by the projection that stands."""
        return attend_next(q, k, v, state, *self._maps(q))

    def prefill(self, k: Tensor, v: Tensor, state: State) -> State:
        """See `Attention.prefill`; O(n m D), by the projection that stands."""
        return absorb(k, v, state, self._maps(k)[1])

    def state_size(self, seq_len: int) -> int:
        """m (D + 1) sums and a stabiliser a head, whatever the length."""
        return self.shape.heads * (self.features * (self.shape.head_dim + 1) + 1)

    def get_extra_state(self) -> dict[str, int]:
        """Where the draws stand, next to the projection in the state dict."""
        return {"seed": self.seed, "drawn": self.drawn, "draw_index": self.draw_index}

    def set_extra_state(self, state: Any) -> None:
        """Continue the draws of the module that was saved."""
        self.seed, self.drawn, self.draw_index = state["seed"], state["drawn"], state["draw_index"]


def _stabiliser(level: Tensor, padding: Tensor | None, causal: bool) -> Tensor:
    """The largest of keys' levels `[B, H, N]`, of all real keys or of those so far, for each key."""
    if padding is not None:
        low = max(LOW, torch.finfo(level.dtype).min)
        level = level.masked_fill(padding[:, None], low)
    return level.cummax(dim=-1).values if causal else level.amax(dim=-1, keepdim=True).expand_as(level)
