"""The questions as an OpenAPI document, and as a page that needs nothing from elsewhere."""

from __future__ import annotations

import html
import math
from functools import cache
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from predictor.web.questions import Parameter, questions
from predictor.web.uploads import MOST_BYTES, MOST_CONFIG_BYTES, SUFFIXES

TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "string"}
EXAMPLES = {
    "predict": "model=Llama-3.1-8B&gpu=H100&concurrency=8",
    "train": "model=Qwen3-8B&gpu=H100&n_gpus=8&method=lora&train_tokens=1e8",
    "memory": "model=Qwen3-32B&gpu=L40S",
    "compare": "model=Llama-3.1-8B&gpus=H100,L40S,MI300X&batch=8",
    "plan": "model=Qwen3-32B&gpus=H100,H200&request_rate=10&input_len=2000&output_len=400&ttft_p99=1&tpot=0.04",
    "quality": "scores=dropped-0123456789ab&gpu=H100&concurrency=16",
    "sweep": "model=Llama-3.1-8B&gpu=H100&concurrency=1&concurrency=8&concurrency=64",
    "upgrade": "have=8xA100&consider=4xH200,8xB200&work=" + quote('{"model": "Llama-3.1-70B", "batch": 32}'),
    "local": "gpu=RTX-3060-12GB",
    "disaggregated": "model=Llama-3.1-70B&gpu=H100&prefill_tp=4&decode_tp=8&n_gpus=32",
    "op": "family=gemm&m=64&n=28672&k=4096&gpu=H100&gpu=H20",
    "gpus": "gpu=H100",
    "models": "model=Llama-3.1-8B",
    "prices": "gpu=H100",
    "ledger": "gpu=H100",
    "validated": "gpu=H100&engine=vllm",
}
UPLOADS = {
    "model": "A model from its config.json, or from the header of a .gguf.",
    "trace": "Requests as they came: columns arrival_s, input_len and output_len, or as Mooncake, Azure, BurstGPT and "
    "others name them; where it tells no arrivals a load is given beside it.",
    "prices": "Prices of your own, added to those of the list or in their place: rows of provider, gpu, n_gpus, kind, "
    "usd_per_hour, date.",
    "scores": "Scores of a model: a results_….json of lm-evaluation-harness. Where it does not tell the model or its "
    "number format (null), as does.",
}
OF_UPLOADS = {"408": "The file did not arrive in time.", "413": "The file is too large."}
ERRORS = {
    "400": "The query is not understood: an unknown parameter, no number, a path of the server, too much.",
    "422": "What is asked has no answer; the sentence says why and what to change.",
    "429": "Too many questions at once; ask again after Retry-After.",
    "500": "A fault of the program.",
    "504": "No answer in time.",
}


@cache
def described() -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    paths: dict[str, Any] = {
        f"/api/{question.name}": {
            "get": {
                "operationId": question.name,
                "summary": question.text,
                "description": f"As `predictor {question.command}`.",
                "parameters": [_parameter(parameter) for parameter in question.parameters],
                "responses": _responses(),
            }
        }
        for question in questions().values()
    }
    for kind in UPLOADS:
        paths.setdefault(f"/api/{kind}", {})["post"] = _upload(kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gpu-predictor",
            "version": version("gpu-predictor"),
            "description": "How fast a model runs, how much memory it takes and what it costs, on GPUs you do not own.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}}
        },
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": TYPES[parameter.kind]}
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.kind in (int, float):
        schema["minimum"] = 0
        schema |= {"maximum": parameter.most} if parameter.most < math.inf else {}
    if parameter.default not in (None, "", math.inf):
        schema["default"] = parameter.default
    whole = {"type": "array", "items": schema} if parameter.many else schema
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.needed,
        "description": parameter.text,
        "schema": whole,
    }


def _responses() -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    told = {status: {"description": text, "content": error} for status, text in ERRORS.items()}
    answer = {"description": "The answer.", "content": {"application/json": {"schema": {}}}}
    return {"200": answer, **told}


def _upload(kind: str) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    name = {"type": "string"} | ({} if kind == "model" else {"pattern": rf"({'|'.join(SUFFIXES[kind])})$"})
    return {
        "operationId": f"send_{kind}",
        "summary": UPLOADS[kind],
        "description": f"Returns an id to give as `{kind}`, kept while the server runs and few others come. "
        f"{_size(kind)} Files are parsed, never run.",
        "parameters": [
            {
                "name": "name",
                "in": "query",
                "required": kind != "model",
                "schema": name,
                "description": f"Of the file: {', '.join(SUFFIXES[kind])}.",
            }
        ],
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {}}}},
        "responses": _responses()
        | {status: {"description": text, "content": error} for status, text in OF_UPLOADS.items()},
    }


def _size(kind: str) -> str:
    if kind == "model":
        return f"A config.json has at most {MOST_CONFIG_BYTES} bytes, a header {MOST_BYTES[kind]}."
    return f"It has at most {MOST_BYTES[kind]} bytes."


@cache
def described_page() -> str:
    """The same for people."""
    parts = [_section(question.name) for question in questions().values()]
    sent = "".join(_sent(kind) for kind in UPLOADS)
    errors = " ".join(f"{status}: {text}" for status, text in ERRORS.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The questions over HTTP – gpu-predictor</title>
<link rel="icon" href="/icon.svg">
<link rel="stylesheet" href="/page.css">
<script src="/theme.js"></script>
</head>
<body class="docs">
<header><h1>The questions over HTTP</h1>
<p><a href="/">The page</a> · <a href="/api/openapi.json">OpenAPI</a></p></header>
<main>
<p>Each question is a GET; its answer is the JSON that the command prints. What goes wrong is
<code>{{"error": "one sentence"}}</code>: {html.escape(errors)}</p>
{"".join(parts)}
{sent}
</main>
</body>
</html>
"""


def _sent(kind: str) -> str:
    upload = _upload(kind)
    return (
        f'<section><h2 id="send-{kind}"><code>POST /api/{kind}?name=…</code></h2>'
        f"<p>{html.escape(upload['summary'])} {html.escape(upload['description'])}</p></section>"
    )


def _section(name: str) -> str:
    question = questions()[name]
    address = f"/api/{name}?{EXAMPLES[name]}"
    rows = "".join(
        f"<tr><th scope=row><code>{parameter.name}</code>{' *' if parameter.needed else ''}</th>"
        f"<td>{TYPES[parameter.kind]}{', repeated' if parameter.many else ''}</td>"
        f"<td>{html.escape(parameter.text)}</td></tr>"
        for parameter in question.parameters
    )
    return (
        f'<section><h2 id="{name}"><code>GET /api/{name}</code></h2>'
        f"<p>{html.escape(question.text)} As <code>predictor {question.command}</code>.</p>"
        f'<p><a href="{html.escape(address)}">{html.escape(address)}</a></p>'
        f"<details><summary>{len(question.parameters)} parameters (* needed)</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Parameters of {name}"><table>'
        f"<thead><tr><th scope=col>name</th><th scope=col>kind</th><th scope=col>what it is</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details></section>"
    )
