"""Names as hubs, Ollama, drivers, tools and clouds write them: what each is taken for, and what is said of it."""

from __future__ import annotations

import pytest

from predictor.errors import InvalidRequest, UnknownGpu, UnknownModel
from predictor.hardware.gpu import catalogue, resolve_gpu, spelling
from predictor.hardware.names import key
from predictor.ops.dtypes import DTYPES, dtype_named, near_dtypes
from predictor.planning.fleet import fleet
from predictor.planning.local import local, machine_of
from predictor.shipped import read_catalogue
from predictor.workloads.models import get_model, hub_id, model_note, models
from predictor.workloads.request import Request

TABLE = read_catalogue("names.toml")

MODELS = """
llama3.1:8b = Llama-3.1-8B
llama3.1:70b-instruct = Llama-3.1-70B
llama3.1 = Llama-3.1-8B
llama3.1:latest = Llama-3.1-8B
llama3:8b = Meta-Llama-3-8B
llama3.2:3b = Llama-3.2-3B
llama3.3:70b = Llama-3.3-70B-Instruct
llama2:13b-chat = Llama-2-13b-hf
qwen2.5:7b = Qwen2.5-7B
qwen2.5-coder:32b = Qwen2.5-32B
Qwen/Qwen3-30B-A3B-Thinking-2507 = Qwen3-30B-A3B-Instruct-2507
https://huggingface.co/Qwen/Qwen3-8B = Qwen3-8B
Mistral-Large-2 = Mistral-Large-Instruct-2407
qwen3:30b-a3b = Qwen3-30B-A3B
qwen3 = Qwen3-8B
gemma3:27b = gemma-3-27b-pt
gemma2:9b = gemma-2-9b
mistral = Mistral-7B-v0.3
mixtral:8x7b = Mixtral-8x7B-v0.1
phi4 = phi-4
phi3:mini = Phi-3-mini-4k-instruct
deepseek-r1:32b = DeepSeek-R1-Distill-Qwen-32B
deepseek-r1:70b = DeepSeek-R1-Distill-Llama-70B
deepseek-r1:671b = DeepSeek-V3
gpt-oss:20b = gpt-oss-20b
codellama:13b = CodeLlama-13b-hf
qwq:32b = Qwen2.5-32B
library/llama3.1:8b = Llama-3.1-8B
Llama-3-8B = Meta-Llama-3-8B
meta-llama/Meta-Llama-3.1-8B-Instruct = Llama-3.1-8B
mistralai/Mistral-7B-v0.1 = Mistral-7B-v0.1
mistralai/Mistral-7B-Instruct-v0.1 = Mistral-7B-v0.1
NousResearch/Meta-Llama-3-8B = Meta-Llama-3-8B
NousResearch/Hermes-3-Llama-3.1-8B = Llama-3.1-8B
unsloth/Llama-3.2-1B-Instruct = Llama-3.2-1B
bartowski/Qwen2.5-7B-Instruct-GGUF = Qwen2.5-7B
Qwen/QwQ-32B = Qwen2.5-32B
Qwen/Qwen2.5-Coder-7B-Instruct = Qwen2.5-7B
Qwen/Qwen2.5-Math-72B = Qwen2.5-72B
deepseek-ai/DeepSeek-R1-0528-Qwen3-8B = Qwen3-8B
HuggingFaceH4/zephyr-7b-beta = Mistral-7B-v0.1
meta-llama/Llama-Guard-3-8B = Llama-3.1-8B
BAAI/bge-m3 = bge-m3
BAAI/bge-reranker-v2-m3 = bge-m3
BAAI/bge-reranker-large = xlm-roberta-large
mixedbread-ai/mxbai-embed-large-v1 = bge-large-en-v1.5
thenlper/gte-base = bge-base-en-v1.5
Snowflake/snowflake-arctic-embed-m = bge-base-en-v1.5
cross-encoder/ms-marco-MiniLM-L-6-v2 = all-MiniLM-L6-v2
distilbert-base-uncased-finetuned-sst-2-english = distilbert-base-uncased
"""
QUANTISED = """
Qwen/Qwen3-235B-A22B-Instruct-2507-FP8 = fp8_block
hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M = q4_k_m
llama3.1:8b-instruct-q4_K_M = q4_k_m
qwen2.5:7b-instruct-q8_0 = q8_0
unsloth/Meta-Llama-3.1-8B-bnb-4bit = nf4
unsloth/Qwen3-8B-unsloth-bnb-4bit = nf4
TheBloke/Llama-2-7B-AWQ = int4_wo
TheBloke/Mistral-7B-Instruct-v0.2-GPTQ = int4_wo
Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4 = int4_wo
Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8 = int8_wo
Qwen/Qwen2.5-32B-Instruct-AWQ = int4_wo
hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4 = int4_wo
neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8 = fp8
RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8-dynamic = fp8
amd/Llama-3.1-70B-Instruct-FP8-KV = fp8
RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8 = int8
RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16 = int4_wo
RedHatAI/Qwen2.5-7B-quantized.w8a16 = int8_wo
nvidia/Llama-3.1-8B-Instruct-FP4 = nvfp4
nvidia/Qwen3-8B-NVFP4 = nvfp4
mlx-community/Llama-3.1-8B-Instruct-4bit = mlx_4bit
mlx-community/Qwen3-8B-8bit = mlx_8bit
bartowski/Llama-3.2-3B-Instruct-GGUF:Q5_K_M = q5_k_m
QuantFactory/Meta-Llama-3-8B.Q4_K_S = q4_k_s
Llama-3.1-8B-Instruct-Q6_K-GGUF = q6_k
"""
GPUS = """
NVIDIA A100-SXM4-80GB = A100-SXM-80GB
NVIDIA A100-SXM4-40GB = A100-SXM-40GB
NVIDIA A100 80GB PCIe = A100-PCIe-80GB
NVIDIA A100-PCIE-40GB = A100-PCIe-40GB
NVIDIA GeForce RTX 3080 Laptop GPU = RTX-3080-Laptop
NVIDIA GeForce RTX 4090 = RTX-4090
NVIDIA GeForce RTX 5090 = RTX-5090
NVIDIA GeForce GTX 1080 Ti = GTX-1080-Ti
NVIDIA H100 80GB HBM3 = H100-SXM-80GB
NVIDIA H100 PCIe = H100-PCIe-80GB
NVIDIA H100 NVL = H100-NVL-94GB
NVIDIA H200 NVL = H200-NVL-141GB
NVIDIA H20 = H20-96GB
NVIDIA GH200 480GB = GH200-96GB
NVIDIA B200 = B200-SXM-180GB
NVIDIA L40S = L40S
NVIDIA L4 = L4
NVIDIA A10G = A10G
Tesla T4 = Tesla-T4
Tesla V100-SXM2-16GB = V100-SXM2-16GB
NVIDIA RTX A6000 = RTX-A6000
NVIDIA RTX 6000 Ada Generation = RTX-6000-Ada
NVIDIA RTX PRO 6000 Blackwell Workstation Edition = RTX-PRO-6000-Workstation
NVIDIA GB10 = DGX-Spark
NVIDIA A100-SXM4-80GB MIG 1g.10gb = A100-SXM-80GB:1g.10gb
NVIDIA H100 80GB HBM3 MIG 3g.40gb = H100-SXM-80GB:3g.40gb
A100-SXM4-80GB 1g.10gb = A100-SXM-80GB:1g.10gb
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5fd4f087) = A100-SXM-80GB
Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes = RTX-3090
ggml_vulkan: 0 = AMD Radeon RX 7900 XTX (RADV NAVI31) (radv) | uma: 0 | fp16: 1 = RX-7900-XTX
AMD Radeon RX 7900 XTX (RADV NAVI31) = RX-7900-XTX
AMD Radeon RX 7900 XTX (radeonsi, navi31, LLVM 17.0.6, DRM 3.57, 6.8.0) = RX-7900-XTX
Radeon 8060S Graphics (RADV GFX1151) = Strix-Halo-8060S
AMD Radeon 780M Graphics (RADV PHOENIX) = Radeon-780M
AMD Instinct MI300X OAM = MI300X
AMD Instinct MI325X OAM = MI325X
AMD Instinct MI210 = MI210
Apple M3 Max = Apple-M3-Max
Apple M4 Pro = Apple-M4-Pro
M2 Ultra = Apple-M2-Ultra
Intel(R) Arc(TM) B580 Graphics = Arc-B580
Intel(R) Arc(tm) B580 Graphics (BMG G21) = Arc-B580
01:00.0 VGA compatible controller: NVIDIA Corporation AD102 [GeForce RTX 4090] (rev a1) = RTX-4090
17:00.0 3D controller [0302]: NVIDIA Corporation GH100 [H100 SXM5 80GB] [10de:2330] (rev a1) = H100-SXM-80GB
NVIDIA Corporation GA102 [GeForce RTX 3090] (rev a1) = RTX-3090
nvidia-a100-80gb = A100-SXM-80GB
nvidia-l4 = L4
H100 SXM5 = H100-SXM-80GB
4090 = RTX-4090
RTX4090 = RTX-4090
"""
SHARED = """
A100 = A100-SXM-80GB; A100-PCIe-40GB A100-PCIe-80GB A100-SXM-40GB
A100-80G = A100-SXM-80GB; A100-PCIe-80GB
RTX 3080 = RTX-3080-10GB; RTX-3080-12GB
NVIDIA GeForce RTX 3080 = RTX-3080-10GB; RTX-3080-12GB
NVIDIA H200 = H200-SXM-141GB; H200-NVL-141GB
gfx942 = MI300X; MI325X MI300A MI308X
gfx1100 = RX-7900-XTX; RX-7900-XT
AMD Instinct MI250X / MI250 = MI250X-GCD; MI250-GCD
Advanced Micro Devices, Inc. [AMD/ATI] Navi 31 [Radeon RX 7900 XT/7900 XTX] = RX-7900-XTX; RX-7900-XT
"""
COUNTED = """
8xH100-SXM-80GB = 8 H100-SXM-80GB
8 x H100 SXM = 8 H100-SXM-80GB
H100 SXM x8 = 8 H100-SXM-80GB
L4x2 = 2 L4
RTX 4090 (x4) = 4 RTX-4090
g5.xlarge = 1 A10G
g5.12xlarge = 4 A10G
g4dn.xlarge = 1 Tesla-T4
g6e.48xlarge = 8 L40S
p3.2xlarge = 1 V100-SXM2-16GB
p4d.24xlarge = 8 A100-SXM-40GB
p5.48xlarge = 8 H100-SXM-80GB
H100:8 = 8 H100-SXM-80GB
gpu_8x_a100_80gb_sxm4 = 8 A100-SXM-80GB
gpu_1x_a10 = 1 A10
p5en.48xlarge = 8 H200-SXM-141GB
p6-b200.48xlarge = 8 B200-SXM-180GB
a2-highgpu-8g = 8 A100-SXM-40GB
a2-ultragpu-1g = 1 A100-SXM-80GB
a3-highgpu-8g = 8 H100-SXM-80GB
g2-standard-4 = 1 L4
Standard_ND96isr_H100_v5 = 8 H100-SXM-80GB
Standard_NC24ads_A100_v4 = 1 A100-PCIe-80GB
Standard_ND96isr_MI300X_v5 = 8 MI300X
BM.GPU.H100.8 = 8 H100-SXM-80GB
BM.GPU4.8 = 8 A100-SXM-40GB
"""
FORMATS = """
awq = int4_wo
GPTQ = int4_wo
int4 = int4_wo
w4a16 = int4_wo
W8A8 = int8
w8a16 = int8_wo
fp8_e4m3 = fp8
fp8_e4m3fn = fp8
float8_e4m3fn = fp8
bfloat16 = bf16
half = fp16
float16 = fp16
float32 = fp32
NVFP4 = nvfp4
fp4 = nvfp4
MXFP4 = mxfp4
q4_0 = q4_0
Q4_K_M = q4_k_m
q4-k-m = q4_k_m
Q4_K - Medium = q4_k_m
bnb-4bit = nf4
"""


def lines(table: str) -> list[tuple[str, str]]:
    """Pairs of a table of "spelling = meaning"; a spelling may have an equals sign of its own."""
    parts = [line.rpartition(" = ") for line in table.strip().splitlines()]
    return [(spelling, meaning) for spelling, _, meaning in parts if meaning]


def test_the_tables_are_long():
    assert sum(len(lines(table)) for table in (MODELS, QUANTISED, GPUS, SHARED, COUNTED, FORMATS)) >= 150


@pytest.mark.parametrize(("name", "model"), lines(MODELS))
def test_a_model_is_found_by_the_name_that_people_write(name: str, model: str):
    assert get_model(name).name == model


@pytest.mark.parametrize(("name", "dtype"), lines(QUANTISED))
def test_a_name_says_the_format_of_the_weights(name: str, dtype: str):
    assert get_model(name).linear_dtype == dtype
    if name not in models():
        assert f"weights are taken in {dtype}" in model_note(name, "")
        assert model_note(name, dtype) == ""


@pytest.mark.parametrize(("name", "gpu"), lines(GPUS))
def test_a_gpu_is_found_by_what_tools_print(name: str, gpu: str):
    taken, note = resolve_gpu(name)
    assert taken.name == gpu and "others" not in note


@pytest.mark.parametrize(("name", "meaning"), lines(SHARED))
def test_a_name_of_several_gpus_says_the_others(name: str, meaning: str):
    taken, _, others = meaning.partition("; ")
    gpu, note = resolve_gpu(name)
    assert gpu.name == taken
    assert all(other in note for other in others.split())


@pytest.mark.parametrize(("name", "meaning"), lines(COUNTED))
def test_a_name_counts_its_gpus(name: str, meaning: str):
    count, _, gpu = meaning.partition(" ")
    some = fleet(name)[0]
    assert (some.n_gpus, some.gpu.name) == (int(count), gpu)
    request = Request(model="Llama-3.1-8B", gpu=name)
    assert (request.n_gpus, request.tp) == (int(count), int(count))


@pytest.mark.parametrize(("name", "dtype"), lines(FORMATS))
def test_a_number_format_has_the_names_of_engines(name: str, dtype: str):
    assert dtype_named(name) == dtype
    assert Request(model="Llama-3.1-8B", gpu="H100", dtype=name).dtype == dtype


@pytest.mark.parametrize("name", list(catalogue()))
def test_no_gpu_of_the_catalogue_is_read_as_a_count(name: str):
    assert Request(model="Llama-3.1-8B", gpu=name).n_gpus == 1
    assert all(spelling(alias) is None for alias in (name, *catalogue()[name].aliases))


def test_the_option_wins_and_the_contradiction_is_named():
    name = "TheBloke/Llama-2-7B-AWQ"
    assert model_note(name, "fp8") == f'"{name}" says weights in int4_wo (AWQ); dtype fp8 is taken.'
    assert "Set dtype" in model_note("TheBloke/Llama-2-7B-GGUF", "")
    assert "Ollama" in model_note("llama3.1:8b", "") and model_note("llama3.1:8b", "q4_k_m") == ""
    assert "q4_k_m" not in model_note("gpt-oss:20b", "")
    assert model_note("Llama-3.1-8B", "") == ""


def test_a_count_that_the_layout_contradicts_is_refused():
    with pytest.raises(
        InvalidRequest, match=r'^gpu is "8xH100" and n_gpus 4; make them equal, or name the GPU alone.$'
    ):
        Request(model="Llama-3.1-8B", gpu="8xH100", tp=4)
    assert Request(model="Llama-3.1-8B", gpu="p5.48xlarge", tp=4).n_gpus == 4
    assert Request(model="Llama-3.1-8B", gpu="8xH100", dp=4, tp=2).n_gpus == 8


def test_what_is_unknown_is_not_guessed():
    with pytest.raises(UnknownModel, match=r"did you mean Llama-3\.2-1B or Llama-3\.1-8B"):
        get_model("llama3.1:9b")
    with pytest.raises(UnknownModel):
        get_model("somebody/Llama-3.1-8B")
    with pytest.raises(UnknownGpu, match="did you mean RTX-4090"):
        resolve_gpu("NVIDIA GeForce RTX 4091")
    with pytest.raises(UnknownGpu):
        resolve_gpu("p99.metal")
    assert near_dtypes("q4km") == " Did you mean q4_k_m or q4_k?" and near_dtypes("zzz") == ""


def test_a_share_of_a_gpu_has_the_memory_that_its_name_says():
    gpu, note = resolve_gpu("GRID A100D-20C")
    assert gpu.mem_bytes == 20 * 2**30 and "share of a GPU" in note


def test_names_of_the_catalogue_mean_what_there_is():
    assert all(name in DTYPES for name in (*TABLE["dtypes"].values(), *filter(None, TABLE["formats"].values())))
    assert all(name in models() for name in TABLE["models"].values())
    assert all(name in catalogue() for meant in TABLE["gpus"].values() for name in meant)
    assert all(machine.partition("x")[2] in catalogue() for machine in TABLE["instances"].values())
    assert all(get_model(tag) for tag in TABLE["defaults"].values())
    of_gpus = {key(alias) for gpu in catalogue().values() for alias in (gpu.name, *gpu.aliases)}
    assert not [name for name in TABLE["gpus"] if key(name) in of_gpus]


def test_a_hub_id_follows_from_the_names():
    assert hub_id("llama3.1:8b") == "meta-llama/Llama-3.1-8B"
    assert hub_id("TheBloke/Llama-2-7B-AWQ") == "TheBloke/Llama-2-7B-AWQ"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"engine": "foo"}, 'engine is "foo"; serving knows'),
        ({"dtypes": ("q4km",)}, 'dtype is "q4km"; it must be one of .* Did you mean q4_k_m or q4_k?'),
    ],
)
def test_local_refuses_what_is_no_engine_and_no_format(options: dict[str, object], error: str):
    with pytest.raises(InvalidRequest, match=error):
        local("RTX-4090", ["Llama-3.1-8B"], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("gpus", ["all", "consumer", "RTX-4090,RTX-3090"])
def test_local_has_gpus_of_one_kind(gpus: str):
    with pytest.raises(InvalidRequest, match="a machine has one here"):
        machine_of(gpus)
