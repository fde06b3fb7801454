"""Laws of sequences that differ: packed, padded or neither, in time, in bytes and in tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidRequest
from predictor.hardware.gpu import get_gpu
from predictor.latency.training import TrainingReport, training_notes
from predictor.memory.capacity import training_room
from predictor.memory.training import training_memory
from predictor.ops import Attention
from predictor.prediction.single import predict_training
from predictor.workloads.models import get_model
from predictor.workloads.passes.lengths import Lengths
from predictor.workloads.passes.training import TrainingSetting, training_calls

LLAMA, BERT, H100 = "Llama-3.1-8B", "bert-large-uncased", get_gpu("H100-SXM-80GB")
PADDED = ("max_length", "longest", "none")  # the slowest first


def trained(model: str = LLAMA, **columns: Any) -> TrainingReport:
    return predict_training(model, "H100-SXM-80GB", **{"method": "lora", "checkpointing": "full"} | columns)


@pytest.mark.parametrize("model", [LLAMA, BERT])
@pytest.mark.parametrize("padding", ["", *PADDED])
def test_equal_lengths_are_alike_however_they_are_batched(model: str, padding: str) -> None:
    plain = {"seq_len": 512, "micro_batch": 4, "method": "full", "dtype": "bf16"}
    unlike = trained(model, **plain, mean_seq_len=512, padding=padding)
    whole = trained(model, **plain)
    assert unlike.step_s == whole.step_s and unlike.tokens_per_s == whole.tokens_per_s and unlike.mfu == whole.mfu
    assert unlike.memory == whole.memory


@given(
    mean=st.integers(64, 2048),
    batch=st.integers(1, 16),
    replicas=st.sampled_from([1, 2, 8]),
    passes=st.sampled_from([1, 4]),
    stage=st.sampled_from([0, 1, 3]),
)
@settings(deadline=None)
def test_no_padding_computes_no_more_tokens_than_padding(
    mean: int, batch: int, replicas: int, passes: int, stage: int
) -> None:
    shape: dict[str, Any] = {"micro_batch": batch, "dp": replicas, "grad_accum": passes, "zero_stage": stage}
    shape |= {"seq_len": 2048, "mean_seq_len": mean, "packing": False}
    rows = [TrainingSetting(**shape, padding=padding) for padding in PADDED]
    timed = [setting.timed.seq_len for setting in rows]
    assert timed == sorted(timed, reverse=True) and min(timed) >= mean
    held = [setting.held.seq_len for setting in rows]
    assert held == sorted(held, reverse=True)
    assert all(most >= least for most, least in zip(held, timed, strict=True))
    assert len({setting.step_tokens for setting in rows}) == 1


@pytest.mark.parametrize("model", [LLAMA, BERT])
@pytest.mark.parametrize("spread", [None, 0.3, 1.0])
def test_packing_is_never_slower_than_no_padding_nor_that_than_padding(model: str, spread: float | None) -> None:
    """For as many real tokens: one packed row of eight sequences, or those eight."""
    unlike: dict[str, Any] = {"mean_seq_len": 64, "length_spread": spread}
    packed = trained(model, **unlike, micro_batch=1, seq_len=512)
    rest = [trained(model, **unlike, micro_batch=8, seq_len=512, padding=padding) for padding in PADDED]
    speeds = [report.tokens_per_s.value for report in (*rest, packed)]
    assert speeds == sorted(speeds)
    assert len({report.step.setting.step_tokens for report in (*rest, packed)}) == 1


def test_tokens_that_are_trained_on_do_not_count_padding() -> None:
    padded = trained(seq_len=2048, mean_seq_len=512, padding="max_length", micro_batch=4, dataset_rows=1000)
    full = trained(seq_len=2048, micro_batch=4)
    assert padded.step_s == full.step_s
    assert padded.tokens_per_s.value == pytest.approx(full.tokens_per_s.value / 4)
    assert padded.mfu < full.mfu / 4
    assert padded.whole and padded.whole.hours.value == pytest.approx(512_000 / padded.tokens_per_s.value / 3600)


@pytest.mark.parametrize("spread", [0.2, 0.7, 1.0])
@pytest.mark.parametrize(("model", "batching"), [(LLAMA, {}), (BERT, {"packing": False, "padding": "none"})])
def test_attention_of_a_varlen_kernel_is_the_sum_of_its_sequences(
    model: str, batching: dict[str, Any], spread: float
) -> None:
    """Beside lengths drawn one by one."""
    setting = TrainingSetting(seq_len=512, micro_batch=64, length_spread=spread, **batching).timed
    network = get_model(model)
    calls = [call for call in training_calls(network, setting).forward if isinstance(call.op, Attention)]
    work = sum(float(call.op.flops()) * call.count for call in calls)
    sequences = np.random.default_rng(0).uniform(512 * (1 - spread), 512, 200_000)
    pairs = sequences * (sequences + 1) / 2 if model == LLAMA else sequences**2
    shown = pairs.sum() / sequences.sum() * setting.micro_tokens
    assert work == pytest.approx(4 * network.hidden * network.layers * shown, rel=0.01)
    assert sum(float(call.op.batch * call.op.q_len) * call.count for call in calls) == pytest.approx(
        setting.micro_tokens * network.layers
    )


def test_masks_of_packed_rows_save_no_attention() -> None:
    masked = trained(seq_len=4096, mean_seq_len=256, attention="sdpa")
    assert masked.step_s == trained(seq_len=4096, attention="sdpa").step_s
    assert masked.step_s.value > trained(seq_len=4096, mean_seq_len=256).step_s.value
    assert any("(sdpa masks it)" in note for note in masked.notes)


def test_memory_without_padding_lies_between_the_mean_and_the_longest() -> None:
    def need(**changes: Any) -> float:
        return training_memory(get_model(LLAMA), H100, TrainingSetting(micro_batch=8, **changes)).total_bytes

    unlike: dict[str, Any] = {"seq_len": 4096, "mean_seq_len": 512, "packing": False}
    assert need(seq_len=512) < need(**unlike, padding="none") < need(**unlike, padding="longest")
    assert need(**unlike, padding="longest", length_spread=1.0) == need(seq_len=1024, packing=False)


def test_the_longest_sequence_with_room_may_be_shorter_than_the_mean() -> None:
    setting = TrainingSetting(seq_len=8192, mean_seq_len=4096, packing=False, padding="longest", micro_batch=16)
    longest = training_room(get_model(LLAMA), H100, setting).max_seq_len
    assert longest is None or longest < 4096


def test_a_longer_tail_than_said_makes_padding_doubtful() -> None:
    columns: dict[str, Any] = {"seq_len": 4096, "mean_seq_len": 512, "padding": "longest", "micro_batch": 16}
    guessed, stated = trained(**columns), trained(**columns, length_spread=1.0)
    assert guessed.step_s.value == stated.step_s.value
    assert guessed.step_s.high > stated.step_s.high and guessed.step_s.low == stated.step_s.low


def test_what_padding_takes_is_said() -> None:
    setting = TrainingSetting(seq_len=2048, mean_seq_len=512, packing=False, padding="max_length")
    assert training_notes(H100, setting) == [
        "tokens/s counts the sequences' own tokens, 512 in the mean; rows are padded to 2048: 75% of what is computed "
        "is padding."
    ]


def test_a_row_of_context_parallelism_divides() -> None:
    for padding in PADDED:
        shape: dict[str, Any] = {"seq_len": 4096, "mean_seq_len": 777, "packing": False, "padding": padding, "cp": 4}
        setting = TrainingSetting(**shape, micro_batch=3)
        assert setting.timed.seq_len % 8 == 0 and setting.held.seq_len % 8 == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"seq_len": 512, "mean_seq_len": 1024},
            "mean_seq_len is 1024 and seq_len 512; no sequence has more than seq_len tokens. Raise seq_len.",
        ),
        (
            {"padding": "longest"},
            'padding is "longest" and mean_seq_len 0; what is padded depends on it. Say how many tokens a sequence has '
            "in the mean.",
        ),
        (
            {"packing": False, "length_spread": 0.5},
            "length_spread is 0.5 without packing; say what becomes of sequences that differ. Set padding to longest, "
            "max_length or none.",
        ),
        (
            {"seq_len": 1024, "mean_seq_len": 768, "length_spread": 1.0},
            "length_spread is 1 and mean_seq_len 768; sequences of up to 1536 tokens are above seq_len, 1024. Lower "
            "length_spread to 0.5, or raise seq_len.",
        ),
        (
            {"mean_seq_len": 512, "padding": "none", "attention": "sdpa"},
            'padding is "none" and attention sdpa, which knows no sequences in a row. Set attention to flash2 or '
            "cudnn.",
        ),
        ({"mean_seq_len": 512, "padding": "shortest"}, 'padding is "shortest"; it must be one of longest, max_length'),
    ],
)
def test_lengths_that_cannot_be_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        trained(**columns)
    assert str(refused.value).startswith(message)


def test_images_are_alike() -> None:
    with pytest.raises(InvalidRequest, match=r"^mean_seq_len is 64; all images of .* are alike\. Leave it out\.$"):
        trained("vit-base-patch16-224", method="full", mean_seq_len=64)


def test_lengths_lie_evenly() -> None:
    lengths = Lengths(256.0, 1024.0)
    drawn = np.random.default_rng(0).uniform(256, 1024, (100_000, 4))
    assert lengths.mean == pytest.approx(drawn.mean(), rel=0.01)
    assert lengths.deviation == pytest.approx(drawn.std(), rel=0.01)
    assert lengths.attended == pytest.approx((drawn**2).sum() / drawn.sum(), rel=0.01)
    assert lengths.longest_of(4) == pytest.approx(drawn.max(axis=1).mean(), rel=0.01)
