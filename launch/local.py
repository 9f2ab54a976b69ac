#!/usr/bin/env python3
"""Run fmdp.main in several processes on this machine, each with simulated CPU devices, for debugging.

python launch/local.py --processes=2 --devices=2 -- --config=configs/digits.py --workdir=runs/two

Arguments after `--` go to fmdp.main. If one process fails, the run ends. SIGINT and SIGTERM go to all processes.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 3.0  # seconds that the other processes have to end by themselves after one has failed


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the arguments for fmdp.main."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="number of processes (2)")
    parser.add_argument("--devices", type=int, default=1, help="simulated devices per process (1)")
    parser.add_argument("--timeout", type=int, default=60, help="seconds within which all processes must have met (60)")
    parser.add_argument("--grace", type=int, default=30, help="seconds to save and end after a signal (30)")
    options = parser.parse_args(argv[:end])
    for name, value in vars(options).items():
        most = {"processes": 64, "devices": 64}.get(name, 86_400)
        if not 1 <= value <= most:
            parser.error(f"--{name}={value} must be from 1 to {most}")
    return options, argv[end + 1 :]


def start(options: argparse.Namespace, arguments: list[str]) -> list[subprocess.Popen]:
    """Start the processes. Each learns its index from the environment; only the first one prints to standard output."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(options.devices),
        "NPROC": str((os.cpu_count() or 1) + options.devices),  # threads, as in fmdp.parallel.mesh.divide_cpu
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(options.processes),
    }
    command = [sys.executable, "-m", "fmdp.main", "--distributed=auto", f"--distributed_timeout={options.timeout}"]
    return [
        subprocess.Popen(
            [*command, *arguments],
            env=os.environ | environment | {"JAX_PROCESS_ID": str(process)},
            start_new_session=True,  # Ctrl-C reaches them through this process, once
            stdout=subprocess.DEVNULL if process else None,
            stderr=subprocess.PIPE if process else None,
            text=True,
        )
        for process in range(options.processes)
    ]


def listen(process: int, processes: list[subprocess.Popen], reasons: dict[int, str]) -> None:
    """Print the standard error of a process, but store its reason for failing: other processes may give the same one.

    Output after the failure of the first process is dropped, because it only reports the loss of that process.
    """
    for line in processes[process].stderr or ():
        if line.startswith("fmdp: "):
            reasons[process] = line.removeprefix("fmdp: ").strip()
        elif not processes[0].poll():
            print(f"[process {process}] {line}", end="", file=sys.stderr, flush=True)


def wait(processes: list[subprocess.Popen], signals: list[int], grace: float) -> int | None:
    """Wait until all processes have ended; after a failure or a signal, kill those that remain.

    Returns:
      The index of the process that failed first, or None.
    """
    failed, deadline = None, float("inf")
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
        if failed is None:
            failed = next((i for i, process in enumerate(processes) if process.poll()), None)
            if failed is not None and not signals:
                deadline = time.monotonic() + PATIENCE
        if signals:
            deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()  # SIGTERM would only request a checkpoint
    return (
        failed if failed is not None else next((i for i, process in enumerate(processes) if process.returncode), None)
    )


def main(argv: list[str]) -> int:
    """Run the processes and return the exit code."""
    options, arguments = parse(argv)
    signals: list[int] = []
    processes = start(options, arguments)

    def forward(number, _):
        signals.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    reasons: dict[int, str] = {}
    listeners = [
        threading.Thread(target=listen, args=(process, processes, reasons), daemon=True)
        for process in range(1, len(processes))
    ]
    for listener in listeners:
        listener.start()
    failed = wait(processes, signals, options.grace)
    for listener in listeners:
        listener.join(timeout=PATIENCE)
    if signals:
        return 128 + signals[0]
    if failed is None:
        return 0
    code = processes[failed].returncode
    if failed in reasons and processes[0].returncode != 2:
        print(f"local: process {failed}: {reasons[failed]}", file=sys.stderr)
    elif processes[0].returncode != 2:
        name = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        print(
            f"local: process {failed} of {len(processes)} ended by {name} ({code}), and with it the run:"
            " run the same command again to resume from the latest checkpoint",
            file=sys.stderr,
        )
    return code if code > 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
