"""Builds the C++ kernel with this computer's compiler, once, and keeps it in a cache.

The library has a plain C interface, so that neither Python's nor torch's headers are needed: it
compiles in seconds. It is linked against the OpenMP library that torch has loaded; with a
second one, two sets of threads would fight for the processors.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from palma.engine.continuous.cpu_kernel.kernel import DecodeKernel

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
HEADERS = ("attention.h", "decoder.h", "packed_linear.h", "vectors.h")
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wl,--as-needed")
MAX_BUILD_S = 300


class KernelUnavailable(Exception):
    """There is no kernel on this computer; the message says why."""


def default_cache_folder() -> Path:
    """Return where built kernels are kept: `palma` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palma"


def load_kernel(
    cache_folder: Path | None = None, run: Callable[[list[str]], None] | None = None
) -> DecodeKernel:
    """Load the kernel, building it first where it is not in the cache; this takes seconds.

    Args:
        cache_folder: Where to look and to keep; None means `default_cache_folder`.
        run: Runs the compiler, and raises KernelUnavailable if it fails.

    Raises:
        KernelUnavailable: With the reason.
    """
    openmp = _loaded_openmp()
    try:
        folder = cache_folder or default_cache_folder()
        library = folder / f"kernels-{_key(openmp)}.so"
        if not library.exists():
            _build(library, openmp, run or _Compilation().run)
        return DecodeKernel(library)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        raise KernelUnavailable(str(error)) from error


def find_kernel(cache_folder: Path | None = None) -> DecodeKernel | None:
    """Load the kernel if it was built before."""
    try:
        return load_kernel(cache_folder, _refuse)
    except KernelUnavailable:
        return None


def _refuse(_: list[str]) -> None:
    raise KernelUnavailable("it was not built yet")


class KernelBuild:
    """Loads or builds the kernel in a thread of its own, while the server serves without it.

    Args:
        on_ready: Gets the kernel, in that thread; is not called if there is none.
        is_enabled: False: nothing is started.
        cache_folder: As in `load_kernel`.
    """

    def __init__(
        self,
        on_ready: Callable[[DecodeKernel], None],
        *,
        is_enabled: bool = True,
        cache_folder: Path | None = None,
    ) -> None:
        self._on_ready = on_ready
        self._cache_folder = cache_folder
        self._compilation = _Compilation()
        self._thread = threading.Thread(target=self._load, name="palma-kernel-build", daemon=True)
        if is_enabled:
            self._thread.start()

    def close(self) -> None:
        """Stop a compiler that still runs, and wait for the thread."""
        self._compilation.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _load(self) -> None:
        try:
            kernel = load_kernel(self._cache_folder, self._compilation.run)
        except KernelUnavailable as error:
            logger.info("decoding without the C++ kernel: %s", error)
            return
        self._on_ready(kernel)


class _Compilation:
    """A run of the compiler that another thread may stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False

    def run(self, command: list[str]) -> None:
        with self._lock:
            if self._is_stopped:
                raise KernelUnavailable("the server stops")
            self._process = subprocess.Popen(  # noqa: S603  # our command, no shell
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # so that its own processes can be ended with it
            )
        with self._process as process:
            try:
                _, errors = process.communicate(timeout=MAX_BUILD_S)
            except subprocess.TimeoutExpired:
                _end(process)
                raise KernelUnavailable(f"the compiler took over {MAX_BUILD_S} s") from None
        if self._is_stopped:
            raise KernelUnavailable("the server stops")
        if process.returncode != 0:
            reason = next((line for line in errors.splitlines() if "error" in line), "no message")
            raise KernelUnavailable(f"{command[0]} failed: {reason}")

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                _end(self._process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a compiler and what it has started: g++ leaves the work to a process of its own."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _build(library: Path, openmp: Path, run: Callable[[list[str]], None]) -> None:
    """Compile into a folder of our own; the finished library then appears in one move."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise KernelUnavailable(f"none of {', '.join(COMPILERS)} is installed")
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build-") as folder:
        output = Path(folder) / library.name
        run([compiler, *FLAGS, str(SOURCE), str(openmp), "-o", str(output)])
        output.replace(library)


def _key(openmp: Path) -> str:
    """Return what the built library depends on, as a short hash."""
    sources = [SOURCE, *(SOURCE.with_name(name) for name in HEADERS)]
    texts = tuple(source.read_bytes() for source in sources)
    parts = (texts, FLAGS, torch.__version__, _processor(), openmp)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> list[str]:
    """Return the lines of /proc/cpuinfo that say what `-march=native` means here."""
    names = ("model name", "flags", "Features", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return sorted({line for line in lines if line.startswith(names)})


def _loaded_openmp() -> Path:
    """Return the OpenMP library that torch computes with."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        raise KernelUnavailable("it is built on Linux only") from None
    paths = {Path(fields[5]) for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    found = sorted(path for path in paths if path.name.startswith(("libgomp", "libiomp5")))
    if not found:
        raise KernelUnavailable("torch has no OpenMP library loaded that g++ can link")
    return found[0]
