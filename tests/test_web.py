"""The commands over HTTP: the same answers as theirs, and one sentence for whatever is wrong."""

import asyncio
import inspect
import json
from importlib import import_module

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("httpx2", reason="httpx2 is not installed, by which Starlette is tested")


from over_http import CONFIG, printed

from predictor.cli import main
from predictor.cli.web import web
from predictor.web.answers import ANSWERS
from predictor.web.app import HEADERS, STATIC
from predictor.web.openapi import described
from predictor.web.questions import FILES, MOST, questions
from predictor.web.server import LOOPBACK, is_loopback
from predictor.web.uploads import MOST_BYTES
from predictor.web.workers import Broken, GivenUp, Job, Lane, Refused, TooMany
from predictor.workloads.request import columns


@pytest.mark.parametrize(
    ("name", "query", "command"),
    [
        (
            "predict",
            "model=Llama-3.1-8B&gpu=H100&gpu=L4&batch=8",
            "predict Llama-3.1-8B --gpu H100 --gpu L4 --batch 8",
        ),
        (
            "train",
            "model=Qwen3-8B&gpu=A100&method=lora&train_tokens=1e8",
            "predict Qwen3-8B --gpu A100 --phase train --method lora --train-tokens 1e8",
        ),
        ("memory", "model=Qwen3-32B&gpu=L40S", "memory Qwen3-32B --gpu L40S"),
        ("memory", "model=Qwen3-8B&gpu=L4&mode=qlora", "memory Qwen3-8B --gpu L4 --mode qlora"),
        ("compare", "model=Llama-3.1-8B&gpus=L4,8xH100&batch=4", "compare Llama-3.1-8B --gpus L4,8xH100 --batch 4"),
        (
            "plan",
            "model=Qwen3-8B&gpus=L4,L40S&concurrency=4&tpot=0.05&tp=1,2&top=2",
            "plan Qwen3-8B --gpus L4,L40S --concurrency 4 --tpot 0.05 --tp 1,2 --top 2",
        ),
        (
            "local",
            "gpu=2xRTX-3060-12GB&model=Qwen3-8B&model=Qwen3-32B",
            "local --gpu 2xRTX-3060-12GB --model Qwen3-8B --model Qwen3-32B",
        ),
        ("local", "gpu=RTX-3060&dtype=q4_k_m&input_len=500", "local --gpu RTX-3060 --dtype q4_k_m --input-len 500"),
        (
            "disaggregated",
            "model=Llama-3.1-70B&gpu=H100&prefill_tp=4&decode_tp=8&n_gpus=32",
            "disaggregated Llama-3.1-70B --gpu H100 --prefill-tp 4 --decode-tp 8 --n-gpus 32",
        ),
        (
            "disaggregated",
            "model=Qwen3-8B&gpu=L40S&decode_gpu=H200&request_rate=4&input_len=2000&max_tpot_s=0.03&link_gb_per_s=25",
            "disaggregated Qwen3-8B --gpu L40S --decode-gpu H200 --request-rate 4 --input-len 2000 --max-tpot-s 0.03 "
            "--link-gb-per-s 25",
        ),
        (
            "op",
            "family=gemm&m=64&n=4096&k=4096&dtype=fp8&gpu=H100&gpu=MI300X&engine=sglang",
            "op gemm --m 64 --n 4096 --k 4096 --dtype fp8 --gpu H100 --gpu MI300X --engine sglang",
        ),
        (
            "op",
            "family=collective&kind=all_reduce&message_bytes=1e6&n_gpus=8&gpu=A100&gpu=H100",
            "op collective --kind all_reduce --message-bytes 1e6 --n-gpus 8 --gpu A100 --gpu H100",
        ),
        ("gpus", "gpu=H100", "gpus H100"),
        ("gpus", "gpu=RTX-PRO-6000-Server", "gpus RTX-PRO-6000-Server"),
        ("gpus", "vendor=intel", "gpus --vendor intel"),
        ("models", "model=Qwen3-8B", "models Qwen3-8B"),
        ("prices", "gpu=H100&kind=spot&n_gpus=8", "prices H100 --kind spot --n-gpus 8"),
    ],
)
def test_an_answer_is_that_of_its_command(client, capsys, name, query, command):
    response = client.get(f"/api/{name}?{query}")
    assert response.status_code == 200, response.text
    assert response.json() == printed(capsys, *command.split())


def test_operators_come_where_they_are_asked(client):
    row = client.get("/api/predict?model=Qwen3-8B&gpu=L4&explain=true").json()[0]
    prefill = sum(op["latency_s"] for op in row["ops"] if op["phase"] == "prefill")
    assert prefill == pytest.approx(row["ttft_s"])


def test_a_sweep_takes_every_combination(client):
    rows = client.get("/api/sweep?model=Qwen3-8B&gpu=L4&batch=1&batch=2&dtype=bf16&dtype=fp8").json()
    assert [(row["batch"], row["dtype"]) for row in rows] == [(1, "bf16"), (1, "fp8"), (2, "bf16"), (2, "fp8")]
    assert all(row["ttft_s"] > 0 for row in rows)


def test_a_plan_comes_with_its_files(client):
    asked = "model=Qwen3-8B&gpus=L4&concurrency=2&input_len=200&output_len=20&vary=false&top=1"
    plan = client.get(f"/api/plan?{asked}&files=true").json()["plans"][0]
    assert {"run.sh", "compose.yaml", "kubernetes.yaml", "benchmark.sh"} <= set(plan["files"])
    assert all(str(text).strip() for text in plan["files"].values())


def test_the_ledger_tells_what_was_held_out(client):
    every = client.get("/api/ledger").json()
    assert {row["held_out"] for row in every} >= {"rows-out", "gpu-out", "generation-out"}
    assert all(0 < row["median_ape"] < 1 and row["rows"] > 0 for row in every)
    assert client.get("/api/ledger?gpu=MI250X").json() == []


@pytest.mark.parametrize(
    ("address", "status", "sentence"),
    [
        ("op?family=gem&gpu=H100", 400, None),
        ("op?family=gemm&gpu=H100&m=8", 422, "gemm lacks --n, --k; `predictor op gemm --help` says what they are."),
        (
            "op?family=gemm&gpu=H100&m=8&n=8&k=8&heads=2",
            422,
            "gemm has no heads; its fields are m, n, k, batch, dtype.",
        ),
        ("op?family=gemm&gpu=H100&m=8&n=8&k=1e99", 422, None),
        ("predict?gpu=H100", 400, "model is missing; Model name, hub id, or the id that POST /api/model gave."),
        ("predict?model=Qwen3-8B", 400, "gpu is missing; GPU name or MIG slice (H100:3g.40gb); repeat to compare."),
        ("predict?model=Qwen3-8B&gpu=H100&batch=-1", 400, "batch is -1; it must be at least 1."),
        ("predict?model=Qwen3-8B&gpu=H100&batch=x", 400, 'batch is "x"; it must be a number.'),
        ("predict?model=Qwen3-8B&gpu=H100&batch=99999999", 400, "batch is 1e+08; it must be at most 65536 here."),
        ("predict?model=Qwen3-8B&gpu=H100&btach=1", 400, "there is no parameter btach; did you mean batch?"),
        ("predict?model=Qwen3-8B&gpu=H100&batch=1&batch=2", 400, "batch is given twice; give it once."),
        ("predict?model=Qwen3-8B&gpu=H100&explain=maybe", 400, 'explain is "maybe"; it must be true or false.'),
        (
            "predict?model=Qwen3-8B&gpu=H100&trace=/etc/passwd",
            400,
            'trace is "/etc/passwd"; files of the server are not read. Drop the file on the page, or POST it to '
            "/api/trace.",
        ),
        ("predict?model=Qwen3-8B&gpu=H100&weights=x", 400, None),
        ("predict?model=Qwen3-8B&gpu=H100&prices=/etc/passwd", 400, None),
        ("predict?model=Qwen3-8B&gpu=H100&bundle=/etc", 400, None),
        ("upgrade?have=99999xL4&consider=L4&work={%22model%22:%22Qwen3-8B%22}", 422, None),
        ("upgrade?have=L4&consider=x.toml&work={%22model%22:%22Qwen3-8B%22}", 400, None),
        ("local?gpu=L4" + "&model=Qwen3-8B" * 20, 400, "model is given 20 times; at most 16 are answered at once."),
        ("plan?model=Qwen3-8B&concurrency=4&top=-1", 400, 'top is "-1"; it must be a whole number of at least 0.'),
        ("plan?model=Qwen3-8B&gpus=L4&concurrency=4&top=0", 422, "top is 0; it must be at least 1."),
        ("plan?model=Qwen3-8B&gpus=L4", 422, "there is no load; give request_rate, concurrency or a trace."),
        ("plan?model=Qwen3-8B&gpus=L4&concurrency=4&ttft_p99=nan", 400, None),
        (
            "predict?model=Lama-3.1-8B&gpu=H100",
            422,
            'unknown model "Lama-3.1-8B"; did you mean Llama-3.1-8B or Llama-3.1-70B or Llama-3.1-8B-Instruct-FP8? '
            "Or drop its config.json.",
        ),
        (
            "predict?model=Qwen3-8B&gpu=H101",
            422,
            'no GPU called "H101"; did you mean H100-SXM-80GB? Or change one, such as "H100, mem_gib=96".',
        ),
        ("predict?model=someone/no-such-model&gpu=H100", 422, None),
        ("predict?model=Qwen3-8B&gpu=H900", 422, None),
        ("sweep?model=Qwen3-8B&gpu=L4" + "".join(f"&batch={n}" for n in range(1, 40)), 422, None),
        ("predict?model=Qwen3-8B" + "&gpu=L4" * 40, 400, "gpu is given 40 times; at most 16 are answered at once."),
        ("predict?model=dropped-0123456789ab&gpu=L4", 400, None),
        ("predict?model=" + "x" * 7000 + "&gpu=L4", 400, "model has 7000 characters; at most 6000 are read."),
        ("predict?model=" + "x" * 9000 + "&gpu=L4", 400, "the query has 9013 bytes; at most 8000 are read."),
    ],
)
def test_what_is_wrong_is_one_sentence(client, address, status, sentence):
    response = client.get(f"/api/{address}")
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert "\n" not in error and "Traceback" not in error
    assert sentence is None or error == sentence


@pytest.mark.parametrize("path", ["/etc/passwd", "./x", "~/x", "../../x", "a/../b", "x.json", "x.gguf", "\\\\host\\x"])
def test_no_model_is_a_file_of_the_server(client, path):
    response = client.get("/api/memory", params={"model": path, "gpu": "L4"})
    assert response.status_code == 400
    assert "files of the server are not read" in response.json()["error"]


def test_no_gpu_is_a_file_of_the_server(client, tmp_path):
    for name, key in (("predict", "gpu"), ("plan", "gpus")):
        response = client.get(f"/api/{name}", params={"model": "Qwen3-8B", key: f"L4, {tmp_path}/gpu.toml"})
        assert response.status_code == 400
        assert "files of the server are not read" in response.json()["error"]


def test_a_folder_of_the_server_is_no_model(client):
    """A name that is no model is looked up in the catalogue, and in an empty folder."""
    assert client.get("/api/memory?model=tests&gpu=L4").status_code == 422


def test_other_pages_send_no_files(client):
    headers = {"sec-fetch-site": "cross-site"}
    assert client.post("/api/model", content=json.dumps(CONFIG), headers=headers).status_code == 400


def test_other_names_of_this_machine_are_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:8000"}).status_code == 200


def test_every_response_forbids_what_is_elsewhere(client):
    for address in ("/", "/page.js", "/api/docs", "/api/models?short=true", "/api/predict", "/nothing"):
        response = client.get(address)
        assert {name: response.headers[name] for name in HEADERS} == HEADERS


def test_pages_name_nothing_elsewhere(client):
    for name in ("", *(path.name for path in STATIC.iterdir() if path.suffix in (".js", ".css"))):
        text = client.get(f"/{name}").text.replace("http://www.w3.org/2000/svg", "")
        assert text and "http://" not in text and "https://" not in text, name


def test_all_questions_are_documented(client):
    document = client.get("/api/openapi.json").json()
    assert document == json.loads(json.dumps(described()))
    assert set(document["paths"]) == {f"/api/{name}" for name in (*questions(), *MOST_BYTES)}
    page = client.get("/api/docs").text
    assert all(f"GET /api/{name}" in page for name in questions())
    assert all(f"POST /api/{kind}" in page and "post" in document["paths"][f"/api/{kind}"] for kind in MOST_BYTES)
    assert set(questions()) == set(ANSWERS)
    for path in document["paths"].values():
        for operation in path.values():
            names = [parameter["name"] for parameter in operation["parameters"]]
            assert len(names) == len(set(names))


def test_a_question_takes_what_its_command_takes():
    """Every option but those that name files of this machine or say how to print."""
    local = {
        "json",
        "bundle",
        "mix",  # its tables are asked as work
        "write",
        "force",
        "plot",
        "jobs",
        "refresh",
        "out",
        "years",
        "in_use",
        "usd_per_kwh",
        "lint",
        "name",
        "gpus",
    }
    called = {"files": "scores", "as_": "as", "max_ttft": "max_ttft_s", "max_tpot": "max_tpot_s"}
    several = ("predict", "memory", "compare", "plan", "quality", "upgrade", "local", "disaggregated")
    for name in (*several, "gpus", "models", "prices"):
        module = import_module(f"predictor.cli.{name}")
        function = getattr(module, f"_{name}", None) or getattr(module, name)
        taken = (p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD)
        options = {called.get(p.name, p.name) for p in taken}
        # Those of training name the command that answers it.
        printed_only = {"compare": {"top"}, "plan": {"phase", "train_tokens"}}.get(name, set())
        assert options - local - printed_only <= {parameter.name for parameter in questions()[name].parameters}, name
    taken = {parameter.name for parameter in questions()["predict"].parameters}
    assert {column.name for column in columns()} - set(FILES) <= taken
    assert set(MOST) <= taken | {parameter.name for parameter in questions()["plan"].parameters}


def test_a_plan_of_all_gpus_waits_for_no_quick_question():
    plan = questions()["plan"]
    assert plan.is_slow({"gpus": "all"}) and plan.is_slow({}) and plan.is_slow({"gpus": "data-centre"})
    assert plan.is_slow({"gpus": "H100,H200"}) and plan.is_slow({"gpus": "all", "vary": False})
    assert not plan.is_slow({"gpus": "H100,H200", "vary": False})
    assert questions()["compare"].is_slow({}) and not questions()["compare"].is_slow({"gpus": "H100"})
    assert all(questions()[name].is_slow({}) for name in ("upgrade", "local", "quality"))
    assert not questions()["predict"].is_slow({})


def test_loopback_unless_told_otherwise():
    assert inspect.signature(web).parameters["host"].default == LOOPBACK
    assert is_loopback(LOOPBACK) and not is_loopback("0.0.0.0") and not is_loopback("example.com")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--prices", "no.csv"), None),
        (("--port", "70000"), "port is 70000; it must be from 0 to 65535."),
        (("--workers", "1"), "workers is 1; it must be from 2, one for slow questions, to 64."),
        (("--host", "192.0.2.1", "--port", "1"), "port 1 of 192.0.2.1 cannot be had; give another --port."),
    ],
)
def test_wrong_options_are_one_sentence(capsys, options, sentence):
    pytest.importorskip("uvicorn")
    assert main(["web", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and (sentence is None or error == f"error: {sentence}\n")


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("predictor.cli.web.find_spec", lambda name: None)
    assert main(["web"]) == 2
    assert capsys.readouterr().err == "error: starlette is not installed; pip install 'gpu-predictor[web]'.\n"


@pytest.mark.parametrize(
    ("error", "status"), [(TooMany("x"), 429), (GivenUp("x"), 504), (Refused("x"), 422), (Broken("KeyError"), 500)]
)
def test_what_a_lane_says_has_its_status(client, monkeypatch, error, status):
    async def refuse(lane, job):
        raise error

    monkeypatch.setattr(Lane, "answer", refuse)
    response = client.get("/api/models?model=never-asked")
    assert response.status_code == status and "error" in response.json()
    assert ("retry-after" in response.headers) == (status == 429)


def test_an_answer_is_kept(client, monkeypatch):
    first = client.get("/api/gpus?gpu=L4&vendor=NVIDIA").json()
    monkeypatch.setattr(Lane, "answer", None)
    assert client.get("/api/gpus?vendor=NVIDIA&gpu=L4").json() == first


def in_lane(coroutine, **settings):
    """Run a coroutine function of a lane."""

    async def run():
        lane = Lane(**{"processes": 1, "bundle": "", "seconds": 60.0, "waiting": 1, **settings})
        try:
            return await coroutine(lane)
        finally:
            lane.end()

    return asyncio.run(run())


MODEL = Job("models", {"model": "Qwen3-8B"})


def test_a_lane_takes_no_more_than_can_wait():
    async def ask(lane):
        return await asyncio.gather(*(lane.answer(MODEL) for _ in range(4)), return_exceptions=True)

    answers = in_lane(ask)
    assert [type(answer) for answer in answers] == [bytes, bytes, TooMany, TooMany]


def test_a_process_that_is_given_up_or_not_needed_is_replaced():
    async def ask(lane):
        await lane.ready()
        with pytest.raises(GivenUp, match="no answer within"):
            lane._seconds = 0.01
            await lane.answer(Job("compare", {"model": "Qwen3-8B", "gpus": "all"}))
        lane._seconds = 60.0
        gone = asyncio.create_task(lane.answer(Job("compare", {"model": "Qwen3-8B", "gpus": "all"})))
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(0)
        return await lane.answer(MODEL)

    assert json.loads(in_lane(ask))["name"] == "Qwen3-8B"


def test_a_process_that_dies_is_replaced():
    async def ask(lane):
        await lane.ready()
        lane._all[0]._process.kill()
        with pytest.raises(Broken):
            await lane.answer(MODEL)
        return await lane.answer(MODEL)

    assert json.loads(in_lane(ask))["name"] == "Qwen3-8B"


def test_a_bug_is_no_traceback_for_who_asks():
    async def ask(lane):
        with pytest.raises(Broken, match="KeyError"):
            await lane.answer(Job("no-such-question", {}))
        with pytest.raises(Refused):
            await lane.answer(Job("models", {"model": "nothing"}))
        return await lane.answer(MODEL)

    assert in_lane(ask)
