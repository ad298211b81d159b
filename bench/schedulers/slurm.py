"""SLURM: an array of jobs for each kind of cell, and one job after them that writes the tables. Nothing waits.

A killed or preempted job is requeued by SLURM, and finds its cell's checkpoint in the folder.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.jobs import Needs
from bench.schedulers.command import command
from bench.store import Store

#: Jobs in one array that clusters allow without being asked (MaxArraySize is 1001 by default).
ARRAY = 1000


def scripts(
    store: Store, kinds: Mapping[Needs, Sequence[str]], options: Sequence[str], at_most: int | None
) -> tuple[list[Path], Path]:
    """Write a script an array, and that of the last job. options: more for sbatch, `--partition=gpu` say."""
    arrays = []
    for number, (needs, cells) in enumerate(kinds.items()):
        per_job = -(-len(cells) // ARRAY)
        groups = [cells[at : at + per_job] for at in range(0, len(cells), per_job)]
        listed = store.write_script(f"array-{number}.txt", "".join(" ".join(group) + "\n" for group in groups))
        width = f"0-{len(groups) - 1}" + (f"%{at_most}" if at_most else "")
        header = [
            f"--job-name=attnbench-{store.run}",
            f"--array={width}",
            f"--cpus-per-task={needs.cpus}",
            f"--mem={needs.memory_mib}M",
            f"--time={-(-needs.time_s * per_job // 60)}",
            "--requeue",
            f"--output={store.folder.resolve() / 'jobs' / '%x-%A_%a.log'}",
            *([] if needs.device == "cpu" else ["--gres=gpu:1"]),
            *options,
        ]
        line = f'cells=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(listed.resolve()))})'
        body = f"{line}\ncd {shlex.quote(str(Path.cwd()))}\nexec {shlex.join(command(store.folder))} $cells\n"
        arrays.append(store.write_script(f"array-{number}.sh", _script(header, body)))
    header = [
        f"--job-name=attnbench-{store.run}-tables",
        f"--output={store.folder.resolve() / 'jobs' / '%x-%A.log'}",
    ]
    body = f"cd {shlex.quote(str(Path.cwd()))}\nexec {shlex.join(command(store.folder, '--finish'))}\n"
    return arrays, store.write_script("tables.sh", _script([*header, *options], body))


def submit(arrays: Sequence[Path], tables: Path) -> list[str]:
    """Hand the scripts to sbatch; returns the ids of the jobs, the last one's after the others' end."""
    ids = [_sbatch([str(script)]) for script in arrays]
    after = f"--dependency=afterany:{':'.join(ids)}"
    return [*ids, _sbatch([*([after] if ids else []), str(tables)])]


def _script(header: Sequence[str], body: str) -> str:
    return "#!/bin/bash\n" + "".join(f"#SBATCH {option}\n" for option in header) + body


def _sbatch(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BenchError(
            "sbatch is not here: run this on a login node of the cluster, or write scripts with --dry"
        ) from error
    if done.returncode:
        raise BenchError(f"sbatch {arguments[-1]}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]
