"""What the machine can do at most, in one dtype and with so many threads: products and copies.

A method's time is judged against them: utilisation is its operations a second over the product's, its floor the
time that its operations, or the bytes it cannot avoid, would take at these rates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

#: Side of the square matrices that are multiplied, and bytes copied (beyond any cache), by kind of device.
SIDE = {"cpu": 1536, "cuda": 8192}
COPIED = {"cpu": 2**27, "cuda": 2**30}
#: The best of so many: noise only ever slows.
TURNS = 5


def measure(device: str, dtype: str, clock: Callable[[], float]) -> dict[str, float]:
    """`matmul_gflops` (10^9 operations a second) and `copy_gb_per_s` (10^9 bytes read and written a second)."""
    kind, element = device.partition(":")[0], getattr(torch, dtype)
    side, size = SIDE.get(kind, SIDE["cpu"]), COPIED.get(kind, COPIED["cpu"]) // element.itemsize
    a, b = (torch.rand(side, side, device=device).to(element) for _ in range(2))
    product = torch.empty_like(a)
    source, target = (torch.ones(size, device=device, dtype=element) for _ in range(2))
    multiplied = _best(lambda: torch.mm(a, b, out=product), clock)
    copied = _best(lambda: target.copy_(source), clock)
    return {
        "matmul_gflops": 2 * side**3 / multiplied / 1e9,
        "copy_gb_per_s": 2 * source.nbytes / copied / 1e9,
    }


def _best(call: Callable[[], object], clock: Callable[[], float]) -> float:
    call()
    times = []
    for _ in range(TURNS):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)
