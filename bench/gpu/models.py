"""Checks of whole models with random weights: agreement with transformers, memory, precision of gradients, waits."""

import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from bench.gpu.checking import Scale, Tell, clear, gigabytes, milliseconds, off, synchronize
from bench.made_up import Case, made_up
from bench.sizes import SIZES
from vlrl import config as cfg
from vlrl.algorithm.diagnostics import diagnose, histograms
from vlrl.algorithm.gates import make_gate
from vlrl.algorithm.loss import policy_loss
from vlrl.models.checkpoint_io import load_encoder, load_model
from vlrl.models.packed_model import PackedModel
from vlrl.models.packing import Pack, pack_groups
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.models.tiny import build_tiny
from vlrl.trainer.peak_memory import peak_bytes

Group = tuple[EncodedPrompt, list[list[int]]]


def checkpoint(scale: Scale) -> str:
    """A checkpoint with random weights of the scale's model; written once."""
    folder = scale.folder / "model"
    if not (folder / "model.safetensors.index.json").exists():
        if scale.model is None:
            build_tiny(folder, ["0123456789"])
        else:
            SIZES[scale.model].write(folder)
    return str(folder)


def packed_model(scale: Scale, *, dtype: torch.dtype | None = None, checkpointing: bool = True) -> PackedModel:
    qwen = load_model(checkpoint(scale), dtype=dtype or scale.dtype, freeze_vision=False, gradient_checkpointing=checkpointing)
    return PackedModel(qwen, temperature=1.0, banned=[]).to(scale.device)


def groups_of(scale: Scale, *, groups: int, side: int, length: int, group_size: int = 8) -> tuple[Encoder, list[Group]]:
    """Made-up groups, with a picture each unless side is 0, and responses of a length."""
    encoder = load_encoder(checkpoint(scale), cfg.ImagesConfig(max_pixels=1 << 22))
    case = Case(groups=groups, group_size=group_size, side=side, words=30, lengths=[length, max(1, length // 3), length])
    made = made_up(case, encoder, scale.folder)
    return encoder, [(group.prompt.encoded, [list(each.rollout.tokens) for each in group.samples]) for group in made]


def whole_model(scale: Scale, tell: Tell) -> None:
    """Log-probs and gradients of packed groups with pictures against transformers, a response at a time, in fp32.

    What transformers itself is off by in this precision is told beside it: packing must not add to that.
    """
    encoder, groups = groups_of(scale, groups=2, side=224 if scale.on_gpu else 64, length=96, group_size=3)
    pack = pack_groups(groups, encoder.filler()).to(scale.device)
    names = ("visual.blocks.0.attn.qkv.weight", "language_model.layers.0.self_attn.k_proj.weight", "layers.1.mlp.up_proj.weight")
    exact = _plain_run(scale, groups, torch.float32, names)
    plain = _plain_run(scale, groups, scale.dtype, names)
    model = packed_model(scale)
    logp, _ = model(pack)
    logp.mean().backward()
    ours = [logp.detach(), *_gradients(model.qwen, names)]
    for part, one, other, reference in zip(("log-probs", *names), ours, plain, exact, strict=True):
        tell(f"{part} off by", mine := off(one, reference))
        tell(f"{part} off by, transformers", theirs := off(other, reference))
        if not mine < 1.5 * theirs + 1e-5:
            tell.fault(f"{part} of packed groups is off by {mine:.1e}, of transformers alone by {theirs:.1e}")


def _plain_run(scale: Scale, groups: list[Group], dtype: torch.dtype, names: tuple[str, ...]) -> list[Tensor]:
    from transformers import AutoModelForImageTextToText

    qwen = AutoModelForImageTextToText.from_pretrained(checkpoint(scale), dtype=dtype, attn_implementation="sdpa")
    qwen = qwen.to(scale.device).train()
    count = sum(len(response) for _, responses in groups for response in responses)
    found = []
    for prompt, responses in groups:
        for response in responses:
            tokens = torch.cat([prompt.tokens, torch.tensor(response)])[None].to(scale.device)
            images = {"pixel_values": prompt.pixels.to(scale.device, dtype), "image_grid_thw": prompt.grid.to(scale.device)}
            kinds = (tokens == qwen.config.image_token_id).int()
            logits = qwen(input_ids=tokens, attention_mask=torch.ones_like(tokens), mm_token_type_ids=kinds, **images).logits
            logits = logits[0, len(prompt.tokens) - 1 : -1].float()
            logp = logits.log_softmax(1).gather(1, tokens[0, len(prompt.tokens) :, None])[:, 0]
            (logp.sum() / count).backward()
            found.append(logp.detach())
    gradients = _gradients(qwen, names)
    return [torch.cat(found), *gradients]


def _gradients(qwen: nn.Module, names: tuple[str, ...]) -> list[Tensor]:
    gradients = [next(p.grad for name, p in qwen.named_parameters() if name.endswith(wanted)) for wanted in names]
    return [gradient.clone() for gradient in gradients if gradient is not None]


def memory_slopes(scale: Scale, tell: Tell) -> None:
    """What a token of text and a patch take in a forward and backward, from passes of two sizes and two densities."""
    model = packed_model(scale)
    _pass(model, next(_packs(scale, scale.slope_tokens[0] // 4, side=0)))  # the gradients come to stay
    per_token = 0.0
    for tokens in scale.slope_tokens:
        pack = next(_packs(scale, tokens, side=0))
        per_token = 1e9 * gigabytes(partial(_pass, model, pack)) / len(pack.tokens)
        tell(f"{len(pack.tokens)} tokens of text, bytes a token", per_token)
        tell(
            f"{len(pack.tokens)} tokens of text, tokens/s",
            1000 * len(pack.tokens) / milliseconds(scale, lambda p=pack: _pass(model, p)),
        )
    for tokens in scale.slope_tokens[:2]:
        pack = next(_packs(scale, tokens, side=1024 if scale.on_gpu else 64))
        taken = 1e9 * gigabytes(partial(_pass, model, pack))
        tell(f"{len(pack.tokens)} tokens with {len(pack.pixels)} patches, GB", taken / 1e9)
        tell(
            f"{len(pack.tokens)} tokens with {len(pack.pixels)} patches, bytes a patch",
            (taken - per_token * len(pack.tokens)) / len(pack.pixels),
        )


def _packs(scale: Scale, tokens: int, *, side: int) -> Iterator[Pack]:
    """Packs of about as many tokens: of short responses where there are pictures, so that these weigh most."""
    length = 8 if side else max(8, tokens // 32)
    encoder, one = groups_of(scale, groups=1, side=side, length=length, group_size=4)
    size = len(one[0][0].tokens) + sum(map(len, one[0][1]))
    while True:
        yield pack_groups(one * max(1, tokens // size), encoder.filler()).to(scale.device)


def _pass(model: PackedModel, pack: Pack) -> None:
    logp, _ = model(pack)
    (0.0 * logp.sum()).backward()


def accumulation(scale: Scale, tell: Tell) -> None:
    """The gradients of successive passes summed in the model's dtype, as a .grad is, against sums in fp32."""
    model = packed_model(scale)
    parts = {"vision": "qwen.model.visual", "language": "qwen.model.language_model"}
    exact: dict[str, Tensor] = {}
    summed: dict[str, Tensor] = {}
    done = 0
    for wanted in scale.accumulated:
        for seed in range(done, wanted):
            pack = _seeded(scale, seed)
            model.zero_grad()
            logp, _ = model(pack)
            advantages = torch.linspace(-1, 1, len(logp), device=logp.device)
            (logp * advantages).mean().backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    exact[name] = exact.get(name, 0) + parameter.grad.float()
                    summed[name] = summed[name] + parameter.grad if name in summed else parameter.grad.clone()
        done = wanted
        for part, prefix in parts.items():
            names = [name for name in exact if name.startswith(prefix)]
            errors = sum(float((summed[n].float() - exact[n]).square().sum()) for n in names)
            lengths = sum(float(exact[n].square().sum()) for n in names)
            tell(f"{wanted} passes, {part}, off by", (errors / lengths) ** 0.5 if lengths else 0.0)


def _seeded(scale: Scale, seed: int) -> Pack:
    encoder, groups = groups_of(scale, groups=2, side=128 if scale.on_gpu else 64, length=64, group_size=4)
    numbers = torch.Generator().manual_seed(seed)
    fresh = [(p, [torch.randint(20, 250, (len(r),), generator=numbers).tolist() for r in responses]) for p, responses in groups]
    return pack_groups(fresh, encoder.filler()).to(scale.device)


def head_precision(scale: Scale, tell: Tell) -> None:
    """How far log-probs move when the logits are rounded to bf16 before the softmax, as an engine without an fp32 head does."""
    size = scale.hidden[0]
    numbers = torch.Generator(device=scale.device).manual_seed(0)
    hidden = torch.randn(2048, size, generator=numbers, device=scale.device).bfloat16()
    weight = torch.randn(scale.vocabulary, size, generator=numbers, device=scale.device).bfloat16()
    for largest in (5.0, 20.0):
        logits = hidden.float() @ weight.float().T
        logits = logits * (largest / logits.abs().amax())
        targets = torch.multinomial(logits.softmax(1), 1, generator=numbers)
        exact = logits.log_softmax(1).gather(1, targets)
        rounded = logits.bfloat16().float().log_softmax(1).gather(1, targets)
        moved = (rounded - exact).abs().flatten()
        tell(f"logits up to {largest:.0f}, mean of the moves", float(moved.mean()))
        tell(f"logits up to {largest:.0f}, their 99th percentile", float(moved.quantile(0.99)))
        tell(f"logits up to {largest:.0f}, the largest", float(moved.max()))


def experts(scale: Scale, tell: Tell) -> None:
    """A sparse block by transformers' backends: agreement, with experts that get no token as well, and what many tokens cost."""
    from transformers import Qwen3VLMoeTextConfig
    from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextSparseMoeBlock

    config = Qwen3VLMoeTextConfig(**scale.experts)
    torch.manual_seed(0)
    with torch.device(scale.device):
        block = Qwen3VLMoeTextSparseMoeBlock(config).to(scale.dtype)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter, dtype=torch.float32) * config.hidden_size**-0.5)
    for name, count in (("few tokens", config.num_experts // 4), ("many tokens", scale.expert_tokens)):
        hidden = torch.randn(1, count, config.hidden_size, device=scale.device).to(scale.dtype).requires_grad_()
        found = {}
        for backend in ("eager", "grouped_mm"):
            config._experts_implementation = backend

            def work(hidden=hidden) -> list[Tensor]:
                out = block(hidden)
                out = out[0] if isinstance(out, tuple) else out
                return [out, *torch.autograd.grad(out.square().mean(), (hidden, *block.experts.parameters()))]

            found[backend] = work()
            tell(f"{name}, {backend}, ms", milliseconds(scale, work))
            tell(f"{name}, {backend}, GB", gigabytes(work))
        for part, one, other in zip(("out", "d hidden", "d gate_up", "d down"), found["grouped_mm"], found["eager"], strict=True):
            tell(f"{name}, {part} off by", error := off(one.detach(), other.detach()))
            if not error < (3e-2 if scale.dtype is torch.bfloat16 else 1e-4):
                tell.fault(f"experts by grouped_mm, {name}: {part} is off by {error:.1e} from eager")
        del found
        clear(scale)


def waits(scale: Scale, tell: Tell) -> None:
    """How often a pass makes the host wait for the device, by where; and what the diagnostics add to it."""
    model = packed_model(scale)
    pack = next(_packs(scale, scale.slope_tokens[0], side=512 if scale.on_gpu else 64))
    gate = make_gate("sapo", tau_pos=[1.0] * pack.num_sequences, tau_neg=[1.05] * pack.num_sequences, clip_low=0.2, clip_high=0.2)
    advantages = torch.linspace(-1, 1, pack.num_sequences, device=scale.device)
    tasks = [f"task{n % 4}" for n in range(pack.num_sequences)]

    def step(*, diagnosed: bool) -> None:
        logp, entropy = model(pack)
        size = len(logp) - pack.filler
        logp = logp[:size]
        loss, tokens = policy_loss(
            logp, logp.detach(), logp.detach(), advantages, pack.sequence[:size], num_scored=pack.num_sequences, gate=gate,
            tis_cap=2.0,
        )  # fmt: skip
        loss.backward()
        if diagnosed:
            diagnose(tokens, entropy[:size], gate, tasks, None)
            histograms(tokens)

    without = milliseconds(scale, lambda: step(diagnosed=False))
    tell("a pass, ms", without)
    tell("its diagnostics, ms", milliseconds(scale, lambda: step(diagnosed=True)) - without)
    if not scale.on_gpu:
        tell("waits", "no device to wait for")
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(diagnosed=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places: dict[str, int] = {}
    for each in caught:
        if "synchroniz" in str(each.message):
            place = f"{'/'.join(each.filename.split('/')[-2:])}:{each.lineno}"
            places[place] = places.get(place, 0) + 1
    tell("waits", sum(places.values()))
    for place, count in sorted(places.items(), key=lambda item: -item[1])[:12]:
        tell(f"waits at {place}", count)


def where_time_goes(scale: Scale, tell: Tell) -> None:
    """Of a pass with pictures: how long the device works, in how many kernels, and which operations take most of it."""
    model = packed_model(scale)
    encoder, groups = groups_of(scale, groups=4, side=1024 if scale.on_gpu else 64, length=256 if scale.on_gpu else 16)
    pack = pack_groups(groups, encoder.filler()).to(scale.device)
    tell("tokens", len(pack.tokens))
    tell("a pass, ms", milliseconds(scale, lambda: _pass(model, pack)))
    with torch.profiler.profile() as profile:  # of all that there is here
        _pass(model, pack)
        synchronize(scale)
    operations = profile.key_averages()
    spent = {each.key: (each.self_device_time_total if scale.on_gpu else each.self_cpu_time_total) / 1e3 for each in operations}
    if scale.on_gpu:
        kernels = [each for each in profile.events() if each.device_type == torch.autograd.DeviceType.CUDA]
        tell("kernels", len(kernels))
        tell("the device works, ms", sum(each.self_device_time_total for each in kernels) / 1e3)
    by_time = sorted(operations, key=lambda each: -spent[each.key])
    for each in [each for each in by_time if each.key.startswith("aten::") or "::" not in each.key][:24]:
        tell(f"{each.key[:70]} x {each.count}, ms", spent[each.key])


def out_of_memory(scale: Scale, tell: Tell) -> None:
    """A backward that runs out of memory: whether its memory comes back, and whether the next pass has the gradients it had."""
    if not scale.on_gpu:
        tell("skipped", "a CPU's process would be killed")
        return
    model = packed_model(scale)
    pack = next(_packs(scale, scale.slope_tokens[0], side=0))
    before = _gradient_of(model, pack)
    clear(scale)
    taken = torch.cuda.memory_allocated()
    forward, whole = peak_bytes(lambda: model(pack)), peak_bytes(lambda: _pass(model, pack))
    tell("GB of a forward", forward / 1e9)
    tell("GB of both", whole / 1e9)
    clear(scale)
    torch.cuda.set_per_process_memory_fraction((taken + (forward + whole) / 2) / torch.cuda.mem_get_info()[1])
    logp = None
    try:
        logp = model(pack)[0]
        (0.0 * logp.sum()).backward()
        tell("ran out of memory", "no")
    except torch.OutOfMemoryError:
        tell("ran out of memory", "in the forward" if logp is None else "in the backward")
    torch.cuda.set_per_process_memory_fraction(1.0)
    del logp
    clear(scale)
    tell("GB that did not come back", (torch.cuda.memory_allocated() - taken) / 1e9)
    tell("the next pass's gradient is off by", error := off(_gradient_of(model, pack), before))
    if not error < 1e-2:
        tell.fault(f"after a backward that ran out of memory the next gradient is off by {error:.1e}")


def _gradient_of(model: PackedModel, pack: Pack) -> Tensor:
    model.zero_grad()
    model(pack)[0].mean().backward()
    gradient = model.qwen.model.language_model.layers[0].self_attn.k_proj.weight.grad
    assert gradient is not None
    return gradient.clone()


def repeated(scale: Scale, tell: Tell) -> None:
    """The same pass twice: whether log-probs and gradients are the same bit for bit."""
    model = packed_model(scale)
    pack = next(_packs(scale, scale.slope_tokens[0], side=512 if scale.on_gpu else 64))
    with torch.no_grad():
        tell("log-probs are equal", bool((model(pack)[0] == model(pack)[0]).all()))
    tell("gradients are equal", bool((_gradient_of(model, pack) == _gradient_of(model, pack)).all()))
