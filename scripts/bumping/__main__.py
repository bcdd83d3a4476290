"""`make bump`: tells which versions of the engines exist and what each wants, and takes those that are asked for.

A version that GPU and CPU have, on the torch of the other engine, becomes the pinned one. Any other gets locks of its
own beside it (requirements/versions/): `make image` builds it, the tests run on it where this machine can.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "environments"))

from outlook import (
    ENGINES,
    GB,
    ON_A_CPU,
    RefusedError,
    Release,
    cost_bytes,
    kernels_of,
    made_for_another_torch,
    newest_without,
    one_torch,
    pins_of,
    releases,
    table,
)
from registry import Registry, RegistryError
from uv import Uv
from versions import CPU, CUDA, LOCKS, PINS, REQUIREMENTS, ROOT, WITHOUT_KERNELS, names_in, supported_versions

OK, USAGE, CANNOT = 0, 64, 69
_LOCKED = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)", re.M)


def say(line: str = "") -> None:
    print(line, flush=True)


def main() -> int:
    uv = Uv(say)
    try:
        registry = Registry(*uv.index)
        wanted = dict(_wanted(word) for word in sys.argv[1:])
        if not wanted:
            show(registry)
        else:
            take(registry, wanted)
    except (RefusedError, RegistryError) as error:
        print(error, file=sys.stderr)
        return CANNOT if isinstance(error, RegistryError) else USAGE
    return OK


def _wanted(word: str) -> tuple[str, str]:
    engine, _, version = word.partition("=")
    if engine not in ENGINES or not re.fullmatch(r"[0-9][0-9a-z.]*", version):
        raise RefusedError(f"{word}: not a version of an engine. For example: make bump VLLM=0.33.0 SGLANG=0.5.23.")
    return engine, version


def pinned() -> dict[str, str]:
    return {name: line.partition("==")[2] for name, line in names_in(PINS.read_text()).items()}


# ---- the question -------------------------------------------------------------------------------------------------


def show(registry: Registry) -> None:
    """The table, the newest pair on one torch, and why nothing newer is it."""
    pins = pinned()
    found = {engine: releases(registry, engine, pins[engine]) for engine in ENGINES}
    locked = {engine: {*supported_versions(engine, CPU), *supported_versions(engine, CUDA)} for engine in ENGINES}
    for line in table(found, pins, locked):
        say(line)
    pair = one_torch(found)
    say()
    if pair:
        vllm, sglang = pair
        say(f"One torch for both, GPU and CPU: vllm {vllm.version} and sglang {sglang.version}, on torch {vllm.torch}.")
    for reason in newest_without(found, pair):
        say(f"  {reason}")
    say("A version on another torch gets an environment with it: make bump VLLM=… or SGLANG=… says what that costs.")


# ---- the move -----------------------------------------------------------------------------------------------------


def take(registry: Registry, wanted: dict[str, str]) -> None:
    pins = pinned()
    chosen = {engine: _release(registry, engine, version) for engine, version in wanted.items()}
    families = {engine: pins_of(registry, release) for engine, release in chosen.items()}
    for engine, release in chosen.items():
        refuse_foreign_kernels(registry, release, families[engine])
    torches = {engine: families[engine]["torch"] if engine in chosen else pins["torch"] for engine in ENGINES}
    is_one = len(set(torches.values())) == 1 and all(release.has_cpu for release in chosen.values())
    for engine, release in chosen.items():
        tell(registry, release, families[engine], is_one=is_one)
        if is_one:
            pin(release, families[engine])
        else:
            write_beside(release, families[engine])
    run("scripts/setup", "--locks")
    for engine, release in chosen.items():
        check_lock(registry, release, is_one=is_one)
        set_up(engine, release, is_one=is_one)
    run(".venvs/dev/bin/python", "-m", "ichat.backends.reference")
    say()
    say("Done. Read `git diff`, then `make test`: the contract tests say what moved inside the engine, and")
    say("ichat/backends/{vllm,sglang}_compat.py is where that goes. Another range there? docs/engines.md lists it too.")


def _release(registry: Registry, engine: str, version: str) -> Release:
    found = releases(registry, engine, version, version)
    if not found:
        there = ", ".join(str(each) for each in registry.versions(engine)[-5:])
        raise RefusedError(f"{engine}={version}: the registry has no such version. Its newest are {there}.")
    if not found[0].torch:
        raise RefusedError(
            f"{engine}={version}: does not say which torch it is built for. Add it by hand: docs/engines.md."
        )
    return found[0]


def refuse_foreign_kernels(registry: Registry, release: Release, family: dict[str, str]) -> None:
    """Of what the engine itself names: before anything is changed."""
    if wrong := made_for_another_torch(registry, kernels_of(release), family["torch"]):
        raise RefusedError(f"{release.engine}={release.version}: " + "; ".join(wrong) + ". Nothing was changed.")


def check_lock(registry: Registry, release: Release, *, is_one: bool) -> None:
    """Of everything that the resolver has chosen: an override of ours may have let something in."""
    name = f"{release.engine}-cuda" if is_one else f"{release.engine}-{release.version}-cuda"
    locked = dict(_LOCKED.findall((LOCKS / f"{name}.txt").read_text()))
    others = {package: version for package, version in locked.items() if not package.startswith(("nvidia-", "torch"))}
    if wrong := made_for_another_torch(registry, others, locked["torch"]):
        raise RefusedError(
            f"requirements/locks/{name}.txt: " + "; ".join(wrong) + ". Go back with git checkout requirements."
        )
    say(f"{name}: no package of {len(locked)} asks for another torch than {locked['torch']}")


def tell(registry: Registry, release: Release, family: dict[str, str], *, is_one: bool) -> None:
    engine, version = release.engine, release.version
    if not release.has_cpu:
        name = ON_A_CPU[engine]
        say(f"{engine} {version}: {name} has no {version}, so a CPU stays at {pinned()[name]}; this is for a GPU only.")
    if is_one:
        say(f"{engine} {version}: becomes the pinned version, on torch {family['torch']}, which both engines want.")
        return
    say(f"{engine} {version}: gets locks of its own beside the pinned version, on torch {family['torch']}.")
    costs = cost_bytes(registry, pinned(), family)
    if costs:
        largest_first = sorted(costs.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in largest_first if size > GB / 20)
        total = sum(costs.values()) / GB
        say(f"  With the other engine pinned, an image for the GPU holds {total:.1f} GB twice ({parts}).")


def pin(release: Release, family: dict[str, str]) -> None:
    text = PINS.read_text()
    for name, version in {release.engine: release.version, ON_A_CPU[release.engine]: release.version, **family}.items():
        text = re.sub(rf"^{re.escape(name)}==.*$", f"{name}=={version}", text, flags=re.M)
    PINS.write_text(text)
    dockerfile = ROOT / "Dockerfile"
    variable = f"ARG {release.engine.upper()}_VERSION="
    dockerfile.write_text(re.sub(rf"^{variable}.+$", variable + release.version, dockerfile.read_text(), flags=re.M))


def write_beside(release: Release, family: dict[str, str]) -> None:
    """requirements/versions/: for a GPU on its own torch, for a CPU on the pinned one (docs/decisions.md)."""
    engine, version, kind = release.engine, release.version, CPU if release.has_cpu else WITHOUT_KERNELS
    purpose = "on a CPU" if kind == CPU else "to test what needs no kernel"
    write(f"{engine}-{version}", f"{engine} {version} for a GPU, on its own torch.", {engine: version, **family})
    write(f"{engine}-{version}-{kind}", f"{engine} {version} {purpose}, on the torch of pins.txt.", {engine: version})


def write(name: str, title: str, pins: dict[str, str]) -> None:
    """A file that is there keeps what somebody wrote at its head."""
    path = REQUIREMENTS / "versions" / f"{name}.txt"
    head = [line for line in path.read_text().splitlines() if line.startswith("#")] if path.exists() else [f"# {title}"]
    path.write_text("\n".join([*head, *(f"{package}=={version}" for package, version in pins.items()), ""]))


def set_up(engine: str, release: Release, *, is_one: bool) -> None:
    name = engine if is_one else f"{engine}-{release.version}"
    run("scripts/setup", "ichat", name, "dev")
    command = [f".venvs/{name}/bin/python", "-m", "ichat.backends.flags.generate"]
    run(*command, *(["--pinned"] if is_one else []), VLLM_TARGET_DEVICE="cpu")


def run(*command: str, **variables: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in {"VLLM", "SGLANG"}}
    done = subprocess.run(command, cwd=ROOT, env=kept | variables, check=False)
    if done.returncode:
        raise RefusedError(
            f"{' '.join(command)}: ended with {done.returncode}. To go back: git checkout requirements Dockerfile."
        )


if __name__ == "__main__":
    sys.exit(main())
