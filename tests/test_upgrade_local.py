"""Other GPUs in place of those one has, and what runs on this machine."""

import json

import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.hardware import detect as detecting
from predictor.hardware.detect import Detected, detect, of_amd, of_apple, of_nvidia
from predictor.hardware.gpu import get_gpu
from predictor.memory.capacity import RISK
from predictor.planning.fleet import fleet
from predictor.planning.local import FORMATS, local
from predictor.planning.upgrade import Work, read_mix, upgrade

SERVED = Work("serve", 1.0, {"model": "Qwen3-8B", "batch": 8, "input_len": 500, "output_len": 100})
TRAINED = Work("train", 1.0, {"model": "Qwen3-8B", "phase": "train", "method": "lora", "seq_len": 1024})
MIX = """
[[work]]
share = 3
model = "Qwen3-8B"
batch = 8
[[work]]
name = "tuning"
model = "Qwen3-8B"
phase = "train"
method = "lora"
"""


def test_a_fleet_over_itself_is_as_fast_and_costs_as_much():
    (same,) = upgrade(fleet("2xA100")[0], fleet("2xA100"), [SERVED])
    assert same.speed.value == pytest.approx(1.0) and same.cost == same.room == pytest.approx(1.0)
    assert same.speed.low <= 1 <= same.speed.high
    assert same.cost_per_token.value == pytest.approx(1.0)


def test_speeds_of_a_mix_add_up_as_times():
    halves = [SERVED._replace(share=0.5), TRAINED._replace(share=0.5)]
    (one,) = upgrade(fleet("2xA100")[0], fleet("2xH100"), halves)
    serve, train = one.of_each["serve"].value, one.of_each["train"].value
    assert one.speed.value == pytest.approx(1 / (0.5 / serve + 0.5 / train))
    assert 1 < one.speed.low < one.speed.value < one.speed.high


def test_what_does_not_run_says_why_and_comes_last():
    big = SERVED._replace(columns={"model": "Llama-3.1-70B"})
    good, bad = upgrade(fleet("2xB200")[0], fleet("L4,2xB300"), [big])
    assert good.fleet.some.gpu.name == "B300-SXM-288GB" and not good.why
    assert bad.speed is None and bad.why
    with pytest.raises(InvalidRequest, match="L4 does not run serve"):
        upgrade(fleet("L4")[0], fleet("2xB200"), [big])


def test_fleets_and_mixes_are_named_or_made(tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(MIX)
    named, made = upgrade("2xA100", "2xH100", path), upgrade(fleet("2xA100")[0], fleet("2xH100"), read_mix(path))
    assert [one.row() for one in named] == [one.row() for one in made]
    with pytest.raises(InvalidRequest, match='have is "A100,H100"; it must be GPUs of one kind'):
        upgrade("A100,H100", "H100", path)


def test_each_fleet_takes_the_fastest_format_that_it_has():
    formats = SERVED._replace(columns={**SERVED.columns, "dtype": ["bf16", "fp8"]})
    (one,) = upgrade(fleet("A100")[0], fleet("H100"), [formats])
    (plain,) = upgrade(fleet("A100")[0], fleet("H100"), [SERVED])
    assert one.speed.value > plain.speed.value
    with pytest.raises(InvalidRequest, match="no fp8"):
        upgrade(fleet("A100")[0], fleet("H100"), [SERVED._replace(columns={**SERVED.columns, "dtype": "fp8"})])


def test_arrivals_are_compared_by_the_rate_that_is_held():
    work = Work("chat", 1.0, {"model": "Qwen3-8B", "request_rate": 0.5, "input_len": 500, "output_len": 100})
    (one,) = upgrade(fleet("L4")[0], fleet("H100"), [work])
    assert one.speed.value > 3  # both answer all that come


def test_mixes(tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(MIX)
    mix = read_mix(path)
    assert [work.name for work in mix] == ["Qwen3-8B", "tuning"]
    assert [work.share for work in mix] == [0.75, 0.25]
    for text, told in (
        ("", "has no work"),
        ('[[work]]\nmodel = "Qwen3-8B"\nshare = 0', "share is 0 in work 1"),
        ('[[work]]\nmodel = "Qwen3-8B"\nshare = 1e308', "it must be above 0, and at most 1e9"),
        ('[[work]]\nmodel = "Qwen3-8B"\ntp = 2', "the fleets decide it"),
        ('[[work]]\nmodel = "Qwen3-8B"\nbacth = 2', "did you mean batch"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidRequest, match=told):
            read_mix(path)


def test_drivers_name_their_gpus():
    assert of_nvidia("NVIDIA GeForce RTX 4090, 24564\nNVIDIA L4, 23034\n")[1] == ("NVIDIA L4", 23034 * 2**20)
    card = {"card0": {"Card Series": "AMD Radeon RX 7900 XTX", "VRAM Total Memory (B)": "25753026560"}}
    assert of_amd(json.dumps(card)) == [("AMD Radeon RX 7900 XTX", 25753026560.0)]
    shown = {"SPDisplaysDataType": [{"sppci_model": "Apple M3 Max", "sppci_cores": "30"}]}
    assert of_apple(json.dumps(shown))[0].name == "Apple M3 Max (30 GPU cores)"
    for read in (of_nvidia, of_amd, of_apple):
        assert read("") == read("[]") == read("nonsense") == []


def test_what_the_driver_says_of_memory_is_taken(monkeypatch):
    answers = {"nvidia-smi": "NVIDIA GeForce RTX 4090, 49140\nNVIDIA GeForce RTX 4090, 49140\n"}
    monkeypatch.setattr(detecting, "_output", lambda command: answers.get(command[0], ""))
    (found,) = detect()
    assert found.n_gpus == 2 and found.gpu.mem_bytes == pytest.approx(49140 * 2**20, rel=1e-3)
    assert "by its driver" in found.note
    answers["nvidia-smi"] = "NVIDIA Wonder 9000, 1\n"
    with pytest.raises(InvalidRequest, match="NVIDIA Wonder 9000 is no GPU of the catalogue"):
        detect()
    answers.clear()
    with pytest.raises(InvalidRequest, match="no GPU is found in this machine"):
        detect()


def test_the_widest_format_with_room_is_taken():
    machine = Detected(get_gpu("RTX-4090"), 1, "")
    found = local(machine, ["Llama-3.2-1B", "Qwen3-14B", "Llama-3.3-70B"])
    assert [one.fits for one in found] == [True, True, False]
    assert [one.row["dtype"] for one in found] == ["fp16", "q8_0", FORMATS["llama.cpp"][-1]]
    assert all(one.row["p_oom"] <= RISK for one in found if one.fits)
    two = local(machine._replace(n_gpus=2), ["Llama-3.3-70B"])[0]
    assert two.fits and two.row["n_gpus"] == 2


def test_commands(capsys, tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(MIX)
    assert main(["upgrade", "--have", "A100", "--consider", "H100,2xL40S", "--mix", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["gpu"] == "H100-SXM-80GB" and rows[0]["speed_low"] < rows[0]["speed"] < rows[0]["speed_high"]
    assert main(["upgrade", "--have", "A100", "--consider", "H100", "--mix", str(path)]) == 0
    assert "tuning" in capsys.readouterr().out
    assert main(["local", "--gpu", "RTX-4090", "--model", "Qwen3-8B", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["fits"]


def test_experts_that_are_published_in_four_bits_are_not_widened():
    found = local("RTX-5090", ["gpt-oss-20b"])[0]
    assert found.fits and found.tried[0] == "" and "q8_0" not in found.tried
    assert found.row["memory_bytes"] < 16e9
