"""What tests/rollout/test_tensor_parallel.py runs on each of two ranks, which hold one engine together.

python -m tests.rollout.tensor_parallel_on_ranks MODEL
"""

import sys

import torch

from tests.rollout.opening import open_encoder, open_engine
from vlrl import config as cfg
from vlrl.distributed.ranks import join_ranks
from vlrl.models.packing import pack_groups
from vlrl.rollout.canary import Canary
from vlrl.rollout.engine import Decoding, Request
from vlrl.rollout.weight_sync import push_weights
from vlrl.trainer.policy import Policy

torch.set_num_threads(1)
model = sys.argv[1]
ranks = join_ranks()
encoder, banned = open_encoder(model)
settings = cfg.PolicyConfig(dtype="bfloat16", zero_stage=3, lr=1e-2)
policy = Policy(settings, model, ranks=ranks, updates=9, temperature=1.0, banned=banned)
engine = open_engine(model, encoder, banned, ranks, dtype="bfloat16", tensor_parallel=2)
canary = Canary(policy, engine, encoder, temperature=1.0, tolerance=cfg.EngineConfig().canary_tolerance)
dtypes = engine._llm.apply_model(lambda model: model.language_model.logits_processor.head_dtype)
assert set(dtypes) == {torch.float32}, dtypes
text, image = canary._probes
for _ in range(2):
    scores = policy.forward(pack_groups([(image, [[30, 31, 32], [40, 41]])], encoder.filler()))
    policy.backward(scores.zero - scores.logprobs.mean())
    policy.step()
assert canary.difference() > canary.bound
push_weights(engine, policy.weight_buckets(), names=policy.parameter_names, version=policy.version)
print("difference", canary.baseline, canary.check(), flush=True)

request = Request(
    slot=0, sample=0, prompt=(text, image)[ranks.rank], max_new_tokens=4, decoding=Decoding(temperature=1.0), seed=0
)
try:
    list(engine.generate([request]))
except RuntimeError as error:
    print(error, flush=True)
