"""A setting that needs a package which is not in the image is refused with the build argument's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ichat.backends import sglang_extras, vllm_extras
from ichat.backends.engines import load_engines, refuse_missing_extras
from ichat.config.resolve import Resolved, resolve
from ichat.config.sources import Sources
from ichat.errors import ConfigError, ExitCode

NEEDS = {"vllm": vllm_extras.NEEDS, "sglang": sglang_extras.NEEDS}


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    for name in ("vllm", "sglang"):
        (tmp_path / name / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    return tmp_path


def configured(*argv: str) -> Resolved:
    return resolve(Sources.read(("--model-path=org/m", *argv), {}), load_engines())


def refused(environments: Path, *argv: str) -> str:
    resolved = configured(*argv)
    with pytest.raises(ConfigError) as found:
        refuse_missing_extras(resolved.settings.models, environments, resolved.origins)
    assert found.value.exit_code is ExitCode.CONFIG
    assert all(len(line) < 300 for line in found.value.line().splitlines())
    return str(found.value)


def accept(environments: Path, *argv: str) -> None:
    resolved = configured(*argv)
    refuse_missing_extras(resolved.settings.models, environments, resolved.origins)


NIXL_CONFIG = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
BOTH = '{"kv_connector":"MultiConnector","kv_connector_extra_config":{"connectors":[{"kv_connector":"NixlConnector"}]}}'


@pytest.mark.parametrize(
    ("argv", "title", "name"),
    [
        (("--kv-transfer-config", NIXL_CONFIG), "NIXL", "nixl"),
        (("--kv-transfer-config", BOTH), "NIXL", "nixl"),
        (("--kv-transfer-config.kv_connector", "LMCacheConnectorV1"), "LMCache", "lmcache"),
        (("--kv-transfer-config", '{"kv_connector":"MooncakeStoreConnector"}'), "Mooncake", "mooncake"),
        (("--kv-offloading-backend=lmcache",), "LMCache", "lmcache"),
        (("--all2all-backend=deepep_low_latency",), "DeepEP", "deep-ep"),
        (("--backend=sglang", "--disaggregation-mode=prefill"), "Mooncake", "mooncake"),
        (
            ("--backend=sglang", "--disaggregation-mode=decode", "--disaggregation-transfer-backend=nixl"),
            "NIXL",
            "nixl",
        ),
        (("--backend=sglang", "--enable-lmcache"), "LMCache", "lmcache"),
        (("--backend=sglang", "--hicache-storage-backend=nixl"), "NIXL", "nixl"),
        (("--backend=sglang", "--moe-a2a-backend=deepep_v2"), "DeepEP", "deep-ep"),
    ],
)
def test_it_is_refused_by_name_until_the_image_has_it(
    environments: Path, argv: tuple[str, ...], title: str, name: str
) -> None:
    words = refused(environments, *argv)
    assert words.startswith(argv[-1].partition("=")[0] if argv[-1].startswith("--") else argv[-2].partition(".")[0])
    assert f"needs {title}, which" in words
    assert f'make image EXTRAS="{name}"' in words
    assert words.count("EXTRAS") == 1
    for engine in ("vllm", "sglang"):
        (environments / engine / "extras").write_text(f"other\n{name}\n")
    accept(environments, *argv)


@pytest.mark.parametrize("file", ["lmcache/__init__.py", "lmcache.py", "lmcache.cpython-312-x86_64-linux-gnu.so"])
def test_a_package_that_somebody_added_counts(environments: Path, file: str) -> None:
    path = environments / "sglang" / "lib" / "python3.12" / "site-packages" / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    accept(environments, "--backend=sglang", "--enable-lmcache")
    refused(environments, "--kv-offloading-backend=lmcache")


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("--kv-transfer-config", '{"kv_connector":"OffloadingConnector"}'),
        ("--kv-offloading-backend=native",),
        ("--all2all-backend=allgather_reducescatter",),
        ("--backend=sglang", "--moe-a2a-backend=none", "--hicache-storage-backend=file"),
    ],
)
def test_what_needs_nothing_is_not_refused(environments: Path, argv: tuple[str, ...]) -> None:
    accept(environments, *argv)


def test_all_that_is_missing_is_told_at_once(environments: Path) -> None:
    words = refused(environments, "--backend=sglang", "--enable-lmcache", "--hicache-storage-backend=mooncake")
    assert {"lmcache", "mooncake"} == {name for name in ("nixl", "mooncake", "lmcache") if f'EXTRAS="{name}"' in words}


def test_the_place_in_the_file_is_named(environments: Path, tmp_path: Path) -> None:
    file = tmp_path / "configs.yaml"
    file.write_text("models:\n  m:\n    model_path: org/m\n    engine_args:\n      kv-offloading-backend: lmcache\n")
    resolved = resolve(Sources.read(("--config", str(file)), {}), load_engines())
    with pytest.raises(ConfigError, match=r"configs\.yaml:5:\d+: --kv-offloading-backend needs LMCache"):
        refuse_missing_extras(resolved.settings.models, environments, resolved.origins)


def test_without_an_environment_there_is_nothing_to_look_into(tmp_path: Path) -> None:
    accept(tmp_path, "--kv-offloading-backend=lmcache")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_flag_of_the_table_is_one_of_the_engine(engine: str) -> None:
    known: Any = load_engines()[engine].catalogue.by_dest
    assert {need.dest for need in NEEDS[engine]} <= set(known)
    assert {need.unless for need in NEEDS[engine]} <= {"", *known}
