"""Many command lines of fmdp.main for the price of one import: each runs in a fork of a process that has imported it.

The fork comes before JAX starts its threads, so each child takes the way of a program of its own, to its exit code.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
TOGETHER = 4
PROGRAM = f"""
import json, os, sys, traceback
from fmdp import main
from fmdp.cli.errors import run_program

main.define_flags()

def child(name, arguments, environment):
    for number, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{{folder}}/{{name}}.{{ending}}", os.O_CREAT | os.O_WRONLY), number)
    os.environ.update(environment)
    sys.argv = ["fmdp.main", *arguments]
    code = 1
    try:
        run_program(main.main)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

folder, cases, codes, running = sys.argv[1], json.load(sys.stdin), {{}}, {{}}
while cases or running:
    while cases and len(running) < {TOGETHER}:
        name = next(iter(cases))
        case = cases.pop(name)
        number = os.fork()
        if not number:
            child(name, *case)
        running[number] = name
    number, status = os.wait()
    codes[running.pop(number)] = os.waitstatus_to_exitcode(status)
print(json.dumps(codes))
"""


class Ended(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


def run_forked(cases: dict[str, list[str]], environments: dict[str, dict[str, str]] | None = None) -> dict[str, Ended]:
    """The exit code and the two outputs of each command line, under the names of the cases.

    Args:
      cases: the arguments of fmdp.main by the name of the case.
      environments: what the environment of a case has besides the one of this process.
    """
    given = {name: (arguments, (environments or {}).get(name, {})) for name, arguments in cases.items()}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, folder],
            input=json.dumps(given), cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True, capture_output=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        codes = json.loads(done.stdout)
        texts = {name: [pathlib.Path(folder, f"{name}.{end}").read_text() for end in ("out", "err")] for name in cases}
    return {name: Ended(codes[name], *texts[name]) for name in cases}
