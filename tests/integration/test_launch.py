"""The launchers, as far as they can be tried without the services that they start on."""

import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = ("tpu_vm.sh", "slurm.sbatch")


def tpu_vm(*arguments):
    return subprocess.run([LAUNCH / "tpu_vm.sh", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_sound(name):
    checkers = [["bash", "-n"]]
    found = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    checkers += [[found]] if found else []
    for checker in checkers:
        done = subprocess.run([*checker, LAUNCH / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_tpu_vm_creates_copies_and_starts_on_all_workers():
    arguments = ("--config=configs/digits.py", "--config.evaluate.noise_levels=(0.3, 0.5)")
    done = tpu_vm("--name=n", "--zone=z", "--type=v5litepod-16", "--spot", "--nfs=h:/s", "--dry-run", "--", *arguments)
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert all(command[:4] == ["gcloud", "compute", "tpus", "tpu-vm"] for command in commands)
    assert [command[4] for command in commands] == ["create", "scp", "ssh", "ssh", "ssh"]
    assert all("--zone=z" in command for command in commands)
    assert {"--accelerator-type=v5litepod-16", "--spot"} <= set(commands[0])
    assert all("--worker=all" in command for command in commands[1:])
    (told,) = (part.removeprefix("--command=") for part in commands[-1] if part.startswith("--command="))
    words = shlex.split(told)
    assert words[words.index("fmdp.main") + 1 :] == ["--distributed=auto", *arguments]
    assert "mount -t nfs h:/s /mnt/fmdp" in " ".join(commands[3])
    assert tpu_vm("--name=n", "--zone=z", "--delete", "--dry-run").stdout.split()[4:6] == ["delete", "n"]


def test_tpu_vm_refuses_what_it_cannot_run():
    for arguments in (
        ["--zone=z", "--type=t", "--", "a"],
        ["--name=n", "--zone=z"],
        ["--config=a"],
        ["--name=n", "--zone=z", "--type=t"],
    ):
        done = tpu_vm("--dry-run", *arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1


def test_slurm_goes_back_into_the_queue_only_when_it_was_asked_to_end(tmp_path):
    """With srun and scontrol played by scripts."""
    for code, requeued in ((0, False), (2, False), (143, True)):
        tools = tmp_path / str(code)
        tools.mkdir()
        for name, body in (
            ("srun", f'echo "$@" > {tools}/srun.log; exit {code}'),
            ("scontrol", f"echo $@ > {tools}/q"),
        ):
            (tools / name).write_text(f"#!/bin/sh\n{body}\n")
            (tools / name).chmod(0o755)
        environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
        done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "--config=a b"], env=environment)
        assert done.returncode == code
        assert (tools / "q").exists() == requeued
        assert "-m fmdp.main --distributed=auto --config=a b" in (tools / "srun.log").read_text()


def test_jobset_has_what_the_service_asks_for():
    """The fields that JobSet v1alpha2 and the Job in it require, and those that make the hosts one slice."""
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(jobset["spec"]) <= {"failurePolicy", "successPolicy", "network", "replicatedJobs", "suspend"}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = jobset["spec"]["replicatedJobs"]
    assert set(job) == {"name", "replicas", "template"}
    spec = job["template"]["spec"]
    assert set(spec) == {"parallelism", "completions", "backoffLimit", "template"}
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert chips == container["resources"]["requests"]["google.com/tpu"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][:4] == ["python", "-m", "fmdp.main", "--distributed=auto"]
    workdir = container["command"][-1].removeprefix("--workdir=")
    assert workdir.startswith(container["volumeMounts"][0]["mountPath"])
