"""The generator of memory labels: the allocator as CUDA's, specs that both readers take, laws and measured peaks."""

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from predictor.workloads.models import get_model, model_from_config

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO / "training"))
caching_allocator = importlib.import_module("caching_allocator")
allocation_replay = importlib.import_module("allocation_replay")
specs = importlib.import_module("memory_specs")

MIB = 1 << 20
SIZES = st.integers(1, 40 * MIB)
TINY = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 3, "num_attention_heads": 8}
TINY_TIED = {**TINY, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 8000}


@pytest.fixture(scope="module")
def simulator() -> Any:
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name, reason="pip install 'gpu-predictor[simulator]'")
    return importlib.import_module("memory_simulator")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks under the names tiny and tiny-tied."""
    monkeypatch.setitem(specs.CONFIGS, "tiny", {**specs.CONFIGS["Llama-2-7b-hf"], **TINY, "num_key_value_heads": 8})
    monkeypatch.setitem(specs.CONFIGS, "tiny-tied", {**specs.CONFIGS["Llama-3.2-1B"], **TINY_TIED})


def row(simulator: Any, **settings: Any) -> dict[str, Any]:
    """The simulated row; small networks, so that a test takes a second."""
    found: dict[str, Any] = simulator.simulate(specs.Spec(**{"model": "tiny", "batch": 2, "seq_len": 256} | settings))
    return found


# --- the allocator


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=60))
def test_the_allocator_holds_what_lives_and_reserves_more(requests: list[tuple[int, bool]]) -> None:
    allocator, live = caching_allocator.CachingAllocator(), []
    for nbytes, dies in requests:
        live.append((allocator.allocate(nbytes), nbytes))
        if dies:
            allocator.free(live.pop(len(live) // 2)[0])
        asked = sum(size for _, size in live)
        assert allocator.reserved_bytes >= allocator.held_bytes >= allocator.allocated_bytes >= asked
    spans = sorted((block.address, block.address + block.size) for block, _ in live)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "blocks overlap"
    for block, _ in live:
        allocator.free(block)
    assert allocator.allocated_bytes == allocator.held_bytes == 0
    assert allocator.peak_reserved_bytes == allocator.reserved_bytes >= allocator.peak_allocated_bytes
    allocator.release_cached()
    assert allocator.reserved_bytes == 0, "free neighbours were not merged to whole segments"


@given(SIZES)
def test_a_block_is_rounded_as_cuda_does(nbytes: int) -> None:
    allocator = caching_allocator.CachingAllocator()
    block = allocator.allocate(nbytes)
    size = -(-nbytes // 512) * 512
    segment = 2 * MIB if size <= MIB else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
    assert allocator.reserved_bytes == segment
    # What is left of a large segment is split off only above 1 MiB.
    whole = size > MIB and segment - size <= MIB
    assert block.size == (segment if whole else size)


def test_freed_blocks_are_reused_best_fit_first() -> None:
    allocator = caching_allocator.CachingAllocator()
    blocks = [allocator.allocate(size * MIB) for size in (30, 12, 20)]
    for block in blocks:
        allocator.free(block)
    assert allocator.allocate(11 * MIB + MIB // 2) is blocks[1]
    assert allocator.reserved_bytes == 62 * MIB


def test_a_full_card_gives_back_what_is_cached_before_it_fails() -> None:
    allocator = caching_allocator.CachingAllocator(capacity_bytes=100 * MIB)
    allocator.free(allocator.allocate(60 * MIB))
    kept = allocator.allocate(80 * MIB)
    assert (allocator.reserved_bytes, allocator.allocated_bytes) == (80 * MIB, 80 * MIB)
    with pytest.raises(caching_allocator.OutOfMemory, match="80"):
        allocator.allocate(30 * MIB)
    allocator.free(kept)


def test_a_replayed_step_finds_what_the_one_before_left() -> None:
    event = allocation_replay.Event
    step = [
        event("phase", 0, 0, "setup"),
        event("allocate", 1, 8 * MIB, "param"),
        event("phase", 0, 0, "state"),
        event("allocate", 2, 16 * MIB, "opt"),
        event("phase", 0, 0, "forward"),
        event("allocate", 3, 4 * MIB, "workspace"),
        event("allocate", 4, 24 * MIB, "temp"),
        event("phase", 0, 0, "backward"),
        event("free", 4, 0, ""),
        event("phase", 0, 0, "end"),
        event("free", 1, 0, ""),
    ]
    found = allocation_replay.replay(step, {4: "act"}, steps=3)
    assert found["peak_allocated_bytes"] == 52 * MIB
    assert (found["at_peak_opt"], found["at_peak_act"], found["phase"]) == (16 * MIB, 24 * MIB, "forward")
    assert (found["peak_backward"], found["peak_step"]) == (52 * MIB, 0)


# --- specs


@pytest.mark.parametrize("name", list(specs.CONFIGS))
def test_a_published_config_has_the_parameters_of_the_catalogue(name: str) -> None:
    read = model_from_config(specs.CONFIGS[name], name)
    assert read.parameters() == get_model(name).parameters()


def test_specs_are_drawn_by_number_and_can_run() -> None:
    drawn = [specs.sampled(7, index) for index in range(300)]
    assert drawn == [specs.sampled(7, index) for index in range(300)]
    assert drawn[:20] != [specs.sampled(8, index) for index in range(20)]
    for spec in drawn:
        limit = 65_536 if spec.mode == "train" else 131_072
        assert spec.batch * spec.seq_len <= limit
        assert spec.sm >= 80 or not spec.precision.startswith("bf16")
        assert spec.attention != "flash" or (spec.sm >= 80 and spec.precision != "fp32")
        assert spec.model.startswith("vit") or spec.seq_len <= specs.longest(spec.config())


# --- laws of the simulator


@pytest.mark.usefixtures("tiny")
def test_checkpointing_and_adapters_need_less(simulator: Any) -> None:
    full = row(simulator, model="SmolLM2-135M", layers=4)
    for less in ({"checkpointing": True}, {"method": "lora"}, {"method": "lora", "lora_targets": "qv"}):
        assert (
            row(simulator, model="SmolLM2-135M", layers=4, **less)["peak_allocated_bytes"]
            < full["peak_allocated_bytes"]
        )


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("settings", [{}, {"mode": "inference", "new_tokens": 1}, {"precision": "bf16-amp"}])
def test_twice_the_batch_never_needs_less_and_all_hold_the_weights(simulator: Any, settings: dict[str, Any]) -> None:
    one, two = (row(simulator, batch=batch, **settings) for batch in (2, 4))
    assert two["peak_allocated_bytes"] >= one["peak_allocated_bytes"]
    assert one["peak_reserved_bytes"] >= one["peak_held_bytes"] >= one["peak_allocated_bytes"]
    element = 4 if settings.get("precision") else 2
    assert one["at_peak_param"] >= element * one["n_params"]
    kinds = [one[f"at_peak_{kind}"] for kind in allocation_replay.CATEGORIES]
    assert sum(kinds) == one["peak_allocated_bytes"] == max(one[f"peak_{name}"] for name in allocation_replay.PHASES)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("moments", [("sgd", 0), ("sgd_momentum", 4), ("adamw_fused", 8), ("adamw_8bit", 2)])
def test_an_optimizer_keeps_its_moments(simulator: Any, moments: tuple[str, int]) -> None:
    optimizer, bytes_each = moments
    found = row(simulator, precision="fp32", optimizer=optimizer, batch=8)
    assert found["at_peak_opt"] == pytest.approx(bytes_each * found["n_params"], rel=0.05, abs=MIB)


@pytest.mark.usefixtures("tiny")
def test_the_step_of_adamw_makes_what_pytorchs_own_does(simulator: Any) -> None:
    """torch.optim.AdamW(foreach=True) holds one more copy of the weights while it steps."""
    import torch

    parameter = torch.nn.Parameter(torch.empty(1000, 1000, device="meta"))
    tracker = simulator.AllocationTracker(80)
    optimizer = torch.optim.AdamW([parameter], foreach=True)
    parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    with tracker:
        tracker.enter("step", "temp")
        optimizer.step()
    made = [event.nbytes for event in tracker.events if event.kind == "allocate" and event.nbytes > 4096]
    assert made == [4_000_000]
    fused, foreach = (row(simulator, optimizer=name) for name in ("adamw_fused", "adamw"))
    assert foreach["peak_step"] - fused["peak_step"] == pytest.approx(2 * foreach["n_params"], rel=0.05)


@pytest.mark.usefixtures("tiny")
def test_a_step_leaves_nothing_behind_but_workspaces(simulator: Any) -> None:
    for settings in ({"checkpointing": True}, {"precision": "bf16-amp"}, {"method": "qlora", "attention": "flash"}):
        found = simulator.trace(specs.Spec(model="tiny", batch=2, seq_len=128, **settings))
        live, phase = dict[int, str](), ""
        for event in found.events:
            phase = event.category if event.kind == "phase" else phase
            if phase == "end":
                break
            if event.kind == "allocate":
                live[event.ident] = found.labels.get(event.ident, event.category)
            elif event.kind == "free":
                del live[event.ident]
        assert set(live.values()) <= {"param", "buffer", "opt", "workspace"}


@pytest.mark.usefixtures("tiny")
def test_four_bit_weights_take_half_a_byte(simulator: Any) -> None:
    found = row(simulator, method="qlora", lora_rank=4)
    assert found["n_trainable"] < 0.05 * found["n_params"]
    linear = 3 * (4 * 256**2 + 3 * 256 * 688)  # query, key, value, output; gate, up, down
    tables = 2 * 32000 * 256
    assert found["at_peak_param"] == pytest.approx(linear / 2 + 2 * tables + 2 * found["n_trainable"], rel=0.05)


# --- measured peaks


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("model", ["tiny", "tiny-tied"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_life_times_are_those_on_a_cpu(simulator: Any, model: str, checkpointing: bool) -> None:
    """The same step with data, watched by torch.profiler: what is allocated on top of the weights."""
    import torch
    import transformers

    spec = specs.Spec(
        model=model,
        precision="fp32",
        optimizer="sgd",
        attention="eager",
        batch=8,
        seq_len=64,
        checkpointing=checkpointing,
    )
    config = transformers.AutoConfig.for_model(**spec.config())
    config.use_cache = False
    build = getattr(transformers, config.architectures[0])._from_config
    network = build(config, dtype=torch.float32, attn_implementation="eager").train()
    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tokens = torch.zeros(spec.batch, spec.seq_len, dtype=torch.long)
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        network(input_ids=tokens, labels=tokens).loss.backward()
    seen = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
    measured = highest([each.nbytes() for each in sorted(seen, key=lambda each: each.start_ns())])

    found, sizes, changes, phase = simulator.trace(spec), dict[int, int](), list[int](), ""
    for event in found.events:
        phase = event.category if event.kind == "phase" else phase
        if phase not in ("forward", "backward") or event.category == "workspace":
            continue
        if event.kind == "allocate":
            sizes[event.ident] = event.nbytes
        if event.ident in sizes and event.kind != "phase":
            changes.append(event.nbytes if event.kind == "allocate" else -sizes[event.ident])
    assert highest(changes) == pytest.approx(measured, rel=0.002)


def highest(changes: list[int]) -> int:
    now = peak = 0
    for change in changes:
        now += change
        peak = max(peak, now)
    return peak


# "Qwen2.5 Speed Benchmark" of Qwen: transformers, bf16, A100-80GB, batch 1, FlashAttention 2, GiB allocated.
@pytest.mark.parametrize(("model", "tokens", "gib"), [("Qwen2.5-0.5B", 30_720, 2.34), ("Qwen2.5-7B", 6_144, 15.38)])
def test_a_prompt_takes_what_qwen_measured(simulator: Any, model: str, tokens: int, gib: float) -> None:
    found = row(simulator, model=model, mode="inference", batch=1, seq_len=tokens, attention="flash", new_tokens=1)
    assert found["peak_allocated_bytes"] / 2**30 == pytest.approx(gib, rel=0.005)
