"""Programs of the command line: every mistake of a user ends in one line on standard error and exit code 2."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app

from fmdp.cli.compile_cache import use_compile_cache
from fmdp.cli.flags import parse_flags
from fmdp.data.decoding import ignore_metadata_warnings
from fmdp.errors import InputError, printable
from fmdp.io.files import is_disk_full
from fmdp.parallel import cluster

MAX_LENGTH = 1000  # of a message, in characters


def run_program(program: Callable[[list[str]], None]) -> None:
    """Parse the flags, run a program, and translate its errors."""
    ignore_metadata_warnings()
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    try:
        use_compile_cache()
        cluster.run_process(lambda: app.run(program, flags_parser=parse_flags))
    except InputError as error:
        exit_with_message(str(error))
    except KeyboardInterrupt:
        print("fmdp: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if is_disk_full(error):
            exit_with_message(f"{error}: make room, and run the same command again to resume from the last checkpoint")
        if error.filename is None:
            raise
        place = error.filename2 or error.filename
        exit_with_message(f"{place}: {error.strerror}: see what is there and who may write to it, or name another path")


def exit_with_message(message: str) -> NoReturn:
    """End the program with one line on standard error and exit code 2."""
    print(f"fmdp: {printable(message)[:MAX_LENGTH]}", file=sys.stderr)
    sys.exit(2)
