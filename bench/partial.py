"""How much of the time replicas wait for a few long responses, with each sampled whole and with partial rollouts.

    python -m bench.partial [--model models/tiny] [--prompts 1000] [--batch 100] [--longest 400] [--staleness 3] [--part 100]
        [--replicas 2] [--json FILE]

A batch is begun after each weight sync, as a run with that staleness does it; nothing is trained, so the weights change at once
when what is due has ended. The length of a response is drawn from a log-normal distribution (median 40 tokens, sigma 1), up to
`longest`, and each ends at its length. Both ways sample the same prompts to the same lengths. A replica is idle while it has no
response to sample and the other one has; it is in its tail while it samples fewer than a quarter of those that it began with.
"""

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.measure import write_json
from vlrl import config as cfg
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.models.weight_files import weight_files
from vlrl.rollout.engine import Decoding, Request, sampling_seed
from vlrl.rollout.replicas import Replicas, shared_out
from vlrl.rollout.responses import Responses, sample_responses
from vlrl.scoring import Scorer
from vlrl.types import Prompt, Rollout, Row


class Watched:
    """Replicas that note when each has begun and ended its responses."""

    def __init__(self, replicas: Replicas, count: int) -> None:
        self._replicas, self._count = replicas, count
        self.slots, self.seconds, self.idle, self.tail = replicas.slots, 0.0, 0.0, 0.0

    def generate(self, requests: Sequence[Request]) -> Iterator[Rollout]:
        replica = shared_out(requests, self._count)
        ended: dict[int, list[float]] = {number: [] for number in range(self._count)}
        start = time.perf_counter()
        for rollout in self._replicas.generate(requests):
            ended[replica[rollout.slot]].append(time.perf_counter() - start)
            yield rollout
        last = max(itertools.chain(*ended.values()))
        self.seconds += last
        for times in ended.values():
            if times:
                self.tail += (times[-1] - times[len(times) - len(times) // 4 - 1]) / self._count
            self.idle += (last - (times[-1] if times else 0.0)) / self._count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    for name, number in {"prompts": 1000, "batch": 100, "longest": 400, "staleness": 3, "part": 100, "replicas": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    encoder = load_encoder(options.model, cfg.ImagesConfig())
    prompts = made_up(encoder, options.prompts, options.longest)
    batches = [prompts[first : first + options.batch] for first in range(0, len(prompts), options.batch)]
    replicas = Replicas(
        [""] * options.replicas, opened(options.model, encoder), silent_s=60.0, shrinks=False, devices=[()] * options.replicas
    )
    weights = {name: tensor for file in weight_files(options.model) for name, tensor in load_file(file).items()}
    found: dict[str, Any] = {}
    with Scorer(["tasks"], workers=1, timeout_s=10, memory_mb=1024) as scorer:
        for name, part in {"whole": None, "partial": options.part}.items():
            watched = Watched(replicas, options.replicas)
            started = time.perf_counter()
            sample_all(batches, watched, scorer, encoder, weights, replicas, part=part, staleness=options.staleness)
            seconds = time.perf_counter() - started
            found[name] = {"seconds": seconds, "idle": watched.idle / watched.seconds, "tail": watched.tail / watched.seconds}
            print(
                f"{name}: {seconds:.1f} s, idle {watched.idle / watched.seconds:.1%}, tail {watched.tail / watched.seconds:.1%}"
            )
    replicas.close()
    write_json(options.json, command=" ".join(sys.argv[1:]), **found)


def sample_all(
    batches: Sequence[Sequence[Prompt]],
    engine: Any,
    scorer: Scorer,
    encoder: Encoder,
    weights: dict[str, torch.Tensor],
    replicas: Replicas,
    *,
    part: int | None,
    staleness: int,
) -> None:
    """Begins a batch after each weight sync and completes the one that is due, until all are complete."""
    begun: dict[int, Responses] = {}
    for number in range(len(batches) + staleness - 1):
        if number < len(batches):
            begun[number] = Responses.to(batches[number], (), lambda *place: sampling_seed(*place))
        due = number - staleness + 1 if part else number
        limits = {responses: None if step <= due else part for step, responses in begun.items()}
        if limits:
            sample_responses(limits, engine=engine, scorer=scorer, decode=encoder.decode, decoding=Decoding(temperature=1.0))
        begun = {step: responses for step, responses in begun.items() if responses.begun}
        replicas.load_weights(weights.items())
        replicas.reset_caches()


def made_up(encoder: Encoder, count: int, longest: int) -> list[Prompt]:
    """Prompts whose responses have very unequal lengths."""
    draw = random.Random(0)
    lengths = [min(longest, 1 + int(draw.lognormvariate(3.7, 1.0))) for _ in range(count)]
    encoded: list[EncodedPrompt] = [
        encoder.encode([{"role": "user", "content": [{"type": "text", "text": f"Count to {number}."}]}])
        for number in range(count)
    ]
    return [
        Prompt(slot=slot, task="any", row=Row(), messages=(), max_new_tokens=length, encoded=prompt)
        for slot, (length, prompt) in enumerate(zip(lengths, encoded, strict=True))
    ]


def opened(model: str, encoder: Encoder) -> dict[str, Any]:
    """What a replica starts its engine with; responses end at their full length alone."""
    return {
        "model": model,
        "dtype": "float32",
        "seed": 0,
        "engine": cfg.EngineConfig(max_model_len=512, kv_cache_gb=1).model_dump(mode="json"),
        "end_tokens": [encoder.image_token],  # which is never sampled
        "banned": [*encoder.banned_tokens(check_model(model)["text_config"]["vocab_size"]), *encoder.end_tokens],
        "merge_size": encoder.merge_size,
        "model_type": encoder.family.model_type,
        "tells_routes": False,
        "lora": None,
        "threads": 1,
    }


if __name__ == "__main__":
    main()
