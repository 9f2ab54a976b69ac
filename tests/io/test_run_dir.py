import errno
import fcntl
import os

import pytest

from fmdp.io.run_dir import RunDir


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_causes_a_warning_only(number, tmp_path, monkeypatch, caplog):
    def flock(lock, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunDir(tmp_path).lock():
        (message,) = caplog.messages
    assert message == f"{tmp_path} cannot be locked ({os.strerror(number)}): start no second run in it"
