"""The sbatch file, with Slurm's programs replaced: what it starts, and when it queues the job again."""

import os
import signal
import subprocess
import time

import pytest

from tests.conftest import PATIENCE_S
from tests.loop import ROOT

# srun runs its command here; scontrol lists two nodes, and notes what else it gets; torchrun is the test's.
SRUN = '#!/bin/sh\nshift\nexport SLURM_NODEID=0\nexec "$@"\n'
SCONTROL = "#!/bin/sh\nif [ $1 = show ]; then echo node7; echo node9; else echo $@ >> $NOTES/queued; fi\n"


@pytest.fixture
def job(tmp_path):
    """A function that starts the job with a torchrun of this shell code."""

    def start(torchrun: str, **env: str) -> subprocess.Popen[bytes]:
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, "torchrun": f"#!/bin/bash\n{torchrun}\n"}.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        slurm = {"SLURM_JOB_NODELIST": "node[7,9]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "5"}
        path = f"{tmp_path}:{os.environ['PATH']}"
        command = [ROOT / "examples/launch/slurm.sbatch", "configs/cpu.yaml", "name=two words"]
        return subprocess.Popen(command, env=os.environ | slurm | {"PATH": path, "NOTES": str(tmp_path)} | env)

    return start


def requeued(folder) -> str:
    return (folder / "queued").read_text() if (folder / "queued").exists() else ""


def test_each_node_starts_torchrun_with_the_first_as_master_and_a_good_end_is_the_end(job, tmp_path):
    assert job('printf "%s\\n" "$@" > $NOTES/arguments').wait(PATIENCE_S) == 0
    launcher = [
        "--nnodes",
        "2",
        "--nproc_per_node",
        "8",
        "--node_rank",
        "0",
        "--master_addr",
        "node7",
        "--master_port",
        "29500",
        "-m",
        "vlrl.cli",
        "train",
    ]
    assert (tmp_path / "arguments").read_text().splitlines() == [*launcher, "configs/cpu.yaml", "name=two words"]
    assert not requeued(tmp_path)


def test_sigterm_reaches_the_run_is_waited_for_and_queues_the_job_again(job, tmp_path):
    process = job('trap "touch $NOTES/saved; exit 1" TERM; touch $NOTES/begun; while true; do sleep 0.05; done', RESTARTS="0")
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 1
    assert (tmp_path / "saved").exists() and requeued(tmp_path) == "requeue 5\n"


@pytest.mark.parametrize(("before", "expected"), [("", "requeue 5\n"), ("4", "requeue 5\n"), ("5", "")])
def test_a_failure_queues_the_job_again_until_it_has_been_five_times(job, tmp_path, before, expected):
    assert job("exit 1", **({"SLURM_RESTART_COUNT": before} if before else {})).wait(PATIENCE_S) == 1
    assert requeued(tmp_path) == expected
