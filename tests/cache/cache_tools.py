"""What the tests of the cache share: a compiler that is fast and predictable, folders, and processes."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from small_kernel import SmallSpec

from flashactor.compiler.nvrtc import CompiledKernel, options

FAKE_VERSION = "0.0 (fake)"
HANG_SECONDS = 60


def small_spec(number):
    """The specification of one of many kernels."""
    return SmallSpec(defines=(("SCALE", f"{number}.0f"),), label=f"small-{number}")


def fake_cubin(spec):
    """The bytes that the fake compiler makes: some kilobytes that depend on the options alone."""
    digest = sha256(repr(options(spec)).encode()).digest()
    return b"\x7fELF" + digest * (16 + digest[0])


def fake_compile(spec, *, root=None):
    """As ``nvrtc.compile_cubin``, without a compiler."""
    return CompiledKernel(fake_cubin(spec), 16, 128, 0, 0, 0, "", 0.001, FAKE_VERSION)


def use_fake_compiler(compile_=fake_compile):
    """Replace the compiler of this process."""
    from flashactor.cache import cubin_cache as cache

    cache.compile_cubin = compile_
    cache.nvrtc_version = lambda: FAKE_VERSION


def files_below(folder):
    """Every file, and nothing if there is no folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def wait_for(condition, what):
    """Wait until something is true; a test that hangs says for what."""
    deadline = time.monotonic() + HANG_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {HANG_SECONDS} s"
        time.sleep(0.005)
    return found


class Child:
    """A Python process that runs a program, which may import what the tests may."""

    def __init__(self, program, *arguments):
        here = Path(__file__).parent
        folders = (here.parents[1], here, here.parent / "compiler")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()

    def send(self, which):
        """A signal, by its name."""
        self.process.send_signal(getattr(signal, which))

    def result(self):
        """The lines that it printed, once it has ended well."""
        out, err = self.process.communicate(timeout=HANG_SECONDS)
        assert self.process.returncode == 0, err
        return out.splitlines()


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("more", ctypes.c_uint32))


@contextmanager
def modes_apply_to_root():
    """Let the modes of files apply to this thread even if it is root's, as they do to everyone else's."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    sets = (_Capabilities * 2)()
    assert libc.capget(header, sets) == 0
    before, override = sets[0].effective, 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    sets[0].effective = before & ~override
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(header, sets) == 0


@contextmanager
def read_only(folder):
    """Nothing below a folder can be written meanwhile."""
    below = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in below}
    for path in below:
        path.chmod(modes[path] & 0o555)
    try:
        with modes_apply_to_root():
            yield
    finally:
        for path in below:
            path.chmod(modes[path])
