"""The hub is away: what is whole in its cache is served on either engine, and what is not ends with 75."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.hub import NOWHERE, put_into_cache
from tests.launcher_process import ROOT
from tests.real_engine import ENGINES, RealLauncher
from tests.worker_process import DEMO

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

#: Of the hub's own library: what each says about whether another try helps.
RAISED = {
    "LocalEntryNotFoundError('x')": 75,  # no network, and not in the cache
    "OfflineModeIsEnabled('x')": 75,
    "HfHubHTTPError('x', response=response)": 75,
    "EntryNotFoundError('x')": 66,
    "RemoteEntryNotFoundError('x', response=response)": 66,
    "RepositoryNotFoundError('x', response=response)": 66,
    "RevisionNotFoundError('x', response=response)": 66,
    "GatedRepoError('x', response=response)": 77,
    "HFValidationError('x')": 66,
}


def hub_at(cache: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": NOWHERE, "HF_HUB_CACHE": str(cache)}


@pytest.mark.parametrize("backend", ENGINES)
def test_a_model_that_was_downloaded_starts_without_network(backend: str, tmp_path: Path) -> None:
    put_into_cache(DEMO, tmp_path, "ichat/demo")
    with RealLauncher(backend, model={"model_path": "ichat/demo"}, env=hub_at(tmp_path)) as launcher:
        launcher.wait_ready()
        status, answer = launcher.complete()
        assert (status, bool(answer["choices"][0]["text"])) == (200, True)
        assert "the hub cannot be reached" in launcher.lines()
        assert launcher.restarts == 0
        assert launcher.stop() == 0


@pytest.mark.parametrize("backend", ENGINES)
def test_a_model_that_was_not_is_worth_another_try(backend: str, tmp_path: Path) -> None:
    sections = {"model": {"model_path": "org/nothing"}, "restarts": {"enabled": False}}
    with RealLauncher(backend, env=hub_at(tmp_path), **sections) as launcher:
        assert launcher.wait(200) == 75, launcher.lines()[-3000:]
        assert "error[E-HUB-UNREACHABLE]" in launcher.lines()


@pytest.mark.parametrize("backend", ENGINES)
def test_the_errors_of_the_hubs_own_library_get_their_exit_codes(backend: str) -> None:
    code = (
        "import inspect, sys\n"
        "from huggingface_hub.errors import *\n"
        "from huggingface_hub.errors import HfHubHTTPError\n"
        "from ichat.backends.failures import explain_start_failure\n"
        "http = sys.modules[next(c.__module__ for c in HfHubHTTPError.__mro__ if c.__module__.startswith('http'))"
        ".partition('.')[0]]\n"
        "response = http.Response(500, request=http.Request('GET', 'http://hub'))\n"
        f"for words in {list(RAISED)!r}:\n"
        "    print(int(explain_start_failure(eval(words)).exit_code))\n"
    )
    python = ROOT / ".venvs" / backend / "bin" / "python"
    told = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert dict(zip(RAISED, map(int, told.split()), strict=True)) == RAISED
