"""Each engine goes its own way with well-known models on three generations of GPUs, up to the first launch of a kernel."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cuda.environments import ENGINES, Card, run_inside
from tests.cuda.inside.fake_gpu import CARDS
from tests.cuda.record import argv_of
from tests.cuda.well_known import WELL_KNOWN, Model

pytestmark = pytest.mark.cuda

Walked = dict[tuple[str, Card, str], dict[str, Any]]


@pytest.fixture(scope="module")
def walked(facts: dict[str, Any]) -> Walked:
    with ThreadPoolExecutor(2) as pool:
        cases = [(engine, card) for card in CARDS for engine in ENGINES]
        found = dict(zip(cases, pool.map(lambda case: _walk(*case), cases), strict=True))
    walked = {(*case, told.pop("case")): told for case, lines in found.items() for told in lines}
    facts["choices"] = {
        f"{engine} sm_{card[0]}{card[1]} {model}": " ".join(f"{k}={v}" for k, v in told.items() if k != "error")
        for (engine, card, model), told in walked.items()
    }
    return walked


def _walk(engine: str, card: Card) -> list[dict[str, Any]]:
    asked = {"card": card, "models": {model.name: argv_of(engine, model) for model in WELL_KNOWN}}
    ran = run_inside(engine, "-m", f"tests.cuda.inside.walk_{engine}", card=card, asked=asked, timeout_s=1800)
    assert ran.code == 0, ran.words[-4000:]
    return ran.lines()


@pytest.mark.parametrize("model", WELL_KNOWN, ids=lambda model: model.name)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"sm_{card[0]}{card[1]}")
@pytest.mark.parametrize("engine", ENGINES)
def test_model_is_built(engine: str, card: Card, model: Model, walked: Walked) -> None:
    told = walked[engine, card, model.name]
    if refusal := model.refused_by.get(engine):
        assert refusal in told["error"], told
        return
    assert "error" not in told, told["error"]
    assert told["architecture"] == model.architecture_of(engine)
    assert model.quantization in (told["quantization"] or "")
    assert told["sampler"] == "flashinfer"
    assert told["methods"]
    assert told["attention"]
