"""Sampling by groups: a prompt and its image once for all samples, beside samples that share nothing; and the weights' way in.

    python -m bench.rollout [--model models/tiny] [--groups 8] [--group-size 8] [--tokens 64] [--repeats 5] [--json FILE]

shared: as in a run, each image under one key, so that the engine's vision tower sees it once. apart: every sample's image under
a key of its own, as if it were another. Responses go on to their full length. sync: all weights from the trainer to the engine.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bench.made_up import Case, made_up
from bench.measure import interleaved, ratios, write_json
from vlrl import config as cfg
from vlrl.distributed.ranks import join_ranks
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.processor import EncodedPrompt
from vlrl.rollout.engine import Decoding, Request, sampling_seed
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.rollout.weight_sync import push_weights
from vlrl.trainer.policy import Policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    ranks, encoder = join_ranks(), load_encoder(options.model, cfg.ImagesConfig())
    banned = encoder.banned_tokens(check_model(options.model)["text_config"]["vocab_size"])
    with tempfile.TemporaryDirectory() as folder:
        case = Case(groups=options.groups, group_size=options.group_size, side=512, words=8, lengths=[options.tokens])
        groups = made_up(case, encoder, Path(folder))
    settings = cfg.PolicyConfig(dtype=dtype, zero_stage=1)
    policy = Policy(settings, options.model, ranks=ranks, updates=1, temperature=1.0, banned=banned)
    engine = VllmEngine(
        cfg.EngineConfig(max_model_len=4096, vllm={"max_num_seqs": options.groups * options.group_size}),
        options.model,
        dtype=dtype,
        seed=0,
        end_tokens=[encoder.image_token],  # which is never sampled, so that responses end at their full length
        banned=[*banned, *encoder.end_tokens],
        merge_size=encoder.merge_size,
        family=encoder.family,
        ranks=ranks,
    )

    def sampled(key: Callable[[str, int], str]) -> None:
        def keyed(prompt: EncodedPrompt, sample: int) -> EncodedPrompt:
            return replace(prompt, image_keys=tuple(key(each, sample) for each in prompt.image_keys))

        requests = [
            Request(
                slot=group.prompt.slot,
                sample=sample,
                prompt=keyed(group.prompt.encoded, sample),
                max_new_tokens=options.tokens,
                decoding=Decoding(temperature=1.0),
                seed=sampling_seed(group.prompt.slot, sample),
            )
            for group in groups
            for sample in range(options.group_size)
        ]
        assert sum(len(rollout.tokens) for rollout in engine.generate(requests)) == options.tokens * len(requests)

    told: dict[str, float] = {}

    def sync() -> None:
        told.update(push_weights(engine, policy.weight_buckets(), names=policy.parameter_names, version=0))

    works = {"shared": lambda: sampled(lambda key, _: key), "apart": lambda: sampled(lambda key, n: f"{key}-{n}"), "sync": sync}
    times = interleaved(works, options.repeats)
    tokens = options.groups * options.group_size * options.tokens
    for name in ("shared", "apart"):
        low, middle, high = ratios(times["apart"], times[name])
        rate = tokens / statistics.median(times[name])
        print(f"{name}: {rate:,.0f} sampled tokens/s, {middle:.2f} times as fast as apart ({low:.2f} to {high:.2f})")
    seconds = statistics.median(times["sync"])
    print(f"sync: {1000 * seconds:.0f} ms for {told['sync/tensors']:.0f} tensors of {told['sync/bytes'] / 1e6:.1f} MB")
    write_json(options.json, command=" ".join(sys.argv[1:]), tokens=tokens, seconds=times, sync=told)


if __name__ == "__main__":
    main()
