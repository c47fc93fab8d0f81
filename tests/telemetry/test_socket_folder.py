"""The folder of sockets: nobody else's, and nothing dead stays in it."""

import os
import socket

import pytest

from flashactor.errors import RequestError
from flashactor.telemetry.socket_folder import SocketFolder


@pytest.fixture
def path(tmp_path):
    """Where there is no folder yet; longer than the address of a socket may be."""
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    return deep / "flashactor"


@pytest.fixture
def folder(path):
    """A folder that was made."""
    with SocketFolder(path, create=True) as made:
        yield made


def leave_a_dead_socket(folder, pid):
    """As a process that was killed."""
    folder.listen(pid).close()
    assert folder.pids() == [pid]


def test_it_is_made_for_this_user_alone(path):
    with pytest.raises(FileNotFoundError):
        SocketFolder(path)
    os.umask(before := os.umask(0))
    try:
        os.umask(0)
        SocketFolder(path, create=True).close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    SocketFolder(path).close()


def test_a_link_is_refused(path, tmp_path):
    path.symlink_to(tmp_path)
    with pytest.raises(RequestError, match=r"folder of sockets: got .*no link"):
        SocketFolder(path, create=True)


def test_a_file_is_refused(path):
    path.touch()
    with pytest.raises(RequestError, match="folder of sockets: got"):
        SocketFolder(path, create=True)


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_folder_that_others_may_enter_is_refused(path, mode):
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(RequestError, match=f"with mode {mode:o}"):
        SocketFolder(path, create=True)


def test_another_users_folder_is_refused(path, monkeypatch):
    path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(RequestError, match=f"a folder of user {path.stat().st_uid}"):
        SocketFolder(path)


def test_who_listens_can_be_reached(folder):
    with folder.listen(123) as listening:
        assert folder.pids() == [123]
        with folder.connect(123, 10.0) as connection:
            accepted, _ = listening.accept()
            with accepted:
                accepted.sendall(b"hello")
            assert connection.recv(100) == b"hello"
    folder.remove(123)
    folder.remove(123)
    assert folder.connect(123, 10.0) is None


def test_a_dead_socket_goes_when_somebody_tries_it(folder):
    leave_a_dead_socket(folder, 123)
    assert folder.connect(123, 10.0) is None
    assert folder.pids() == []


def test_a_number_that_was_used_before_is_used_again(folder):
    leave_a_dead_socket(folder, 123)
    with folder.listen(123), folder.connect(123, 10.0) as connection:
        assert connection.getpeername()


def test_sweeping_removes_the_sockets_of_the_dead_alone(folder):
    gone = 1 << 30  # no process has such a number
    leave_a_dead_socket(folder, gone)
    with folder.listen(os.getpid()), folder.listen(gone + 1):  # a container's, whose numbers are others
        folder.sweep()
        assert folder.pids() == [os.getpid(), gone + 1]


def test_other_files_are_left_alone(folder, path):
    for name in ("notes.txt", "x.sock", "٣.sock"):
        (path / name).touch()
    folder.sweep()
    assert folder.pids() == []
    assert len(list(path.iterdir())) == 3


def test_a_full_backlog_is_a_process_that_does_not_answer(folder):
    with folder.listen(123) as listening:
        listening.listen(0)
        with folder.connect(123, 10.0), pytest.raises(TimeoutError):
            folder.connect(123, 0.05)


def test_what_cannot_listen_leaves_nothing(folder, path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError("no room")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="no room"):
        folder.listen(123)
    assert list(path.iterdir()) == []


def test_sockets_are_not_inherited(folder):
    with folder.listen(123) as listening:
        assert isinstance(listening, socket.socket)
        assert not os.get_inheritable(listening.fileno())
