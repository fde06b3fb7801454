"""What is sent over HTTP: mixes of work, and files: a model, a trace, prices, scores. None is one of the server."""

import json
import struct

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("httpx2", reason="httpx2 is not installed, by which Starlette is tested")

from over_http import CONFIG, LLAMA, printed, result_file
from starlette.testclient import TestClient

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.web.app import create_app
from predictor.web.uploads import MOST_CONFIG_BYTES, MOST_KEPT, Shelf, dropped

MIX = [
    {"share": 3, "model": "Qwen3-8B", "batch": 8, "dtype": ["bf16", "fp8"]},
    {"name": "tuning", "model": "Qwen3-8B", "phase": "train", "method": "lora"},
]


def test_an_upgrade_is_that_of_its_command(client, capsys, tmp_path):
    lines = [
        f"[[work]]\n{''.join(f'{key} = {json.dumps(value)}' + chr(10) for key, value in one.items())}" for one in MIX
    ]
    (tmp_path / "mix.toml").write_text("".join(lines))
    query = {"have": "2xA100", "consider": "2xH100,L4", "work": [json.dumps(one) for one in MIX]}
    response = client.get("/api/upgrade", params=query)
    command = ["upgrade", "--have", "2xA100", "--consider", "2xH100,L4", "--mix", str(tmp_path / "mix.toml")]
    assert response.json() == printed(capsys, *command)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        ("[", 'work is "["; it must be a JSON object such as {"model": "Qwen3-8B", "batch": 8}.'),
        ('{"model": "/etc/passwd"}', None),
        ('{"model": "Qwen3-8B", "trace": "x.csv"}', "trace is stated in work; no file is read there. Leave it out."),
        ('{"model": "Qwen3-8B", "batch": [1]}', None),
        ('{"model": "Qwen3-8B", "batch": 1e9}', "batch is 1e+09; it must be at most 65536 here."),
        ('{"model": "Qwen3-8B", "tp": 2}', "tp is stated in work 1; the fleets decide it. Drop it."),
        ('{"model": "Qwen3-8B", "share": 0}', "share is 0 in work 1; it must be above 0, and at most 1e9."),
    ],
)
def test_work_that_is_wrong_is_one_sentence(client, work, sentence):
    response = client.get("/api/upgrade", params={"have": "L4", "consider": "L40S", "work": work})
    assert response.status_code in (400, 422), response.text
    assert sentence is None or response.json()["error"] == sentence


TRACE = "arrival_s,input_len,output_len\n" + "".join(f"{place / 2},{100 + place},50\n" for place in range(40))
PRICES = "provider,gpu,n_gpus,kind,usd_per_hour,date\nmine,L4,1,on-demand,0.1,2026-01-01\n"


def test_a_trace_that_is_dropped_is_a_load(client, capsys, monkeypatch, tmp_path):
    taken = client.post("/api/trace?name=my arrivals.csv", content=TRACE).json()
    assert {name: taken[name] for name in ("name", "requests", "arrivals", "output_len")} == {
        **{"name": "my-arrivals.csv", "requests": 40, "arrivals": True, "output_len": 50}
    }
    (tmp_path / "my-arrivals.csv").write_text(TRACE)
    monkeypatch.chdir(tmp_path)
    rows = client.get(f"/api/predict?model=Qwen3-8B&gpu=L4&trace={taken['id']}").json()
    assert rows == printed(capsys, *["predict", "Qwen3-8B", "--gpu", "L4", "--trace", "my-arrivals.csv"])
    answer = client.get(f"/api/plan?model=Qwen3-8B&gpus=L4&trace={taken['id']}&top=1").json()
    asked = "plan Qwen3-8B --gpus L4 --trace my-arrivals.csv --top 1"
    assert answer == printed(capsys, *asked.split())


def test_prices_that_are_dropped_come_before_the_list(client, capsys, tmp_path):
    taken = client.post("/api/prices?name=mine.csv", content=PRICES).json()
    assert (taken["rows"], taken["gpus"], taken["replace"]) == (1, ["L4"], False)
    path = tmp_path / "mine.csv"
    path.write_text(PRICES)
    before = client.get("/api/compare?model=Qwen3-8B&gpus=L4").json()
    rows = client.get(f"/api/compare?model=Qwen3-8B&gpus=L4&prices={taken['id']}").json()
    assert rows == printed(capsys, *f"compare Qwen3-8B --gpus L4 --prices {path}".split())
    assert rows[0]["usd_per_hour"] == 0.1 < before[0]["usd_per_hour"]
    assert client.get("/api/compare?model=Qwen3-8B&gpus=L4&batch=1").json()[0]["usd_per_hour"] > 0.1
    listed = client.get(f"/api/prices?gpu=L4&provider=mine&prices={taken['id']}").json()
    assert listed == printed(capsys, *f"prices L4 --provider mine --prices {path}".split())


def test_a_server_may_have_prices_of_its_own(monkeypatch, tmp_path):
    (tmp_path / "mine.csv").write_text(PRICES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("predictor.web.server.serve", lambda *given: None)
    monkeypatch.delenv("PREDICTOR_PRICES", raising=False)
    monkeypatch.setenv("PREDICTOR_PRICES", "")
    assert main(["web", "--prices", "mine.csv"]) == 0
    with TestClient(create_app()) as own:
        assert own.get("/api/compare?model=Qwen3-8B&gpus=L4").json()[0]["usd_per_hour"] == 0.1


def sent_scores(client, folder, **files):
    """Ids of result files that were sent, which lie below a folder as well."""
    ids = []
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content)
        ids.append(client.post(f"/api/scores?name={name}.json", content=content).json()["id"])
    return ids


def test_quality_is_that_of_its_command(client, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    local = result_file(0.8, "pretrained=/data/mine")
    ids = sent_scores(client, tmp_path, a=result_file(0.7), b=result_file(0.69, f"{LLAMA},quantization=fp8"), c=local)
    load = "concurrency=8&input_len=500&output_len=50"
    asked = f"scores={'&scores='.join(ids)}&as={ids[2]}=Qwen3-8B:int4_wo&gpu=H100&gpu=2xL4&{load}"
    options = "--as c.json=Qwen3-8B:int4_wo --gpu H100 --gpu 2xL4 --concurrency 8 --input-len 500 --output-len 50"
    response = client.get(f"/api/quality?{asked}")
    assert response.status_code == 200, response.text
    assert response.json() == printed(capsys, *f"quality a.json b.json c.json {options}".split())
    (tmp_path / "mine.csv").write_text(PRICES)
    own = client.post("/api/prices?name=mine.csv", content=PRICES).json()["id"]
    some = client.get(f"/api/quality?scores={ids[0]}&gpu=L4&task=mmlu:acc&prices={own}").json()
    assert some == printed(capsys, *["quality", "a.json", "--gpu", "L4", "--task", "mmlu:acc", "--prices", "mine.csv"])
    assert some["rows"][0]["usd_per_hour"] == 0.1


def test_scores_say_what_they_are_of(client, tmp_path):
    told = client.post("/api/scores?name=a.json", content=result_file(0.7, f"{LLAMA},quantization=fp8")).json()
    assert (told["model"], told["dtype"]) == ("Llama-3.1-8B-Instruct", "fp8")
    assert told["tasks"] == ["mmlu", "crows_pairs_english"]
    model = client.post("/api/model?name=mine.json", content=json.dumps(CONFIG)).json()["id"]
    (scores,) = sent_scores(client, tmp_path, b=result_file(0.7, "pretrained=/data/mine"))
    rows = client.get(f"/api/quality?scores={scores}&gpu=L4&as={scores}={model}:fp8").json()["rows"]
    assert [(row["evaluated"], row["model"], row["dtype"]) for row in rows] == [("mine", "mine", "fp8")]


@pytest.mark.parametrize("name", ["{}", "./{}", "{}/config.json", "x/../..{}", "~{}", "\\\\host{}"])
def test_scores_name_no_model_of_the_server(client, tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    content = result_file(0.7, {"pretrained": name.format(tmp_path)})
    told = client.post("/api/scores?name=a.json", content=content).json()
    assert (told["model"], told["dtype"], told["tasks"]) == (None, None, None)
    response = client.get(f"/api/quality?scores={told['id']}&gpu=L4")
    assert response.status_code == 422
    error = response.json()["error"]
    assert error.endswith("a path of the machine that it is from; say which beside the file (as=ID=MODEL:DTYPE).")


def test_what_is_wrong_with_scores_is_one_sentence(client, tmp_path):
    one, two = sent_scores(client, tmp_path, a=result_file(0.7), b=result_file(0.6))
    trace = client.post("/api/trace?name=x.csv", content=TRACE).json()["id"]
    for query, status, sentence in (
        (f"scores={one}", 400, "gpu is missing"),
        ("gpu=L4", 400, "scores is missing"),
        ("gpu=L4&scores=/etc/passwd", 400, "files of the server are not read"),
        (f"gpu=L4&scores={trace}", 400, "which is a file of trace"),
        (f"gpu=L4&scores={one}&as={one}=/etc/x:fp8", 400, "files of the server are not read"),
        (f"gpu=L4&scores={one}&as=a.json=Qwen3-8B", 400, "files of the server are not read"),
        (f"gpu=L4&scores={one}&as={one}=:fp8", 400, f"such as {one}=Llama-3.1-8B:fp8."),
        (f"gpu=L4&scores={one}&as={two}=Qwen3-8B", 422, "none of the files"),
        (f"gpu=L4&scores={one}&scores={two}", 422, '"a.json" and "b.json" have different scores of mmlu acc'),
        (f"gpu=L4&scores={one}&task=crows_pairs_english", 422, "audits bias, which is no quality"),
        (f"gpu=99999xL4&scores={one}", 422, "99999xL4 are 99999 GPUs"),
        (f"gpu=all&scores={one}", 422, "answers are asked for; at most 32 are given at once."),
    ):
        response = client.get(f"/api/quality?{query}")
        assert response.status_code == status, response.text
        assert sentence in response.json()["error"] and "\n" not in response.json()["error"]


@pytest.mark.parametrize(
    ("address", "content", "status", "sentence"),
    [
        ("trace?name=x.txt", "a", 400, 'the file is called "x.txt"; it must end in .csv, .parquet, .jsonl, .json.'),
        ("trace?name=x.csv", "a,b", 422, None),
        ("trace?name=x.parquet", "PAR1", 422, None),
        ("trace?name=x.jsonl", "[1]", 422, None),
        ("trace", "a,b", 400, None),
        ("prices?name=x.toml", "x = 1", 422, '"x.toml" has x; its tables are replace, electricity, ownership, price.'),
        ("prices?name=x.csv", PRICES.replace("L4", "/etc/x.toml"), 422, None),
        ("prices?name=x.csv", PRICES.replace("L4", '"x.TOML, mem_gib=1"'), 422, None),
        ("prices?name=x.csv", "provider\n\xff", 422, None),
        ("scores?name=x.txt", "{}", 400, 'the file is called "x.txt"; it must end in .json.'),
        ("scores?name=x.json", "{", 422, None),
        ("scores?name=x.json", "[" * 100_000, 422, None),
        ("scores?name=x.json", '{"results": {}, "results": {}}', 422, None),
        (
            *("scores?name=x.json", "{}", 422),
            '"x.json" has no "results" by task; give the results_….json of lm-evaluation-harness (--output_path).',
        ),
    ],
)
def test_a_file_that_says_nothing_is_one_sentence(client, address, content, status, sentence):
    response = client.post(f"/api/{address}", content=content.encode("latin-1"))
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert "\n" not in error and "dropped-" not in error and "No such file" not in error
    assert sentence is None or error == sentence


def test_a_file_is_asked_by_what_it_is_of(client):
    trace = client.post("/api/trace?name=x.csv", content=TRACE).json()["id"]
    assert client.get(f"/api/compare?model=Qwen3-8B&gpus=L4&prices={trace}").status_code == 400
    assert client.get(f"/api/memory?model={trace}&gpu=L4").status_code == 400


def test_what_whole_answers_reached_is_of_the_engine_and_the_gpu(client):
    rows = client.get("/api/validated?gpu=H100&engine=vllm&phase=serve").json()
    assert {row["metric"] for row in rows} >= {"ttft_s", "tpot_s"}
    assert all(row["gpu"] == "H100-SXM-80GB" and row["engine"] == "vllm" for row in rows)
    assert all(row["runs"] >= 5 and row["median"] > 0 and 0 <= row["covered"] <= 1 for row in rows)
    near = client.get("/api/validated?gpu=RTX-3060-12GB&engine=llama.cpp").json()
    assert {row["gpu"] for row in near} == {"RTX-3090"}
    assert client.get("/api/validated?gpu=L4&engine=vllm").json() == []


def test_a_config_that_is_dropped_is_a_model(client):
    taken = client.post("/api/model?name=My Model.json", content=json.dumps(CONFIG))
    assert taken.status_code == 200, taken.text
    assert taken.json()["name"] == "My-Model"
    name = taken.json()["id"]
    rows = client.get(f"/api/predict?model={name}&gpu=L4").json()
    assert rows[0]["model"] == "My-Model"
    assert taken.json()["parameters"] == client.get(f"/api/models?model={name}").json()["parameters"]
    plan = client.get(f"/api/plan?model={name}&gpus=L4&concurrency=2")
    assert plan.json()["plans"][0]["gpu"] == "L4"
    assert client.get(f"/api/compare?model={name}&gpus=L4").json()[0]["gpu"] == "L4"
    assert client.get(f"/api/local?model={name}&gpu=L4").json()[0]["model"] == "My-Model"
    work = json.dumps({"model": name, "batch": 2})
    assert client.get("/api/upgrade", params={"have": "L4", "consider": "L40S", "work": work}).json()[0]["speed"]


def gguf_header():
    """The least that describes a Llama: version 3, no tensors."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    numbers = {"embedding_length": 1024, "block_count": 4, "attention.head_count": 16, "feed_forward_length": 3072}
    numbers |= {"attention.head_count_kv": 8, "context_length": 4096, "vocab_size": 32000}
    entries = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    entries += [text(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in numbers.items()]
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 1024, 32000, 1, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries)) + b"".join(entries) + tensor


def test_the_header_of_a_gguf_is_a_model(client):
    taken = client.post("/api/model?name=tiny.gguf", content=gguf_header())
    assert taken.status_code == 200, taken.text
    rows = client.get(f"/api/memory?model={taken.json()['id']}&gpu=L4").json()
    assert rows[0]["model"] == "tiny"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\x00\xff", b"GGUF", b"GGUF" + b"\xff" * 100, b"[" * 100_000, b"{}"),
        *(b'{"model_type": 3}', b'{"a": "' + b"x" * MOST_CONFIG_BYTES + b'"}'),
    ],
    ids=len,
)
def test_a_file_that_is_no_model_is_one_sentence(client, content):
    response = client.post("/api/model", content=content)
    assert response.status_code == (413 if len(content) > MOST_CONFIG_BYTES else response.status_code)
    assert response.status_code in (400, 413, 422), response.text
    assert "\n" not in response.json()["error"]


def test_files_are_bounded(client):
    shelf = Shelf()
    for number in range(MOST_KEPT + 1):  # of bytes: tests/test_web_limits.py
        shelf.put(dropped(b"{}", f"model{number}"))
    with pytest.raises(InvalidRequest, match="not kept any more"):
        shelf.get(dropped(b"{}", "model0").id)
    assert shelf.get(dropped(b"{}", "model1").id)


@pytest.mark.parametrize("name", ["../../x", "/etc/cron.d/x", "a\x00b", "..", "", "con/../x.json", "x" * 500])
def test_the_name_of_a_file_stays_in_its_folder(tmp_path, name):
    one = dropped(b"{}", name)
    path = (tmp_path / one.lay(tmp_path)).resolve()
    assert path.is_relative_to(tmp_path) and (path / "config.json").is_file()
