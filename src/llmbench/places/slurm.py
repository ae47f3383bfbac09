"""The nodes of the SLURM allocation that the sweep runs in: `salloc -N2 llmbench sweep ... --places slurm`."""

from __future__ import annotations

import os
import subprocess

from llmbench import places
from llmbench.errors import SpecError

NODES = "SLURM_JOB_NODELIST"
SRUN = ("srun", "--nodes=1", "--ntasks=1", "--overlap", "--mem=0", "--cpu-bind=none", "--no-kill")
"""A step of one process, which leaves room for others and takes all processors and GPUs that the job has there."""


def hosts(rest: str, names: tuple[str, ...]) -> list[places.HostCommand]:
    """Return the nodes of the allocation."""
    if rest or names:
        raise SpecError("--places: slurm takes the nodes of its allocation, and no names.")
    listed = os.environ.get(NODES)
    if not listed:
        raise SpecError(
            "--places: slurm: this is no allocation of SLURM; run it as 'salloc -N2 llmbench sweep ...', or in a "
            "script for sbatch."
        )
    asked = ["scontrol", "show", "hostnames", listed]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SpecError(f"--places: slurm: scontrol cannot say the nodes: {error}.") from error
    agent = places.agent()
    return [
        places.HostCommand(node, (*SRUN, f"--nodelist={node}", *agent))
        for node in answer.stdout.split()
    ]
