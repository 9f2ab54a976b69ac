"""Joining the other processes of a run, and leaving them.

The processes are described by three environment variables, which launch/local.py sets, or detected by JAX on SLURM,
Cloud TPU, GKE and Open MPI.
"""

import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from fmdp.errors import InputError, reason, translating

COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
FORMS = {
    COORDINATOR: (".+:[0-9]{1,5}", "HOST:PORT of process 0"),
    PROCESSES: ("[0-9]{1,9}", "a whole number"),
    PROCESS: ("[0-9]{1,9}", "a whole number"),
}
"""What each variable must be, as a pattern and in words."""
PATIENCE = 2.0  # seconds for which process 0, the coordinator, waits for others that fail for the same reason


def join(timeout: int) -> None:
    """Meet the other processes of the run at their coordinator. All but the first then write no standard output.

    Args:
      timeout: seconds to wait for all processes. After that, or if no cluster is found, the program ends with one line
        and exit code 2.

    Raises:
      InputError: the environment describes an impossible run.
    """
    given = _given()
    if given.get("process_id") == 0:
        _check_port(given["coordinator_address"])
    where = given.get("coordinator_address", "the coordinator")
    alarm = threading.Timer(timeout, lambda: leave(_missing(where, given.get("num_processes"), timeout)))
    alarm.daemon = True
    alarm.start()
    try:
        # At its own time-out JAX would end the process without our message, so that one must not be reached.
        jax.distributed.initialize(**given, initialization_timeout=timeout + 60)
    except (RuntimeError, ValueError) as error:
        remedy = f"set {COORDINATOR}, {PROCESSES} and {PROCESS}, or leave --distributed out to run in one process"
        leave(f"--distributed=auto: no cluster was joined ({reason(error)}): {remedy}")
    finally:
        alarm.cancel()
    if jax.process_index() > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _given() -> dict[str, Any]:
    """The processes in the environment, as arguments of `jax.distributed.initialize`; empty if there are none."""
    if PROCESSES not in os.environ and PROCESS not in os.environ:
        return {}
    values = {name: os.environ.get(name, "") for name in FORMS}
    for name, (pattern, words) in FORMS.items():
        if not re.fullmatch(pattern, values[name]):
            raise InputError(f"{name}={values[name]}: must be {words}; set {', '.join(FORMS)}, or none of them")
    processes, process = int(values[PROCESSES]), int(values[PROCESS])
    if process >= processes:
        raise InputError(f"{PROCESS}={process}: must be from 0 to {PROCESSES} - 1 = {processes - 1}")
    if not 0 < int(values[COORDINATOR].rpartition(":")[2]) < 2**16:
        raise InputError(f"{COORDINATOR}={values[COORDINATOR]}: must have a port from 1 to 65535")
    return {
        "coordinator_address": values[COORDINATOR],
        "num_processes": processes,
        "process_id": process,
        "cluster_detection_method": "deactivate",
    }


def _check_port(address: str) -> None:
    """Raises InputError if process 0 cannot listen; JAX would end the program with a stack dump."""
    port = int(address.rpartition(":")[2])
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        remedy = f"if another run, or another process with {PROCESS}=0, uses it already, name another port"
        message = f"{COORDINATOR}={address}: process 0 cannot listen there"
        with translating(lambda why: f"{message} ({why}): {remedy}", OSError):
            listening.bind(("", port))


def _missing(address: str, processes: int | None, timeout: int) -> str:
    """Why the processes did not meet, as far as this process can find out."""
    host, _, port = address.rpartition(":")
    if host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            return (
                f"the coordinator {address} cannot be reached ({error.strerror or error}) in {timeout} s:"
                f" is process 0 running, is {COORDINATOR} its address, and is the port open?"
            )
    return (
        f"not all {processes or ''} processes came to {address} in {timeout} s: start as many as {PROCESSES} says,"
        " or give slow ones more time with --distributed_timeout"
    )


def leave(message: str, code: int = 2, patience: float = 0) -> NoReturn:
    """End this process with one line on standard error, without waiting for others, which may be waiting for it."""
    print(f"fmdp: {message}", file=sys.stderr, flush=True)
    time.sleep(patience)
    os._exit(code)


def run_process(program: Callable[[], Any]) -> None:
    """Run a program; if it fails in one of several processes, end that process at once, as `leave` does."""
    try:
        program()
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        message, code = str(error), 2
        if not isinstance(error, InputError):
            traceback.print_exc()
            message, code = f"process {jax.process_index()} failed, see above", 1
        leave(message, code, PATIENCE if jax.process_index() == 0 else 0)
