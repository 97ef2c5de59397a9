"""Where files are written: what is refused before the work, and what stays as it was."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from commands import run
from sentei import storage
from sentei.errors import FileError
from sentei.formats import export, save
from sentei.reporting import figures
from sentei.reporting.page import explain, report

NET = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
X = torch.rand(8, 4)


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))


def a_link_to(target):
    return lambda path: path.symlink_to(target)


def a_file_above(path):
    path.parent.rmdir()
    path.parent.write_bytes(b"")


# What may stand where a file is to be written, and what the message says.
OBSTACLES = {
    "folder": (Path.mkdir, "is a folder; name a file in it"),
    "pipe": (a_pipe, "is a pipe"),
    "socket": (a_socket, "is a socket"),
    "link to a device": (a_link_to("/dev/null"), "is a device"),
    "link to a folder": (a_link_to("/tmp"), "is a folder"),
    "link to itself": (a_link_to("net.c"), "levels of symbolic links"),
    "file above": (a_file_above, "is a file, so .* cannot be written"),
}
NET = nn.Sequential(nn.Linear(4, 2))
# Everything that writes one file; none may begin its work before the place is checked.
WRITERS = {
    "write": lambda path: storage.write(path, b"new"),
    "save": lambda path: save(NET, path),
    "export c": lambda path: export(NET, path, X),
    "export c-int8": lambda path: export(NET, path, X, format="c-int8"),
    "report": lambda path: report("no such run", path),
    "explain": lambda path: explain(NET, path, (X, torch.zeros(len(X)))),
}


def everything(folder):
    """Return what is in a folder: names, types and contents, links not followed."""
    return {
        (path, path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_an_obstacle_is_found_before_the_work(obstacle, writer, tmp_path):
    path = tmp_path / "place" / "net.c"
    path.parent.mkdir()
    put, says = OBSTACLES[obstacle]
    put(path)
    before = everything(tmp_path)
    with pytest.raises(FileError, match=says):
        WRITERS[writer](path)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/proc/self/fd/1", "a\0b", "n" * 300])
def test_devices_and_impossible_names_are_refused(path):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as reader:
        code = f"from sentei import storage; storage.write({path!r}, b'new')"
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=reader.stdin, stderr=subprocess.PIPE, check=False
        )
        reader.stdin.close()
    assert done.stderr.splitlines()[-1].startswith(b"sentei.errors.FileError")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_header_and_a_figure_are_checked_too(tmp_path):
    (tmp_path / "net.h").mkdir()
    with pytest.raises(FileError, match=r"net\.h is a folder"):
        export(NET, tmp_path / "net.c", X)
    (tmp_path / "drawn.svg").mkdir()
    figure, _ = figures.canvas()
    with pytest.raises(FileError, match=r"drawn\.svg is a folder"):
        figures.write(figure, tmp_path / "drawn")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn.svg", "net.h"]


# Nobody may write everywhere but root, so these run as nobody.
AS_NOBODY = """
import os, sys
from sentei import storage
from sentei.errors import FileError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    storage.{call}({path!r})
except FileError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("call", "path", "says"),
    [
        ("writable", "closed/net", "no permission to write in"),
        ("writable", "closed/deeper/still/net", "no permission to write in"),
        ("writable", "open/mine", "no permission to change this file"),
        ("writable", "open/net", ""),
        ("writable_folder", "closed/run", "no permission to write in"),
        ("writable_folder", "open/run/deeper", ""),
    ],
)
def test_permission_is_asked_before_the_work(call, path, says, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    for part in (folder, *folder.parents):
        if (part.stat().st_mode & 0o5) != 0o5:
            part.chmod(0o755)
    (folder / "closed").mkdir(mode=0o755)
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "open/mine").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY.format(call=call, path=str(folder / path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, bool(done.stderr)) == ((1, True) if says else (0, False)), done.stderr
    assert says in done.stderr
    assert (folder / "open/mine").read_bytes() == b"old"


def test_links_are_followed_and_stay(tmp_path):
    target, link, dangling = tmp_path / "there" / "net", tmp_path / "link", tmp_path / "dangling"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to("there/net")
    dangling.symlink_to("new/net")
    for path in (link, dangling):
        storage.write(path, b"new")
        assert path.is_symlink()
        assert path.read_bytes() == b"new"
    assert target.read_bytes() == b"new"
    assert (tmp_path / "new/net").is_file()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_the_permissions_of_an_old_file_stay(mode, tmp_path):
    path = tmp_path / "net"
    path.write_bytes(b"old")
    path.chmod(mode)
    storage.write(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(mask, tmp_path):
    before = os.umask(mask)
    try:
        storage.write(tmp_path / "net", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "net").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("name", ["n" * 255, "ß" * 127])
def test_names_may_be_as_long_as_the_system_allows(name, tmp_path):
    storage.write(tmp_path / name, b"new")
    assert (tmp_path / name).read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["fsync", "replace", "fchmod"])
def test_a_failure_leaves_the_old_file_and_nothing_else(at, error, tmp_path, monkeypatch):
    def fails(*_):
        raise error

    path = tmp_path / "net"
    path.write_bytes(b"old")
    (tmp_path / ".net.0123.part").write_bytes(b"of a process that was killed")
    before = everything(tmp_path)
    monkeypatch.setattr(Path if at == "replace" else os, at, fails)
    with pytest.raises((FileError, KeyboardInterrupt), match=r"No space|^$"):
        storage.write(path, b"new")
    assert everything(tmp_path) == before
    monkeypatch.undo()
    storage.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / ".net.0123.part").read_bytes() == b"of a process that was killed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--out", "there"],
        ["export", "net.safetensors", "--out", "there"],
        ["prune", "784-9-10", "--units-at-most", "3", "--out", "pipe"],
        ["prune", "784-9-10", "--units-at-most", "3", "--report", "there"],
        ["prune", "784-9-10", "--units-at-most", "3", "--journal", "net.safetensors"],
        ["figures", "there", "--into", "net.safetensors"],
        ["reproduce", "wsf", "--into", "net.safetensors/below"],
        ["surface", "784-9-10", "--out", "drawn"],
        ["compare", "784-9-10", "--out", "drawn"],
        ["explain", "784-9-10", "--out", "there"],
        ["tidy", "784-9-10", "--out", "there"],
    ],
)
def test_commands_find_obstacles_before_they_work(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("there", "drawn.svg"):
        (tmp_path / name).mkdir()
    a_pipe(tmp_path / "pipe")
    (tmp_path / "net.safetensors").write_bytes(b"old")
    before = everything(tmp_path)
    monkeypatch.setattr("sentei.cli.loading.loaded", None)
    monkeypatch.setattr("sentei.training.build", None)
    code, out, err = run(*arguments, capsys=capsys)
    assert code == 2
    said = (out + err).replace("\n", " ")
    assert any(says in said for says in ("is a folder", "is a pipe", "is a file"))
    assert everything(tmp_path) == before
