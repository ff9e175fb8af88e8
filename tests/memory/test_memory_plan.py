"""What a run will hold: parts add up, agree with measured figures, and what cannot fit gets a setting that makes it fit."""

import json
import logging
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText

from bench.sizes import SIZES
from tests.conftest import slow_but
from vlrl.cli.memory import memory_lines
from vlrl.config import LoraConfig, PolicyConfig
from vlrl.memory.activations import Activations
from vlrl.memory.plan import GIB, Machine, MemoryPlan, shortages
from vlrl.memory.remedies import remedy
from vlrl.memory.states import states
from vlrl.models.sizes import ModelSizes
from vlrl.preflight.memory_faults import memory_faults
from vlrl.run_file import load_config

ROOT = Path(__file__).parents[2]
RUN_FILES = {path.stem: path for path in sorted((ROOT / "configs").glob("qwen*.yaml"))}
NUMBERS = {"one": 1, "two": 2, "sixteen": 16}


@cache
def sizes_of(size: str, lora: LoraConfig | None = None) -> ModelSizes:
    with torch.device("meta"):
        return ModelSizes.of(AutoModelForImageTextToText.from_config(SIZES[size].config()), lora)


def run_of(name: str, *overrides: str):
    """The run file's config and the sizes of its model."""
    config = load_config(RUN_FILES[name], overrides)
    size = config.model.removeprefix("Qwen/Qwen").removeprefix("3-VL-").replace("-VL", "").removesuffix("-Instruct")
    return config, sizes_of(size, config.lora)


def plan_of(name: str, machine: Machine, *overrides: str) -> MemoryPlan:
    config, sizes = run_of(name, *overrides)
    return MemoryPlan(config=config, sizes=sizes, machine=machine)


def gpus(number: int, memory: float, **more) -> Machine:
    return Machine(device="cuda", ranks_per_host=min(8, number), hosts=-(-number // 8), memory=int(memory * GIB), **more)


@pytest.mark.parametrize("size", SIZES)
def test_a_model_s_parts_are_all_of_its_parameters(size):
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(SIZES[size].config())
    sizes = sizes_of(size)
    assert sizes.total == sum(parameter.numel() for parameter in model.parameters())
    assert (sizes.experts > 0) == ("A" in size) and (sizes.head == 0) == SIZES[size].tied


def test_the_largest_block_of_an_moe_model_is_its_router_and_experts():
    assert sizes_of("30B-A3B").largest_block == 128 * 2048 + 128 * 3 * 768 * 2048


@pytest.mark.parametrize("groups, prompt, length, patches, figure", [
    (8, 98, 256, 0, "7610 tokens of text, bytes a token"),
    pytest.param(7, 1124, 8, 4096, "8050 tokens with 28672 patches, GB", marks=pytest.mark.slow),
    pytest.param(9, 98, 1024, 0, "31601 tokens of text, bytes a token", marks=pytest.mark.slow),
    pytest.param(9, 98, 2048, 0, "62318 tokens of text, bytes a token", marks=pytest.mark.slow),
    pytest.param(28, 1124, 8, 4096, "32200 tokens with 114688 patches, GB", marks=pytest.mark.slow),
])  # fmt: skip
def test_activations_are_those_that_an_h100_took(groups, prompt, length, patches, figure):
    """The packs are those of bench.gpu's memory_slopes."""
    measured = json.loads((ROOT / "bench/results/gpu.json").read_text())["checks"]["memory_slopes"]["figures"][figure]
    row = [(prompt, (length, length // 3, length, length))] * groups
    tokens = sum(size + sum(responses) for size, responses in row) + (0 if patches else 2)
    assert tokens == int(figure.split()[0])
    found = activations_of("2B", dtype=torch.bfloat16).peak(row, patches)
    assert found == pytest.approx(measured * (1e9 if patches else tokens), rel=0.03)


def activations_of(size: str, **changed) -> Activations:
    settings = {"dtype": torch.float32, "checkpointing": True, "freeze_vision": False, "device": "cuda"} | changed
    return Activations(sizes=sizes_of(size), **settings)


@given(stage=st.sampled_from([1, 2, 3]), ranks=st.integers(1, 512), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_more_ranks_and_a_higher_stage_never_need_more(stage, ranks, dtype):
    def kept(stage, ranks):
        of_stage = states(PolicyConfig(zero_stage=stage, dtype=dtype), sizes_of("30B-A3B"), ranks)
        return of_stage.weights + of_stage.optimizer + of_stage.gradients

    assert kept(stage, 2 * ranks) <= kept(stage, ranks)
    assert stage == 3 or kept(stage + 1, ranks) <= kept(stage, ranks)


def test_one_rank_holds_eighteen_bytes_a_parameter():
    of_stage, sizes = states(PolicyConfig(zero_stage=3), sizes_of("8B"), 1), sizes_of("8B")
    assert of_stage.weights + of_stage.optimizer + of_stage.gradients == (2 + 12 + 4) * sizes.total


def test_with_lora_all_but_the_adapters_is_frozen():
    sizes = replace(sizes_of("8B"), adapters=10_000_000)
    of_stage = states(PolicyConfig(zero_stage=2), sizes, 1)
    assert of_stage.weights == 2 * (sizes.total + sizes.adapters)
    assert (of_stage.optimizer, of_stage.gradients) == (12 * sizes.adapters, 4 * sizes.adapters)


def test_a_frozen_vision_tower_has_weights_and_nothing_else():
    sizes = sizes_of("8B")
    whole, frozen = (states(PolicyConfig(zero_stage=2, freeze_vision=value), sizes, 8) for value in (False, True))
    assert whole.weights == frozen.weights
    assert whole.optimizer - frozen.optimizer == pytest.approx(12 * sizes.vision / 8, abs=100)


def test_ranks_that_share_experts_hold_their_part_of_them():
    sizes = sizes_of("30B-A3B")
    shared = states(PolicyConfig(zero_stage=1, expert_parallel=8), sizes, 16)
    assert shared.weights == 2 * (sizes.total - sizes.experts + sizes.experts // 8)
    assert shared.optimizer == states(PolicyConfig(zero_stage=1), sizes, 16).optimizer


@pytest.mark.parametrize("name", slow_but(RUN_FILES, ("qwen3vl_30b_a3b_lora",)))
def test_a_shipped_run_file_fits_on_the_gpus_that_its_header_names(name):
    header = " ".join(RUN_FILES[name].read_text().splitlines()[:2])
    number, nodes, memory = re.search(r"on (\w+) (nodes? of eight )?(\d+) GB GPUs?", header).groups()
    option = "--nnodes" if nodes else "--nproc_per_node"
    assert f"{option} {NUMBERS[number]} " in header or number == "one"
    assert shortages(plan_of(name, gpus(NUMBERS[number] * (8 if nodes else 1), int(memory)))) == []


@pytest.mark.parametrize("name, machine, overrides", [
    pytest.param("qwen3vl_30b_a3b", gpus(8, 80), (), marks=pytest.mark.slow),
    ("qwen3vl_8b", gpus(8, 80), ("policy.zero_stage=1",)),
    ("qwen3vl_8b", gpus(8, 80), ("engine.gpu_memory_utilization=0.95",)),
    ("qwen3vl_8b", gpus(8, 80), ("engine.gpu_memory_utilization=0.1",)),
    ("qwen3vl_8b", gpus(8, 80), ("engine.sleep=false", "policy.zero_stage=2", "engine.gpu_memory_utilization=0.6")),
    pytest.param("qwen3vl_235b_a22b", gpus(64, 80), (), marks=pytest.mark.slow),
])  # fmt: skip
def test_what_cannot_fit_is_refused_in_one_sentence_with_what_makes_it_fit(name, machine, overrides):
    config, sizes = run_of(name, *overrides)
    (sentence,) = memory_faults(config, sizes, machine)
    assert re.match(r"memory: .+ needs [\d.]+ GiB and has [\d.]+; (set|use) ", sentence), sentence
    changes = dict(re.findall(r"set (\S+): (\S+?)(?=[ ;,])", sentence))
    found = re.search(r"use (\d+) GPUs on (\d+) hosts", sentence)
    better = replace(machine, hosts=int(found[2])) if found else machine
    assert changes or found
    assert shortages(plan_of(name, better, *overrides, *(f"{key}={value}" for key, value in changes.items()))) == []


@pytest.mark.parametrize(
    ("name", "number"), slow_but([("qwen3vl_8b_lora", 1), ("qwen3vl_30b_a3b_lora", 2)], ("qwen3vl_30b_a3b_lora",))
)
def test_where_adapters_fit_the_whole_model_s_gradients_and_moments_do_not(name, number):
    config, sizes = run_of(name)
    assert shortages(MemoryPlan(config=config, sizes=sizes, machine=gpus(number, 80))) == []
    assert shortages(MemoryPlan(config=config, sizes=replace(sizes, adapters=0), machine=gpus(number, 80)))


def test_what_no_setting_helps_is_refused_too():
    plan = plan_of("qwen3vl_30b_a3b", gpus(8, 2))
    assert shortages(plan)[0].certain and remedy(plan) == ""
    assert len(list(memory_faults(plan.config, plan.sizes, plan.machine))) == 1


@pytest.mark.slow
def test_what_only_an_estimate_forbids_is_a_warning(caplog):
    config, sizes = run_of("qwen3vl_8b", "policy.gradient_checkpointing=false", "policy.max_tokens_per_micro_batch=40000")
    machine = gpus(8, 80)
    assert any(not shortage.certain for shortage in shortages(MemoryPlan(config=config, sizes=sizes, machine=machine)))
    with caplog.at_level(logging.WARNING):
        assert list(memory_faults(config, sizes, machine)) == []
    assert "set policy.gradient_checkpointing: true" in caplog.text and "This is an estimate" in caplog.text


def test_a_sequence_of_a_recurrent_model_keeps_its_states_beside_its_keys_and_values():
    plan = plan_of("qwen3_5_9b", gpus(8, 80))
    assert plan.kv_token == 2 * 8 * 4 * 256 * 2  # eight of its 32 layers attend
    assert plan.recurrent_state == 24 * (32 * 128 * 128 * 4 + (2 * 16 + 32) * 128 * 3 * 2)
    assert plan.sequences(2048) < plan.kv_tokens // 2048
    assert plan_of("qwen3vl_8b", gpus(8, 80)).recurrent_state == 0


def test_a_host_that_cannot_keep_the_sleeping_engines_is_refused():
    config, sizes = run_of("qwen3vl_8b")
    (sentence,) = memory_faults(config, sizes, gpus(8, 80, host_memory=64 * GIB))
    assert re.search("what the ranks of each host keep in its memory needs .*; set engine", sentence)


def test_ranks_of_a_cpu_share_its_memory():
    short = [f"{key}.max_new_tokens=512" for key in ("sampling", "mixture.dapo_math", "mixture.code_contests")]
    config, sizes = run_of("qwen3vl_2b", "policy.dtype=float32", "images.max_pixels=65536", *short)
    assert list(memory_faults(config, sizes, Machine(device="cpu", ranks_per_host=1, hosts=1, memory=128 * GIB))) == []
    (sentence,) = memory_faults(config, sizes, Machine(device="cpu", ranks_per_host=8, hosts=1, memory=128 * GIB))
    assert "on each rank" in sentence and "and has 16.0" in sentence


def test_the_plan_has_every_part_and_other_machines():
    config, sizes = run_of("qwen3vl_30b_a3b", "algorithm.kl_coefficient=0.01")
    text = "\n".join(memory_lines(config, sizes, gpus(16, 80)))
    for part in (
        "weights",
        "optimizer",
        "gradients",
        "reference",
        "activations *",
        "KV cache",
        "Memory of each host",
        "Disk:",
        "logs",
    ):
        assert part in text
    assert "It fits: at most" in text and re.search(r"^256 +fits, ", text, re.MULTILINE)


def test_replicas_are_planned_on_gpus_of_their_own():
    config, sizes = run_of("qwen3vl_30b_a3b", "rollout.place=separate", "rollout.replicas=2", "engine.tensor_parallel=2")
    plan = MemoryPlan(config=config, sizes=sizes, machine=gpus(2, 80))
    assert plan.replicas == 2 and sum(plan.engine.values()) == int(config.engine.gpu_memory_utilization * plan.machine.memory)
    assert "2 replicas of the engine on 4 more GPUs, GiB of each: engine's weights 28.9," in "\n".join(
        memory_lines(config, sizes, plan.machine)
    )
    assert not any("KV cache" in parts for parts in plan.phases.values())
    assert MemoryPlan(config=run_of("qwen3vl_30b_a3b")[0], sizes=sizes, machine=plan.machine).replicas == 0
