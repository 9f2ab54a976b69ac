"""That the rules of pyproject.toml turn what is left open, and what warns, into failures."""

import subprocess
import sys

import pytest

from tests.cli.test_main import ROOT

PASSES = "def test_it(tmp_path):\n    with open(__file__):\n        pass\n"
FAILS = {
    "ResourceWarning: unclosed file": "def test_it():\n    open(__file__).read()\n",
    "ResourceWarning: unclosed <socket": "import socket\ndef test_it():\n    socket.socket()\n",
    "UserWarning: ours": "import warnings\ndef test_it():\n    warnings.warn('ours')\n",
    "PytestUnhandledThreadExceptionWarning": (
        "import threading\n"
        "def test_it():\n    thread = threading.Thread(target=int, args='x')\n    thread.start()\n    thread.join()\n"
    ),
}


@pytest.mark.slow
def test_what_is_left_open_or_warns_fails(tmp_path):
    def run(source):
        (tmp_path / "test_it.py").write_text(source)
        options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert run(PASSES).returncode == 0
    for warning, source in FAILS.items():
        done = run(source)
        assert done.returncode == 1, done.stdout
        assert warning in done.stdout
