"""Environment variables for distributed computation, translated from SLURM's to torchrun's.

`srun` starts as many processes as there are tasks, and sets their ranks in the environment.
"""

import os
import re

_FIRST_PORT, _NUM_PORTS = 10_000, 20_000  # below the range of ephemeral ports


def name_as_torchrun_does() -> None:
    """Set torchrun's environment variables from those of SLURM.

    Nothing is set if WORLD_SIZE is. Only `srun` sets the variables of a step; a batch script, which
    is one process, also has SLURM_PROCID and SLURM_NTASKS. See "output environment variables" in
    https://slurm.schedmd.com/srun.html.
    """
    slurm = os.environ
    if "WORLD_SIZE" in slurm or int(slurm.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    if missing := [name for name in ("SLURM_PROCID", "SLURM_STEP_NODELIST") if name not in slurm]:
        raise ValueError(
            f"SLURM_STEP_NUM_TASKS is {slurm['SLURM_STEP_NUM_TASKS']}, but there is no "
            f"{' and no '.join(missing)}: start the processes with srun."
        )
    # a port from job and step number, so that jobs on a node rarely collide
    job, step = (int(slurm.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
    port = _FIRST_PORT + (job + 997 * step) % _NUM_PORTS
    os.environ |= {
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": slurm.get("MASTER_ADDR", _first_node(slurm["SLURM_STEP_NODELIST"])),
        "MASTER_PORT": slurm.get("MASTER_PORT", str(port)),
    }


def _first_node(nodes: str) -> str:
    """Return the first host name in SLURM's compressed node list.

    Examples:
        >>> _first_node("gpu[007-009,012],login1"), _first_node("rack[1-2]node[03,05]")
        ('gpu007', 'rack1node03')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])
