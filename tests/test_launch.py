"""Commands and manifests of plans."""

import json
import shlex

import pytest
import yaml
from hypothesis import given, strategies as st
from launches import launch_of

from predictor.errors import PredictorError
from predictor.hardware.gpu import catalogue, get_gpu
from predictor.ops.dtypes import DTYPES
from predictor.planning.launch import Launch
from predictor.planning.launch.manifests import Replicas, compose, dns_label, kubernetes
from predictor.planning.launch.servers import OTHER_TABLES, checkpoint, product, servers, vendor
from predictor.planning.launch.yaml_text import yaml_text
from predictor.shipped import read_catalogue
from predictor.workloads.engines import engines
from predictor.workloads.models import hub_id, models
from predictor.workloads.workload import KV_DTYPES


def options(launch: Launch) -> dict[str, str]:
    """Options of a command with their values, "" of those without one."""
    words = shlex.split(launch.command)
    assert tuple(words) == launch.words
    following = [*words[1:], "--"]
    return {w: "" if n.startswith("--") else n for w, n in zip(words, following, strict=True) if w.startswith("--")}


# Commands


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"engine": "vllm", "tp": 2, "dtype": "fp8", "kv_dtype": "fp8", "max_num_seqs": 64},
            {"--tensor-parallel-size": "2", "--quantization": "fp8", "--kv-cache-dtype": "fp8", "--max-num-seqs": "64"},
        ),
        (
            {"engine": "sglang", "tp": 2, "dtype": "fp8", "kv_dtype": "fp8", "max_num_seqs": 64},
            {"--tp-size": "2", "--quantization": "fp8", "--kv-cache-dtype": "fp8_e4m3", "--max-running-requests": "64"},
        ),
        (
            {"engine": "trtllm", "tp": 2, "max_num_seqs": 64, "max_num_batched_tokens": 4096},
            {"--tp_size": "2", "--max_batch_size": "64", "--max_num_tokens": "4096"},
        ),
        (
            {"engine": "llama.cpp", "dtype": "q4_k_m", "kv_dtype": "q8_0", "max_num_seqs": 8},
            {"--model": "./Qwen3-8B-Q4_K_M.gguf", "--cache-type-k": "q8_0", "--parallel": "8", "--ctx-size": "6144"},
        ),
        (
            {"engine": "vllm", "pp": 2, "gpu_memory_utilization": 0.85, "max_model_len": 4096},
            {"--pipeline-parallel-size": "2", "--gpu-memory-utilization": "0.85", "--max-model-len": "4096"},
        ),
        (
            {"engine": "vllm", "enforce_eager": True, "enable_chunked_prefill": False, "async_scheduling": False},
            {"--enforce-eager": "", "--no-enable-chunked-prefill": "", "--no-async-scheduling": ""},
        ),
        (
            {"engine": "sglang", "enforce_eager": True, "enable_chunked_prefill": False, "async_scheduling": False},
            {"--disable-decode-cuda-graph": "", "--chunked-prefill-size": "-1", "--disable-overlap-schedule": ""},
        ),
        (
            {"engine": "vllm", "draft_tokens": 3, "acceptance": 0.7},
            {"--speculative-config": '{"method": "ngram", "num_speculative_tokens": 3}'},
        ),
        (
            {"engine": "sglang", "draft_tokens": 3, "acceptance": 0.7, "draft_model": "Qwen3-0.6B"},
            {"--speculative-algorithm": "STANDALONE", "--speculative-draft-model-path": "Qwen/Qwen3-0.6B"},
        ),
    ],
)
def test_what_a_plan_sets_is_in_its_command(columns, expected):
    launch = launch_of(model="Qwen3-8B", gpu="L40S", **columns)
    told = options(launch)
    assert {name: told.get(name) for name in expected} == expected
    assert told["--port"] == str(launch.server.port)


def test_engines_of_apple():
    launch = launch_of(model="Qwen3-8B", gpu="Apple-M4-Max", engine="mlx", dtype="mlx_4bit", max_num_seqs=16)
    assert options(launch)["--decode-concurrency"] == "16"
    assert "mlx_lm.convert --hf-path Qwen/Qwen3-8B -q --q-bits 4" in launch.notes[0]


def test_groups_that_attend_apart():
    columns = {"model": "DeepSeek-V3", "gpu": "H200", "attention_dp": 8, "ep": 8}
    vllm, sglang, trtllm = (launch_of(**columns, engine=engine) for engine in ("vllm", "sglang", "trtllm"))
    assert options(vllm)["--data-parallel-size"] == "8" and "--enable-expert-parallel" in vllm.words
    assert "--tensor-parallel-size" not in vllm.words
    told = options(sglang)
    assert (told["--tp-size"], told["--dp-size"], told["--ep-size"]) == ("8", "8", "8")
    assert "--enable-dp-attention" in told
    assert (options(trtllm)["--tp_size"], options(trtllm)["--config"]) == ("8", "trtllm.yaml")
    assert trtllm.file == "enable_attention_dp: true\n"


def test_weights_as_they_are_published_need_no_option():
    for model in ("Qwen3-8B", "DeepSeek-V3", "gpt-oss-20b"):
        launch = launch_of(model=model, gpu="H200", tp=8)
        assert "--quantization" not in launch.words and not launch.notes


def test_formats_that_no_engine_makes_are_said_to_need_a_checkpoint():
    assert launch_of(model="Qwen3-8B", gpu="L4", dtype="int4_wo").notes == (
        "int4_wo needs weights in AWQ or GPTQ in groups of 128; vllm does not make them of 16 bits. Put their hub id "
        "or folder in place of the model's.",
    )
    assert {name for name in DTYPES if checkpoint(name) == name} <= {"fp32", "tf32"} | {
        name for name in DTYPES if name.startswith(("q", "iq", "mlx"))
    }


def test_a_context_that_does_not_fit_is_cut_where_the_engine_would_not_start():
    assert options(launch_of(model="Qwen3-8B", gpu="L4"))["--max-model-len"] == "auto"
    assert "--max-model-len" not in launch_of(model="Qwen3-8B", gpu="H100").words


def test_gpus_without_bf16_are_told_fp16():
    assert options(launch_of(model="Qwen3-8B", gpu="T4"))["--dtype"] == "float16"


def test_a_setting_that_a_server_has_no_option_for_is_noted():
    launch = launch_of(model="Qwen3-8B", gpu="L4", engine="vllm", engine_version="0.12")
    assert launch.notes == ("options are those of vllm 0.24; 0.12 may name some otherwise.",)
    unknown = launch_of(model="Qwen3-8B", gpu="L4", engine="deepspeed")
    assert unknown.command == "" and unknown.notes == ("how deepspeed is started as a server is not known here.",)


def test_files_stay_files(tmp_path):
    config = tmp_path / "mine" / "config.json"
    config.parent.mkdir()
    config.write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": 2048,
                "num_hidden_layers": 16,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "intermediate_size": 8192,
                "vocab_size": 32000,
                "max_position_embeddings": 4096,
                "tie_word_embeddings": True,
                "torch_dtype": "bfloat16",
            }
        )
    )
    launch = launch_of(model=str(config), gpu="L4")
    assert launch.local and launch.words[2] == launch.model == str(config.parent)
    of = Replicas("mine", launch, get_gpu("L4"), 1)
    assert f"{launch.model}:{launch.model}:ro" in compose(of)["compose.yaml"]
    assert f"path: {launch.model}" in kubernetes(of)


def test_hub_ids():
    assert hub_id("Qwen/Qwen3-8B") == hub_id("qwen3-8b") == "Qwen/Qwen3-8B"
    assert hub_id("nobody-knows") == hub_id("./qwen3-8b") == ""
    assert all(hub_id(name).endswith(f"/{name}") or "/" not in hub_id(name) for name in models())


def test_tables_are_of_engines_gpus_and_formats():
    tables = read_catalogue("launch.toml")
    assert set(tables) - set(OTHER_TABLES) == set(servers()) <= set(engines())
    assert set(tables["products"]) <= set(catalogue())
    for server in servers().values():
        assert server.source and server.client in ("vllm", "sglang")
        assert set(server.cache) <= set(KV_DTYPES) and set(server.weights) <= set(DTYPES)
        assert set(server.drafts) <= {"free", "mtp", "model"}
    assert all(table["source"] for table in tables["vendors"].values())


def test_every_setting_of_an_engine_has_an_option_or_is_the_clients():
    lacking = {"mlx": {"max_model_len"}}  # mlx_lm.server has none; a plan that sets it is noted
    for name, server in servers().items():
        known = {*server.options, *server.off, "offline", *lacking.get(name, ())}
        assert set(engines()[name].settings) <= known, name


# YAML


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=12),
            lambda inner: (
                st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3)
                | st.lists(st.dictionaries(st.text(min_size=1, max_size=5), inner, min_size=1, max_size=2), max_size=2)
                | st.lists(st.text(max_size=8) | st.integers(), max_size=3)
            ),
            max_leaves=8,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read_back(value):
    assert yaml.safe_load(yaml_text(value)) == value


@pytest.mark.parametrize(
    ("gpu", "engine", "resource", "count"),
    [
        ("L4", "vllm", "nvidia.com/gpu", 2),
        ("H100", "sglang", "nvidia.com/gpu", 4),
        ("H200", "trtllm", "nvidia.com/gpu", 2),
        ("MI300X", "vllm", "amd.com/gpu", 2),
        ("Arc-Pro-B60", "vllm", "gpu.intel.com/xe", 2),
        ("RTX-4090", "llama.cpp", "nvidia.com/gpu", 2),
    ],
)
def test_manifests_ask_for_the_gpus_of_a_replica(gpu, engine, resource, count):
    launch = launch_of(model="Qwen3-8B", gpu=gpu, engine=engine, tp=count)
    of = Replicas("qwen3-8b", launch, get_gpu(gpu), 3)
    workers, service = yaml.safe_load_all(kubernetes(of))
    pod = workers["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert (workers["kind"], workers["spec"]["replicas"], service["kind"]) == ("Deployment", 3, "Service")
    assert container["resources"]["limits"] == {resource: count}
    assert container["command"][1:] == list(launch.words[1:])
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": launch.server.port}
    assert service["spec"]["selector"].items() <= workers["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    if product(get_gpu(gpu)):
        assert pod["nodeSelector"] == {vendor(get_gpu(gpu)).label: product(get_gpu(gpu))}

    files = compose(of)
    services = yaml.safe_load(files["compose.yaml"])["services"]
    replicas = [service for name, service in services.items() if name != "balancer"]
    here = min(3, 8 // count)
    assert len(replicas) == here and services["balancer"]["depends_on"] == [f"engine-{n}" for n in range(here)]
    ids = [gpu_ids(service) for service in replicas]
    assert sorted(int(one) for own in ids for one in own) == list(range(here * count))
    assert all(f"server engine-{n}:{launch.server.port};" in files["nginx.conf"] for n in range(here))


def gpu_ids(service):
    if "deploy" in service:
        return service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
    return next(value for name, value in service["environment"].items() if "VISIBLE" in name or "MASK" in name).split(
        ","
    )


def test_one_replica_needs_no_balancer():
    of = Replicas("qwen3-8b", launch_of(model="Qwen3-8B", gpu="L4"), get_gpu("L4"), 1)
    files = compose(of)
    assert set(files) == {"compose.yaml"}
    assert yaml.safe_load(files["compose.yaml"])["services"]["engine-0"]["ports"] == ["8000:8000"]


def test_an_engines_own_file_travels_with_it():
    launch = launch_of(model="Qwen3-8B", gpu="H200", engine="trtllm", kv_dtype="fp8", async_scheduling=False)
    expected = {"kv_cache_config": {"dtype": "fp8"}, "disable_overlap_scheduler": True}
    assert yaml.safe_load(launch.file) == expected
    config, workers, _ = yaml.safe_load_all(kubernetes(Replicas("q", launch, get_gpu("H200"), 1)))
    assert yaml.safe_load(config["data"]["trtllm.yaml"]) == expected
    container = workers["spec"]["template"]["spec"]["containers"][0]
    mount = next(mount for mount in container["volumeMounts"] if mount["name"] == "plan")
    assert mount["mountPath"] == f"{container['workingDir']}/trtllm.yaml"


def test_replicas_across_machines_are_leader_and_workers():
    columns = {"model": "DeepSeek-V3", "gpu": "H100", "tp": 8, "pp": 2}
    launch = launch_of(**columns)
    assert (launch.nodes, launch.gpus) == (2, 8)
    workers, _ = yaml.safe_load_all(kubernetes(Replicas("ds", launch, get_gpu("H100"), 2)))
    template = workers["spec"]["leaderWorkerTemplate"]
    assert (workers["kind"], workers["spec"]["replicas"], template["size"]) == ("LeaderWorkerSet", 2, 2)
    leader, worker = (template[f"{kind}Template"]["spec"]["containers"][0] for kind in ("leader", "worker"))
    assert leader["resources"]["limits"] == worker["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert "--headless" in worker["command"] and "--headless" not in leader["command"]
    assert "$(LWS_LEADER_ADDRESS)" in leader["command"] and "readinessProbe" not in worker
    assert Replicas("ds", launch_of(**columns, engine="trtllm"), get_gpu("H100"), 1).lacking == (
        "a replica lies across 2 machines, joined in trtllm's own way."
    )


def test_what_no_container_reaches_is_said():
    apple = Replicas("q", launch_of(model="Qwen3-8B", gpu="Apple-M4-Max"), get_gpu("Apple-M4-Max"), 1)
    assert apple.lacking == "containers do not reach the GPU of Apple's machines; start run.sh."
    gaudi = Replicas("q", launch_of(model="Qwen3-8B", gpu="Gaudi3"), get_gpu("Gaudi3"), 1)
    assert gaudi.lacking == "no container image of vllm-gaudi for Gaudi3 is known here; start run.sh."


def test_slices_are_slices():
    launch = launch_of(model="Qwen3-8B", gpu="H100:3g.40gb")
    workers, _ = yaml.safe_load_all(kubernetes(Replicas("q", launch, get_gpu("H100:3g.40gb"), 1)))
    limits = workers["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/mig-3g.40gb": 1}


@given(st.text(), st.text())
def test_names_are_dns_labels(model, gpu):
    name = dns_label(model, gpu)
    assert (
        len(name) <= 63
        and name[0].isalpha()
        and name.isascii()
        and name[-1].isalnum()
        and name.replace("-", "a").isalnum()
    )


@pytest.mark.parametrize(
    ("gpu", "engine", "columns"),
    [
        ("H200", "vllm", {"tp": 8}),
        ("H200", "sglang", {"tp": 8, "dtype": "fp8"}),
        ("B200", "trtllm", {"tp": 8, "dtype": "nvfp4"}),
        ("RTX-4090", "llama.cpp", {"dtype": "q4_k_m"}),
        ("Apple-M4-Max", "mlx", {"dtype": "mlx_4bit"}),
    ],
)
def test_every_model_that_an_engine_runs_is_started(gpu, engine, columns):
    made = 0
    for model in models():
        try:
            launch = launch_of(model=model, gpu=gpu, engine=engine, **columns)
        except PredictorError:
            continue  # what does not run there
        made += 1
        assert tuple(shlex.split(launch.command)) == launch.words and launch.model
        of = Replicas(dns_label(model), launch, get_gpu(gpu), 2)
        if not of.lacking:
            assert kubernetes(of) and compose(of)
    assert made > 50
