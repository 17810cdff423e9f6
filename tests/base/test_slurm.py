"""SLURM's variables become torchrun's, in a task of a step and nowhere else.

The environments are those of "output environment variables" of srun's and sbatch's manuals.
"""

import os

import pytest

from elbos.base.slurm import name_as_torchrun_does

BATCH = {  # of a script of 8 nodes, outside of srun
    "SLURM_JOB_ID": "4321",
    "SLURM_NTASKS": "64",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gpu[007-013,020]",
}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "64",
    "SLURM_STEP_NODELIST": "gpu[007-013,020]",
    "SLURM_PROCID": "13",
    "SLURM_LOCALID": "5",
}
NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch):
    """What an environment is given of torchrun's names."""

    def name(variables: dict[str, str]) -> dict[str, str]:
        for variable in [*os.environ]:
            if variable.startswith("SLURM_") or variable in NAMES:
                monkeypatch.delenv(variable)
        with monkeypatch.context() as here:
            here.setattr(os, "environ", environment := {**variables})
            name_as_torchrun_does()
        return {name: environment[name] for name in NAMES if name in environment}

    return name


def test_a_task_of_a_step_is_named(named) -> None:
    found = named(STEP)
    port = int(found.pop("MASTER_PORT"))
    assert found == {
        "WORLD_SIZE": "64",
        "RANK": "13",
        "LOCAL_RANK": "5",
        "MASTER_ADDR": "gpu007",
    }
    assert 1024 <= port < 32768  # neither the system's nor one of a connection


def test_a_batch_script_and_a_step_of_one_task_are_one_process(named) -> None:
    assert named(BATCH) == {}
    assert named({**BATCH, "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert named({}) == {}


def test_names_that_are_there_stay(named) -> None:
    torchrun = {"WORLD_SIZE": "2", "RANK": "1"}  # started by srun, a task a node
    assert named({**STEP, **torchrun}) == torchrun
    address = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert named({**STEP, **address}).items() >= address.items()


def test_jobs_and_steps_on_one_node_have_ports_of_their_own(named) -> None:
    others = [{"SLURM_JOB_ID": str(job)} for job in range(4300, 4400)]
    others += [{"SLURM_STEP_ID": str(step)} for step in range(1, 20)]
    ports = [named({**STEP, **other})["MASTER_PORT"] for other in others]
    assert len({*ports}) == len(ports)
    tasks = [named({**STEP, "SLURM_PROCID": str(i)})["MASTER_PORT"] for i in range(64)]
    assert len({*tasks}) == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[007-009,012]", "gpu007"),
        ("a1,a2", "a1"),
        ("node3", "node3"),
        ("rack1-node[1-3]", "rack1-node1"),
        ("rack[0-1]_blade[03,05],login", "rack0_blade03"),
        ("login,gpu[1-2]", "login"),
        ("gpu[1-2]-ib,gpu9", "gpu1-ib"),
        ("ip-10-0-0-1.internal,ip-10-0-0-2.internal", "ip-10-0-0-1.internal"),
    ],
)
def test_the_first_node_is_where_the_processes_meet(named, nodes: str, first: str) -> None:
    assert named({**STEP, "SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


def test_a_step_that_is_described_in_part_is_refused(named) -> None:
    for variable in ("SLURM_PROCID", "SLURM_STEP_NODELIST"):
        with pytest.raises(ValueError, match=f"64.*{variable}"):
            named({name: value for name, value in STEP.items() if name != variable})
