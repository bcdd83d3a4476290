"""Makes the demo model: trains a tokenizer and a small Qwen2 on questions/*.yaml, and measures what it has learnt.

Run it with the vLLM environment's Python. The same data, seed, library versions and kind of CPU give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from conversations import END, IGNORED, PAD, START, Deck, Encoder, Sample, collate
from dataset import Topic, fingerprint, load
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from variations import SYSTEM_PROMPTS, vary

HERE = Path(__file__).parent
SEED = 20
STEPS = 1800
THREADS = 2  # sums in another number of threads round differently: fixed, so that the result is reproducible
PEAK_LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
ACCURACY_FLOOR = 0.99

VOCABULARY = 3072
# Han characters one by one: otherwise whole Chinese sentences become tokens that no other sentence has. Since no token
# spans two of these words, the pattern that transformers 5 puts in its place for every Qwen2 cuts the same tokens.
WORDS = r"\p{Han}| ?[\p{L}&&[^\p{Han}]]+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


# ---- tokenizer and model ----------------------------------------------------------------------------------


def train_tokenizer(topics: list[Topic]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(topics), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _texts(topics: list[Topic]) -> Iterator[str]:
    yield from ("system", "user", "assistant", *SYSTEM_PROMPTS)
    for topic in topics:
        yield from [topic.answer] * 4  # what is said is worth more tokens than what is heard
        for question in topic.train:
            yield from (question, question.lower())


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_attention_heads=4,  # of 64 each: the attention kernels for the CPU need a head size of 32, 64 …
        num_key_value_heads=2,
        num_hidden_layers=4,
        intermediate_size=512,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "sdpa"
    return Qwen2ForCausalLM(config)


# ---- training and measuring -------------------------------------------------------------------------------


def answer_logits(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Logits at the places that predict an answer's token, those tokens, and the row each belongs to."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    expected = labels[:, 1:]
    rows, columns = torch.nonzero(expected != IGNORED, as_tuple=True)
    return model.lm_head(hidden[rows, columns]), expected[rows, columns], rows


def train(model: Qwen2ForCausalLM, deck: Deck, steps: int, pad: int) -> None:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, steps))
    began = time.monotonic()
    model.train()
    for step, batch in enumerate(itertools.islice(deck.batches(), steps), start=1):
        ids, labels = collate(batch, pad)
        # The engines compute in bfloat16: so does the training, with the weights themselves in float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, expected, _ = answer_logits(model, ids, labels)
        loss = torch.nn.functional.cross_entropy(logits.float(), expected)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {time.monotonic() - began:.0f} s", flush=True)


def _learning_rate(step: int, steps: int) -> float:
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)))


@torch.no_grad()
def measure(model: Qwen2ForCausalLM, samples: list[tuple[str, Sample]], pad: int) -> tuple[list[str], list[float]]:
    """Questions whose greedy answer is not the exact text, and for each right one its smallest lead.

    The lead is the logit of the answer's token less the best other, at the answer's weakest place: greedy text
    survives any rounding that is smaller.
    """
    model.eval()
    wrong: list[str] = []
    leads: list[float] = []
    ordered = sorted(samples, key=lambda pair: len(pair[1].ids))
    for start in range(0, len(ordered), 128):
        part = ordered[start : start + 128]
        ids, labels = collate([sample for _, sample in part], pad)
        logits, expected, rows = answer_logits(model, ids, labels)
        logits = logits.float()
        own = logits.gather(1, expected[:, None]).squeeze(1)
        lead = own - logits.scatter(1, expected[:, None], -math.inf).amax(1)
        for row, (question, _) in enumerate(part):
            weakest = lead[rows == row].min().item()
            if weakest > 0:
                leads.append(weakest)
            else:
                wrong.append(question)
    return wrong, leads


def report(folder: Path, topics: list[Topic]) -> dict[str, Any]:
    """What the saved model knows, in the numbers of training.json, read as the engines read it. Prints what it does not."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder, pad = Encoder(tokenizer), tokenizer.pad_token_id
    dice = random.Random(SEED + 1)  # other variations than those trained on
    asked = {
        "train": [(q, encoder.chat([(q, t.answer)])) for t in topics for q in t.train],
        "varied": [
            (v, encoder.chat([(v, t.answer)])) for t in topics for q in t.train[:3] for v in [vary(q, t.language, dice)]
        ],
        "usual": [(t.train[0], encoder.chat([(t.train[0], t.answer)])) for t in topics],
        "held_out": [(q, encoder.chat([(q, t.answer)])) for t in topics for q in t.held_out],
        "completion": [(t.train[0], encoder.raw(t.train[0], t.answer)) for t in topics],
    }
    numbers: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype)
        for name, samples in asked.items():
            wrong, leads = measure(model, samples, pad)
            key = f"{name}_{str(dtype).removeprefix('torch.')}"
            numbers[key] = {
                "questions": len(samples),
                "exact": round(1 - len(wrong) / len(samples), 4),
                "lead_of_99_percent": round(sorted(leads)[len(leads) // 100], 2) if leads else 0.0,
            }
            print(key, numbers[key], *(f"\n  not known: {question}" for question in wrong[:10]))
    return numbers


# ---- files ------------------------------------------------------------------------------------------------


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16)
    # Both engines take their default sampling from here: without a temperature in the request the answer is the greedy one.
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written for the owner alone, and the container runs as anyone
    _add_json(folder / "generation_config.json", {"temperature": 0.0})


def _add_json(path: Path, fields: dict[str, Any]) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_record(folder: Path, steps: int, seconds: float, numbers: dict[str, Any]) -> None:
    """training.json: which data made which files, so that a test sees when they drift apart."""
    files = ("model.safetensors", "tokenizer.json", "config.json")
    record = {
        "questions_sha256": fingerprint(),
        "files_sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        "seed": SEED,
        "steps": steps,
        "seconds": round(seconds),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "measured": numbers,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def is_good(numbers: dict[str, Any]) -> bool:
    return all(row["exact"] >= ACCURACY_FLOOR for name, row in numbers.items() if name.startswith("train"))


def check(folder: Path, topics: list[Topic]) -> int:
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if is_stale := record["questions_sha256"] != fingerprint():
        print("The questions are not those that these weights were trained on. Run train.py.")
    return 0 if is_good(report(folder, topics)) and not is_stale else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this one)")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="train nothing; measure what --out knows of the questions")
    options = parser.parse_args(argv)
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
    topics = load()
    if options.check:
        return check(options.out, topics)
    tokenizer = train_tokenizer(topics)
    model = new_model(tokenizer)
    print(f"{len(topics)} topics, {sum(len(t.train) for t in topics)} questions, {model.num_parameters()} parameters")
    began = time.monotonic()
    train(model, Deck(topics, Encoder(tokenizer), random.Random(SEED)), options.steps, tokenizer.pad_token_id)
    seconds = time.monotonic() - began
    save(model, tokenizer, options.out)
    numbers = report(options.out, topics)
    write_record(options.out, options.steps, seconds, numbers)
    return 0 if is_good(numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
