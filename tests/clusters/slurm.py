"""A real SLURM of one node, this machine: munge, controller and node daemon in a folder, gone when the block ends.

Needs root and Debian's packages `slurm-wlm` and `munge`; touches neither /etc nor a SLURM that runs already.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")

CONFIGURATION = """
ClusterName=attnbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,defer_batch
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mib} State=UNKNOWN
PartitionName=here Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here; nothing when there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{absent[0]} is not here: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "the daemons of SLURM need root"


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables with which SLURM's commands find it. RuntimeError if it does not come up."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    ports = _free_ports(2)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            controller_port=ports[0],
            node_port=ports[1],
            cores=psutil.cpu_count(),
            memory_mib=psutil.virtual_memory().total // 2**20 * 95 // 100,
        )
    )
    files = [f"--{name}={folder}/munge.{end}" for name, end in (("socket", "socket"), ("pid-file", "pid"))]
    files += [f"--{name}={folder}/munge.{end}" for name, end in (("log-file", "log"), ("seed-file", "seed"))]
    variables = {"SLURM_CONF": str(configuration)}
    with ExitStack() as daemons:
        daemons.enter_context(_daemon(["munged", "--foreground", "--force", f"--key-file={key}", *files], {}))
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged made no socket")
        daemons.enter_context(_daemon(["slurmctld", "-D"], variables))
        daemons.enter_context(_daemon(["slurmd", "-D"], variables))
        _wait_for(lambda: "idle" in ask(["sinfo", "--noheader", "--format=%T"], variables), _last_words(folder))
        try:
            yield variables
        finally:
            ask(["scancel", "--user=root"], variables)


def wait_for_jobs(variables: dict[str, str], timeout_s: float) -> None:
    """Wait until no job is left in the queue. TimeoutError when some are."""
    deadline = time.monotonic() + timeout_s
    while queue := ask(["squeue", "--noheader"], variables):
        if time.monotonic() > deadline:
            raise TimeoutError(queue)
        time.sleep(1)


def ask(command: list[str], variables: dict[str, str]) -> str:
    """What one of SLURM's commands prints."""
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


@contextmanager
def _daemon(command: list[str], variables: dict[str, str]) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(condition: object, complaint: object, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise RuntimeError(complaint() if callable(complaint) else complaint)
        time.sleep(0.2)


def _last_words(folder: Path) -> str:
    return f"SLURM did not come up; see {folder}/slurmctld.log and slurmd.log"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
