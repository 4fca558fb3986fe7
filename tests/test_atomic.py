"""Locks and temporary files, also where a file system locks otherwise than a disk."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swift_bids import atomic
from swift_bids.atomic import (
    exclusive,
    remove_parts,
    undisturbed_folder,
    work_folder,
    write_atomically,
)
from swift_bids.outputs import write_json, write_text

LONG_AGO = time.time() - 2 * 86_400


def is_locked(path):
    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def left_by_a_killed_call(path):
    """A file, or a lock, of a process that was killed while it had it."""
    code = "from pathlib import Path; from swift_bids.atomic import _locked; import os; "
    code += f"_locked(Path({str(path)!r})).__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.exists()


def test_where_a_lock_keeps_off_its_own_process(tmp_path):
    """On CIFS what is locked can be written to through the handle with the lock only."""

    def write(path):
        if is_locked(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        path.write_text("new")

    write_atomically(tmp_path / "a.tsv", write)
    assert os.listdir(tmp_path) == ["a.tsv"]
    assert (tmp_path / "a.tsv").read_text() == "new"


@pytest.fixture
def network_file_system(monkeypatch):
    """Locks as on NFS: exclusive ones need a file that is open for writing."""
    real = fcntl.flock

    def flock(file, how):
        handle = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_left_behind_on_a_network_file_system(tmp_path, network_file_system):
    """They were taken for left behind after a day only."""

    def write_beside_others(path):
        remove_parts(tmp_path)
        path.write_text("b")

    left_by_a_killed_call(tmp_path / ".a.tsv.0.part")
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == []
    write_atomically(tmp_path / "b.tsv", write_beside_others)
    assert os.listdir(tmp_path) == ["b.tsv"]


def test_one_at_a_time_on_a_network_file_system(tmp_path, network_file_system):
    """All were let through, since a folder cannot be opened for writing."""
    left_by_a_killed_call(tmp_path / ".lock.part")
    inside, most = [], []

    def change():
        for _ in range(20):
            with exclusive(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1
    assert os.listdir(tmp_path) == []


def test_a_lock_of_another_machine_on_cifs(tmp_path, monkeypatch):
    """It is refused like a file that may not be written to: everybody was let in."""
    monkeypatch.setattr(atomic, "_LONGEST", 0.3)
    left_by_a_killed_call(tmp_path / ".a.part")

    def flock(file, how):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fcntl, "flock", flock)
    begin = time.monotonic()
    with exclusive(tmp_path):
        assert 0.3 <= time.monotonic() - begin < 5
    os.utime(tmp_path / ".a.part", (LONG_AGO, LONG_AGO))
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == [".a.part"]


def test_a_file_that_is_removed_meanwhile_on_nfs(tmp_path, monkeypatch):
    """It is `stale` then; a run's last step failed."""
    real, calls = fcntl.flock, []

    def flock(file, how):
        calls.append(1)
        if len(calls) < 3:
            os.unlink(tmp_path / ".lock.part")
            raise OSError(errno.ESTALE, "Stale file handle")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path):
        assert is_locked(tmp_path / ".lock.part")
    assert len(calls) == 4


def test_a_lock_that_somebody_else_has_by_now_stays(tmp_path, monkeypatch):
    """Between the look and the lock it was removed and made anew: two were in."""
    path = tmp_path / ".lock.part"
    left_by_a_killed_call(path)
    real, others = fcntl.flock, []

    def flock(file, how):
        if not others:
            path.unlink()
            others.append(open(path, "ab"))
            real(others[0], how)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    remove_parts(tmp_path)
    assert is_locked(path)
    others[0].close()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_leads_elsewhere(tmp_path, link):
    """Somebody who may write to the output folder could open the caller's files to everybody."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    (tmp_path / "logs").mkdir()
    link(secret, tmp_path / "logs" / ".lock.part")
    with exclusive(tmp_path / "logs"):
        pass
    assert secret.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "logs") == []


def test_a_call_of_days_where_there_are_no_locks(tmp_path, monkeypatch):
    """Its work folder was taken for left behind after a day."""

    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    parent = tmp_path / ".swift_bids_work"
    for name in ("living", "dead"):
        (parent / name / "wf" / "run").mkdir(parents=True)
        (parent / name / ".lock").touch()
        for path in (*parent.glob(f"{name}/**/*"), parent / name):
            os.utime(path, (LONG_AGO, LONG_AGO))
    (parent / "living" / "wf" / "run" / "now").touch()
    with work_folder(None, tmp_path, "mine"):
        assert sorted(os.listdir(parent)) == ["living", "mine"]


def test_a_call_that_should_end_waits_for_nobody(tmp_path, monkeypatch):
    """A lock that a file server keeps took its recap away."""
    monkeypatch.setattr(atomic, "was_asked", lambda: True)
    with exclusive(tmp_path):
        begin = time.monotonic()
        with exclusive(tmp_path):
            assert 1 <= time.monotonic() - begin < 30


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    """A machine that went away with a lock, which its file server keeps."""
    monkeypatch.setattr(atomic, "_LONGEST", 2)
    with exclusive(tmp_path, "run"):
        begin = time.monotonic()
        with exclusive(tmp_path, "another"):
            assert time.monotonic() - begin < 2
        with exclusive(tmp_path, "run"):
            assert 2 <= time.monotonic() - begin < 30


def test_the_next_user_may_take_the_lock(tmp_path):
    """One of a killed call of another user kept the folder's others out."""
    before = os.umask(0o077)
    try:
        with exclusive(tmp_path):
            assert (tmp_path / ".lock.part").stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_what_is_being_removed_cannot_be_taken(tmp_path, monkeypatch):
    """Between the look and the removal another call could begin to write it."""
    left_by_a_killed_call(tmp_path / ".a.tsv.0.part")
    held = []
    real = Path.unlink

    def unlink(path, **options):
        held.append(is_locked(path))
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    remove_parts(tmp_path)
    assert held == [True]


def test_work_folders_of_killed_calls(tmp_path):
    """Those without a lock stayed for ever."""
    parent = tmp_path / ".swift_bids_work"
    for name, age in (("old", LONG_AGO), ("young", None)):
        (parent / name / "pymp").mkdir(parents=True)
        if age:
            for path in (parent / name / "pymp", parent / name):
                os.utime(path, (age, age))
    left_by_a_killed_call(parent / "locked" / ".lock")
    with work_folder(None, tmp_path, "mine") as folder:
        assert sorted(os.listdir(parent)) == ["mine", "young"]
        assert folder == parent / "mine"
    assert os.listdir(parent) == ["young"]


def test_only_what_the_call_made_goes(tmp_path):
    """An empty output folder of the user's own was removed."""
    for place, left in ((tmp_path / "users", True), (tmp_path / "made" / "here", False)):
        if left:
            place.mkdir()
        with work_folder(None, place, "mine"):
            pass
        assert place.exists() == left
        assert not left or os.listdir(place) == []


def test_a_kept_work_folder_alone_is_locked(tmp_path):
    with undisturbed_folder(tmp_path, tmp_path / "steps", ["run"], "first") as first:
        assert first == tmp_path
        with undisturbed_folder(tmp_path, tmp_path / "steps", ["other"], "second") as second:
            assert second == tmp_path


def test_half_a_character(tmp_path):
    """As a name that is no UTF-8 holds, and JSON may: an error of Python ended the call."""
    write_text(tmp_path / "a.txt", "f\udcfc \ud83d é")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "f\\udcfc \\ud83d é"
    write_json(tmp_path / "a.json", {"Authors": ["\ud83d"]})
    assert '"\\ud83d"' in (tmp_path / "a.json").read_text(encoding="utf-8")
