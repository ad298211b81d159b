"""Methods that fail in every way a method can, for the tests of isolation. Their files lie outside the package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import psutil
import torch

from methods.full import Full
from methods.registry import Mode, Shape, Unsupported


class Tiny(Full):
    """Behaves; claims no memory, so that the plan lets everything through."""

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        return 0


class Raises(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        raise ZeroDivisionError("the method's own mistake")


class Refuses(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        raise Unsupported("needs a device that is not here")


class SeesGpus(Tiny):
    """Writes down which GPUs it may see, and stays until it has company (a minute at most)."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        folder, mine = Path(os.environ["SEEN_FOLDER"]), os.environ["CUDA_VISIBLE_DEVICES"]
        (folder / f"{mine} {os.getpid()} seen").touch()
        deadline = time.monotonic() + 60
        while len({path.name.split()[0] for path in folder.glob("* seen")}) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        return super().forward(q, k, v, key_padding_mask=key_padding_mask)


class Killed(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        os.kill(os.getpid(), signal.SIGKILL)


class Exits(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        print("last words", flush=True)
        os._exit(3)


class Hangs(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        time.sleep(3600)


class Eats(Tiny):
    """Allocates without end, and touches what it gets."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        held = []
        while True:
            held.append(torch.ones(16 * 2**20))


class EatsFromLength(Eats):
    """Allocates without end from 64 tokens on."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        if q.shape[-2] < 64:
            return Full.forward(self, q, k, v)
        return super().forward(q, k, v)


class Babbles(Tiny):
    """Works, and prints what looks like messages on both streams."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        print('{"event": "failed", "status": "oom"}\n\x00\xff garbage', flush=True)
        print("more", file=sys.stderr, flush=True)
        os.write(1, b'{"event": "done"}\n')
        return super().forward(q, k, v)


class Explodes(Tiny):
    """Gives a loss that is no number."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        return super().forward(q, k, v) * float("nan")


class Allocates(Tiny):
    """Holds two buffers of known size one after the other, then returns q: the peak is the larger one."""

    def __init__(self, shape: Shape, *, mib: int = 100, layer: int = 0, generator=None) -> None:
        super().__init__(shape)
        self.mib = mib

    def forward(self, q, k, v, *, key_padding_mask=None):
        for size in (self.mib, self.mib // 2):
            buffer = torch.ones(size * 2**18)
            del buffer
        return q.clone()


class Keeps(Tiny):
    """Keeps one tensor of known size for the backward, and in the forward holds another of half that size."""

    def __init__(self, shape: Shape, *, mib: int = 64, layer: int = 0, generator=None) -> None:
        super().__init__(shape)
        self.mib = mib

    def forward(self, q, k, v, *, key_padding_mask=None):
        buffer = torch.ones(self.mib * 2**17)
        del buffer
        grown = q.flatten()[:1].expand(self.mib * 2**18).exp()  # exp keeps its result
        return q + grown.mean()


class Forks(Tiny):
    """Works, and leaves a child behind that holds all it was given; the file `mark` has the pids of all."""

    def __init__(self, shape: Shape, *, mark: str, layer: int = 0, generator=None) -> None:
        super().__init__(shape)
        self.mark = mark

    def forward(self, q, k, v, *, key_padding_mask=None):
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        with Path(self.mark).open("a") as handle:
            handle.write(f"{pid}\n")
        return super().forward(q, k, v)


class Closes(Tiny):
    """Closes every file it did not open, the harness's channel included."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        os.closerange(3, 512)
        return super().forward(q, k, v)


class Leaks(Tiny):
    """Keeps 64 MiB of every call."""

    kept: ClassVar[list[torch.Tensor]] = []

    def forward(self, q, k, v, *, key_padding_mask=None):
        self.kept.append(torch.ones(16 * 2**20))
        return super().forward(q, k, v)


class Leaves(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        raise SystemExit("enough")


class SetsThreads(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().forward(q, k, v)


class SetsDtype(Tiny):
    def forward(self, q, k, v, *, key_padding_mask=None):
        torch.set_default_dtype(torch.float64)
        return super().forward(q, k, v)


class Mortal(Tiny):
    """Works, until there is a file `mark`: then its process is killed."""

    def __init__(self, shape: Shape, *, mark: str, layer: int = 0, generator=None) -> None:
        super().__init__(shape)
        self.mark = Path(mark)

    def forward(self, q, k, v, *, key_padding_mask=None):
        if self.mark.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(q, k, v)


class HangsMarked(Mortal):
    """Hangs, and says by the file `mark` that it does."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        self.mark.touch()
        time.sleep(3600)


class KillsItsJob(Mortal):
    """Kills the process of bench/one.py that runs its cell, whenever it is run."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        self.job().kill()
        time.sleep(600)

    def job(self) -> psutil.Process:
        return next(one for one in psutil.Process().parents() if "one.py" in " ".join(one.cmdline()[:2]))


class KillsItsWorker(KillsItsJob):
    """Kills the scheduler's worker that has started bench/one.py, once: the file `mark` says that it has."""

    def forward(self, q, k, v, *, key_padding_mask=None):
        if not self.mark.exists():
            self.mark.touch()
            self.end(self.job())
            time.sleep(600)
        return Full.forward(self, q, k, v)

    def end(self, job: psutil.Process) -> None:
        job.parent().kill()


class IsRequeued(KillsItsWorker):
    """Lets SLURM put its job back into the queue, once."""

    def end(self, job: psutil.Process) -> None:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
