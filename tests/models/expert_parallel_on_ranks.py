"""What tests/models/test_expert_parallel.py runs on each of two ranks.

python -m tests.models.expert_parallel_on_ranks MODEL PICTURES FOLDER
"""

import sys
from pathlib import Path

import torch

from tests.trainer.replay import SGD, UNCLIPPED, fixed_minibatches, losses_of, open_policy, weights_of
from vlrl.distributed.ranks import join_ranks

torch.set_num_threads(1)
model, pictures, folder = sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3])
ranks = join_ranks()
minibatches = fixed_minibatches(model, pictures, ranks)


def opened(**settings):
    return open_policy(model, ranks, zero_stage=1, gradient_clipping=UNCLIPPED, deepspeed=SGD, **settings)


usual, parallel = opened(), opened(expert_parallel=2)
experts = [p for name, p in parallel.engine.module.named_parameters() if name.endswith("experts.w2")]
assert experts and all(len(p) == 4 for p in experts), "each of two ranks has half of eight experts"
before = weights_of(usual)
assert parallel.parameter_names == usual.parameter_names == before.keys()
assert all(torch.equal(weight, before[name]) for name, weight in weights_of(parallel).items())
for each in minibatches[0].micro_batches:
    torch.testing.assert_close(parallel.logprobs(each.pack).logprobs, usual.logprobs(each.pack).logprobs, rtol=0, atol=2e-6)
losses = [losses_of(policy, minibatches, 2) for policy in (usual, parallel)]
torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=0, atol=1e-6)
after, expected = weights_of(parallel), weights_of(usual)
off = sum((after[name] - expected[name]).square().sum() for name in after).sqrt()
moved = sum((expected[name] - before[name]).square().sum() for name in after).sqrt()
assert off < 2e-5 * moved, (off, moved)
norms = [policy.engine.get_global_grad_norm() for policy in (usual, parallel)]
print("gradient norms", [float(norm) for norm in norms], flush=True)

for stage, dtype in ((1, "float32"), (1, "bfloat16"), (2, "bfloat16")):
    saved, fresh = (open_policy(model, ranks, dtype=dtype, zero_stage=stage, expert_parallel=2) for _ in range(2))
    losses_of(saved, minibatches, 2)
    saved.save(folder / f"{stage}-{dtype}")
    at_save = weights_of(saved)
    fresh.load(folder / f"{stage}-{dtype}")
    assert fresh.version == 2 and all(torch.equal(weight, at_save[name]) for name, weight in weights_of(fresh).items())
    assert losses_of(fresh, minibatches, 2) == losses_of(saved, minibatches, 2)
    expected = weights_of(saved)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(fresh).items())
print("parallel", flush=True)
