import errno
import fcntl
import os

import pytest

from fmdp.io import files


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_where_nothing_can_be_locked_the_run_goes_on_and_says_so(number, tmp_path, monkeypatch, caplog):
    def flock(lock, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.lock_workdir(tmp_path):
        (told,) = caplog.messages
    assert told == f"{tmp_path} cannot be locked ({os.strerror(number)}): do not start a second run in it"
