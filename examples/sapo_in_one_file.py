"""SAPO (Soft Adaptive Policy Optimization, arXiv 2511.20347) in one file, with transformers, DeepSpeed, vLLM and two small tasks.

    python examples/sapo_in_one_file.py --model models/tiny --steps 5

It runs on a CPU. Read it from top to bottom before the library, which is the same algorithm with packed sequences, several ranks,
GPUs, MoE models, tasks in files of their own, checkpoints and logs. One step:

    1. Sample a group of responses to each prompt with vLLM, which also returns its log-probs of their tokens.
    2. Score each response. Its advantage says how much better it did than the other responses to the same prompt.
    3. Compute the log-probs of all responses under the policy as it is now: the old policy, pi_old.
    4. Update twice, each time on half of the prompts. In the second update the policy has already moved away from pi_old, and
       SAPO's gate reduces the gradient of each token by how far its probability has moved.
    5. Copy the new weights to vLLM.

Sizes in comments: P tokens of a prompt, R tokens of its response, V ids of the vocabulary.
"""

import argparse
import os
import random
import re
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from PIL import Image
from torch import Tensor, library

PROMPTS, GROUP_SIZE, MAX_NEW_TOKENS, TEMPERATURE = 16, 8, 8, 1.0
TAU_POS, TAU_NEG = 1.0, 1.05  # the paper's. The gate closes sooner for bad responses, whose gradients are the less stable ones
TIS_CAP = 2.0  # of the weight that corrects for vLLM's slightly different probabilities
OPTIMIZER = {"type": "AdamW", "params": {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.0, "torch_adam": True}}


# ---- Two tasks and their verifier ----
# Half of a mini-batch's rows come from each task. Otherwise one task could always be in the first update, where the policy is
# still pi_old, and the other always in the second, behind the gate.
@dataclass
class Row:
    question: str
    answer: int
    image: Image.Image | None = None


def sum_row(rng: random.Random) -> Row:
    a, b = rng.randint(0, 4), rng.randint(0, 5)
    return Row(f"{a} + {b} = ? Answer with a number.", a + b)


def counting_row(rng: random.Random) -> Row:
    """A picture of six cells, one to six of them with a square."""
    image, count = Image.new("RGB", (96, 64), "white"), rng.randint(1, 6)
    for cell in rng.sample(range(6), count):
        image.paste("navy", (cell % 3 * 32 + 8, cell // 3 * 32 + 8, cell % 3 * 32 + 24, cell // 3 * 32 + 24))
    return Row("How many squares are there? Answer with a number.", count, image)


def verify(response: str, answer: int) -> float:
    """1 for the right number, less for one further away. 1 or 0 is more usual, but a random model would have 0 for everything."""
    numbers = re.findall("[0-9]+", response)
    return 1 / (1 + abs(int(numbers[-1]) - answer)) if numbers else 0.0


# ---- The policy under DeepSpeed, and vLLM ----
def prepare_environment() -> None:
    """Sets what a launcher would set, what DeepSpeed and vLLM read at import, and what torchvision lacks beside a CPU torch."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # vLLM in this process: weights are copied from tensor to tensor
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}  # they share cores and memory
    os.environ |= {"DS_ACCELERATOR": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, AttributeError):  # its compiled operators are missing; it is enough to declare the two it asks for
        for operator in ("nms", "qnms"):
            library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def load_policy(model: str):
    """The trained model as a DeepSpeed engine: call it for logits, call backward for each loss, then step once."""
    import deepspeed
    from transformers import AutoModelForImageTextToText

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # for several ranks only, and it would have to be compiled
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    qwen = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    if qwen.config.model_type != "qwen3_vl":
        raise SystemExit(f"{model} is a {qwen.config.model_type}; this example takes dense Qwen3-VL models only")
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "managed_gradient_accumulation": False,  # any number of backward calls, then one step
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 1},
        "optimizer": OPTIMIZER,
        "steps_per_print": 10**9,
    }
    return deepspeed.initialize(model=qwen.train(), model_parameters=qwen.parameters(), config=config)[0]


def load_vllm(model: str):
    from vllm import LLM, ModelRegistry
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

    # Known by its name only, the class would be inspected in a new process, where torchvision can't be imported.
    ModelRegistry.register_model("Qwen3VLForConditionalGeneration", Qwen3VLForConditionalGeneration)
    return LLM(
        model=model,
        dtype="float32",
        distributed_executor_backend="external_launcher",  # uses the process group that DeepSpeed has started
        max_model_len=512,
        enforce_eager=True,
        enable_chunked_prefill=False,  # on a CPU, a prefill in chunks can't use a request's own seed
        limit_mm_per_prompt={"video": 0},
        logprobs_mode="processed_logprobs",  # after temperature and bans: of the distribution that is really sampled from
    )


def sync_weights(policy, llm) -> None:
    """Copies the policy's weights to vLLM and drops what vLLM has cached from the old ones."""
    weights = {name: parameter.detach() for name, parameter in policy.module.named_parameters()}
    # A head that is tied to the embedding is not listed as a parameter. Without it vLLM would silently keep its old head.
    weights.setdefault("lm_head.weight", policy.module.lm_head.weight.detach())
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
    llm.reset_prefix_cache()
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()


# ---- Sampling: rows to scored responses ----
@dataclass
class Sample:
    prompt: dict[str, Tensor]  # the processor's output: input_ids, attention_mask, mm_token_type_ids (1, P); perhaps an image
    tokens: Tensor  # (R,)
    engine_logp: Tensor  # (R,): the tokens' log-probs from vLLM
    reward: float
    advantage: float


def encode(processor, row: Row) -> tuple[str, dict[str, Tensor]]:
    """The prompt as text, for vLLM, and as the policy's input."""
    images = [row.image] if row.image else []
    parts = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": row.question}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True)
    return text, dict(processor(text=[text], images=images or None, return_tensors="pt", return_mm_token_type_ids=True))


def banned_tokens(processor, policy) -> list[int]:
    """Ids that must not be sampled: a placeholder would be taken for an image, and ids past the tokenizer's have no text."""
    tokenizer, vocabulary = processor.tokenizer, policy.module.get_input_embeddings().num_embeddings
    return [*tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"]), *range(len(tokenizer), vocabulary)]


def generate(llm, processor, rows: list[Row], banned: list[int], rng: random.Random) -> list[Sample]:
    """The groups of all rows, one after another."""
    from vllm import SamplingParams

    shared = {"max_tokens": MAX_NEW_TOKENS, "temperature": TEMPERATURE, "logit_bias": dict.fromkeys(banned, -100.0)}
    shared |= {"logprobs": 0, "stop_token_ids": [processor.tokenizer.convert_tokens_to_ids("<|im_end|>")]}
    requests, params, samples = [], [], []
    encoded = [encode(processor, row) for row in rows]
    for row, (text, _) in zip(rows, encoded, strict=True):
        requests += [{"prompt": text} | ({"multi_modal_data": {"image": row.image}} if row.image else {})] * GROUP_SIZE
        # One request per sample, each with a seed of its own. With one request of n=GROUP_SIZE, sample i would get the request's
        # seed + i, and requests with neighbouring seeds would share samples.
        params += [SamplingParams(**shared, seed=rng.getrandbits(48)) for _ in range(GROUP_SIZE)]
    outputs = iter(llm.generate(requests, params, use_tqdm=False))  # in the order of the requests
    for row, (_, prompt) in zip(rows, encoded, strict=True):
        group = [next(outputs) for _ in range(GROUP_SIZE)]
        assert group[0].prompt_token_ids == prompt["input_ids"][0].tolist(), "vLLM and the policy must see the same prompt"
        responses = [output.outputs[0] for output in group]
        rewards = [verify(response.text, row.answer) for response in responses]
        for response, reward, advantage in zip(responses, rewards, advantages(rewards), strict=True):
            logp = [entry[token].logprob for token, entry in zip(response.token_ids, response.logprobs, strict=True)]
            samples.append(Sample(prompt, torch.tensor(response.token_ids), torch.tensor(logp), reward, advantage))
    return samples


# ---- The algorithm ----
def advantages(rewards: list[float]) -> list[float]:
    """(reward - mean) / std over a group, the std with the divisor group size - 1; 0 where all rewards are equal."""
    if max(rewards) == min(rewards):  # asked of the rewards themselves: by rounding, the std of equal ones may be above 0
        return [0.0] * len(rewards)
    return [(reward - fmean(rewards)) / (stdev(rewards) + 1e-6) for reward in rewards]


def logprobs(policy, sample: Sample, banned: list[int]) -> Tensor:
    """Log-probs (R,) of the response's tokens, under the distribution that vLLM samples from."""
    tokens, inputs = sample.tokens[None], dict(sample.prompt)
    more = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "mm_token_type_ids": torch.zeros_like(tokens)}
    inputs |= {name: torch.cat([inputs[name], tensor], dim=1) for name, tensor in more.items()}  # (1, P + R)
    # Each position predicts the next token: the R predictions begin at the prompt's last token, and the response's last has none.
    logits = policy(**inputs, use_cache=False, logits_to_keep=len(sample.tokens) + 1).logits[0, :-1] / TEMPERATURE  # (R, V)
    logits[:, banned] = -torch.inf
    return logits.log_softmax(dim=-1).gather(-1, sample.tokens[:, None])[:, 0]


def sapo_loss(logp: Tensor, old_logp: Tensor, engine_logp: Tensor, advantage: float) -> Tensor:
    """Minus the mean over a response's tokens of weight * gate * advantage. The log-probs are (R,); only logp has a gradient."""
    # Clamped, since the exp of a large log-ratio is infinite and its gradient NaN. At exp(20) the gate is shut anyway.
    ratio = (logp - old_logp).clamp(-20, 20).exp()
    # The gate has slope 1 at ratio 1 and becomes flat on both sides, so a token's gradient fades as the policy moves away from
    # pi_old, where PPO's clip would cut it to 0 at once. The loss holds the gate itself; its slope comes from autograd.
    tau = TAU_POS if advantage > 0 else TAU_NEG
    gate = 4 / tau * torch.sigmoid(tau * (ratio - 1))
    # vLLM's kernels sample from slightly other probabilities than the policy's own. This weight, a constant, corrects for that;
    # its cap keeps single tokens from dominating. It stays out of the gate, which is for the policy's own movement.
    weight = (old_logp - engine_logp).clamp(-20, 20).exp().clamp(max=TIS_CAP)
    return -(weight * gate * advantage).mean()


def update(policy, minibatch: list[Sample], old_logps: list[Tensor], banned: list[int]) -> float:
    """One optimizer step on the mean over responses of their losses. Returns that mean, as it was before the step."""
    total = 0.0
    for sample, old_logp in zip(minibatch, old_logps, strict=True):
        # Every response weighs the same, however long it is, and those without an advantage count too.
        loss = sapo_loss(logprobs(policy, sample, banned), old_logp, sample.engine_logp, sample.advantage) / len(minibatch)
        policy.backward(loss, scale_wrt_gas=False)  # DeepSpeed is not to divide it once more
        total += loss.item()
    policy.step()
    return total


def main(model: str, steps: int) -> None:
    prepare_environment()
    policy, llm = load_policy(model), load_vllm(model)
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    banned = banned_tokens(processor, policy)
    for step in range(steps):
        rng = random.Random(step)
        rows = [make_row(rng) for _ in range(PROMPTS // 2) for make_row in (sum_row, counting_row)]
        samples = generate(llm, processor, rows, banned, rng)
        with torch.no_grad():  # of both mini-batches before the first update: ratios are to the policy at the start of the step
            old = [logprobs(policy, each, banned) for each in samples]
        half = len(samples) // 2
        losses = [update(policy, samples[part], old[part], banned) for part in (slice(half), slice(half, None))]
        sync_weights(policy, llm)
        # Policy and vLLM should agree as closely in the last step as in the first; a gap that grows shows a faulty sync.
        gap = max((logp - each.engine_logp).abs().max().item() for logp, each in zip(old, samples, strict=True))
        reward = fmean(each.reward for each in samples)
        print(f"step {step}: mean reward {reward:.3f}, losses {losses[0]:+.4f} {losses[1]:+.4f}, gap to vLLM {gap:.0e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="SAPO in one file, on a CPU.")
    parser.add_argument("--model", default="models/tiny", help="a dense Qwen3-VL: a folder, or a name on the hub")
    parser.add_argument("--steps", type=int, default=5)
    main(**vars(parser.parse_args()))
