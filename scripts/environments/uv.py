"""The installer: uv, fetched once by hash into `.tools`, and what the machine's pip settings mean to it."""

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from building import Say, SetupError, UnavailableError, only_one
from driver_stub import driver_functions, stand_in_driver, stub_library
from versions import LOCKS, ROOT

TOOLS = ROOT / ".tools"
# The lines of uv that tell a waiting person what it waits for: downloads of 10 MiB and more.
BIG_DOWNLOAD = re.compile(r"\s*(Downloading \S+ \((?:\d{2,}\.\d+MiB|[\d.]+GiB)\))")
_PYTHON_IS_ELSEWHERE = (
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONPATH",
    "PYTHONHOME",
    "UV_PYTHON",
    "UV_PROJECT_ENVIRONMENT",
)


def complete_cuda(site_packages: Path) -> None:
    """Let a linker find the CUDA that comes as Python packages: it looks in `lib64`, for names without a version.

    What the engines compile at run time (FlashInfer, DeepGEMM) is linked against it.
    """
    for cuda in site_packages.glob("nvidia/cu[0-9]*"):
        for library in (cuda / "lib").glob("*.so.*"):
            plain = library.with_name(f"{library.name.partition('.so.')[0]}.so")
            if not plain.exists():
                plain.symlink_to(library.name)
        if not (cuda / "lib64").exists():
            (cuda / "lib64").symlink_to("lib")
        # DeepGEMM looks for it beside nvcc. No package has it for CUDA 13.0; Triton's reads what nvcc 13.0 writes.
        for tool in site_packages.glob("triton/backends/nvidia/bin/cuobjdump"):
            if not (name := cuda / "bin" / "cuobjdump").exists():
                name.hardlink_to(tool)
        # The driver's library comes with the driver, wherever that is; without the header nothing is compiled.
        if (header := cuda / "include" / "cuda.h").exists():
            (cuda / "lib" / "stubs").mkdir(exist_ok=True)
            stub = stub_library(driver_functions(header.read_text()), platform.machine())
            (cuda / "lib" / "stubs" / "libcuda.so").write_bytes(stub)


class Uv:
    """Installs from lock files: nothing without a hash, nothing built from source."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def create(self, environment: Path) -> None:
        # Relocatable: it is built under another name than it gets.
        self.run("venv", "--quiet", "--relocatable", "--python", sys.executable, str(environment))

    def install(self, environment: Path, lock: Path) -> None:
        if lock.name == "torch-cpu.txt":
            self._install_cpu_torch(environment, lock)
        elif "cuda" in lock.name:
            # A directory of wheels may hold torch's build for the CPU, which uv would take for the same version.
            self._install(environment, lock, UV_FIND_LINKS="")
        else:
            self._install(environment, lock)

    def check(self, environment: Path, statement: str) -> None:
        header = next(environment.glob("lib/python3*/site-packages/nvidia/cu1*/include/cuda.h"))
        with stand_in_driver(header) as driver:
            places = f"{driver}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
            variables = {"LD_LIBRARY_PATH": places, "CUDA_HOME": str(header.parents[1])}
            # Not with -I, as everywhere else: an engine is not run with it either.
            command = [str(environment / "bin" / "python"), "-B", "-c", statement]
            done = subprocess.run(
                command, env=self._environment | variables, capture_output=True, text=True, check=False, close_fds=False
            )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise SetupError(last.rstrip(".") + ".")

    def finish(self, environment: Path, final: Path) -> None:
        # Without bytecode every first import costs seconds. The names inside are those of the final place.
        python = str(environment / "bin" / "python")
        library = next(environment.glob("lib/python3*"))
        complete_cuda(library / "site-packages")
        strip = ("-s", str(environment), "-p", str(final))
        # Its exit code is useless: some packages hold templates that are not Python. Without `site`: the environment's
        # hooks import ichat, which need not be there yet.
        command = [python, "-I", "-S", "-m", "compileall", "-qq", "-j", "0", *strip, str(library)]
        subprocess.run(command, check=False, close_fds=False)

    def run(self, *arguments: str, **environment: str) -> None:
        """Run uv, showing what it downloads. Raises SetupError with its last words."""
        # close_fds: the lock of the set-up must live as long as the last process that writes.
        process = subprocess.Popen(
            [str(self._binary), *arguments],
            env=self._environment | environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            close_fds=False,
        )
        with process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line.rstrip())
                if telling := BIG_DOWNLOAD.match(line):
                    self._say(f"      {telling[1]}")
        if process.returncode:
            words = "\n".join(lines[-30:])
            raise SetupError(f"uv {arguments[0]}: exited with code {process.returncode}. Its last words:\n{words}")

    def _install(self, environment: Path, lock: Path, *options: str, **variables: str) -> None:
        python = str(environment / "bin" / "python")
        only = ("--no-deps", "--require-hashes", "--no-build", "--python", python)
        self.run("pip", "install", *only, *options, "-r", str(lock), **variables)

    def _install_cpu_torch(self, environment: Path, lock: Path) -> None:
        """From a directory of wheels where the machine names one, else from torch's own index."""
        offers = [("--no-index",)] if self._find_links else []
        for options in (*offers, ("--torch-backend", "cpu")):
            try:
                # A network without torch's index should cost seconds, not the full patience of a download.
                self._install(environment, lock, *options, UV_HTTP_RETRIES="1", UV_HTTP_CONNECT_TIMEOUT="10")
            except SetupError:
                continue
            return
        raise UnavailableError("torch's build for the CPU cannot be had on this network.")

    @cached_property
    def _binary(self) -> Path:
        pinned = (LOCKS / "uv.txt").read_text()
        home = TOOLS / f"uv-{pinned.split('uv==')[1].split()[0]}"
        binary = home / "bin" / "uv"
        if not binary.exists():
            self._fetch(home)
        return binary

    def _fetch(self, home: Path) -> None:
        self._say(f"{home.name}: fetching the installer")
        building = TOOLS / ".new-uv"
        python = str(building / "bin" / "python")
        pip = [python, "-I", "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", str(LOCKS / "uv.txt")]
        with only_one(TOOLS, self._say):
            shutil.rmtree(building, ignore_errors=True)
            for command in ([sys.executable, "-I", "-m", "venv", str(building)], pip):
                done = subprocess.run(command, capture_output=True, text=True, check=False, close_fds=False)
                if done.returncode:
                    raise SetupError(self._explain(command, done.stdout + done.stderr))
            if not home.exists():
                building.rename(home)

    @staticmethod
    def _explain(command: list[str], output: str) -> str:
        if "ensurepip" in output:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            return (
                f"{sys.executable}: cannot make environments, its module venv is incomplete. "
                f"Install it (on Debian: apt-get install python{version}-venv)."
            )
        return f"{' '.join(command[2:5])}: failed. Its last words:\n{output.strip()[-2000:]}"

    @cached_property
    def _pip_settings(self) -> dict[str, str]:
        """What the machine's owner told pip, variables before files. uv reads none of it."""
        python = str(self._binary.parent / "python")
        listed = subprocess.run(
            [python, "-I", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
        )
        settings: dict[str, str] = {}
        for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
            name, _, value = line.partition("=")
            settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
        return settings

    @property
    def index(self) -> tuple[str, str | None]:
        """Where packages are listed, and the certificates that vouch for it; None: those of the system."""
        return self._environment.get("UV_DEFAULT_INDEX", "https://pypi.org/simple"), self._environment.get(
            "SSL_CERT_FILE"
        )

    @cached_property
    def _find_links(self) -> str:
        return os.environ.get("UV_FIND_LINKS") or ",".join(self._pip_settings.get("find-links", "").split())

    @cached_property
    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in _PYTHON_IS_ELSEWHERE}
        environment |= {"UV_LINK_MODE": "hardlink", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        if self._find_links:
            environment["UV_FIND_LINKS"] = self._find_links
        for ours, theirs in (("UV_DEFAULT_INDEX", "index-url"), ("SSL_CERT_FILE", "cert")):
            if theirs in self._pip_settings:
                environment.setdefault(ours, self._pip_settings[theirs])
        if "UV_CACHE_DIR" not in environment and not self._shares_a_disk_with_the_cache():
            environment["UV_CACHE_DIR"] = str(TOOLS / "uv-cache")
        return environment

    @staticmethod
    def _shares_a_disk_with_the_cache() -> bool:
        """Hard links, by which the environments share torch, do not cross file systems."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
        return bool(existing.stat().st_dev == ROOT.stat().st_dev)
