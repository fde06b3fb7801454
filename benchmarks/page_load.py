"""What `predictor web` does when many ask at once. Needs the extra web, and httpx2.

    python benchmarks/page_load.py [--minutes 5] [--users 50] [--workers 2] [--slow 20] [--cooling 15]

Users open the page, ask, change something and ask again, send models, traces and prices, and ask again when they are
told to (429, Retry-After). Beside them come clients that never finish a head, that do not read what they asked for, and
that send more than is read. Shown are answers and refusals by status with percentiles of their time, and each minute
what memory the server and its processes hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from contextlib import suppress
from urllib.parse import urlencode, urlsplit

import httpx2
import psutil
from page import ask, family, server

MODELS = ("Qwen3-8B", "Llama-3.1-8B", "Qwen3-32B", "Llama-3.1-70B", "gpt-oss-20b", "Mixtral-8x7B")
GPUS = ("H100", "H200", "L40S", "L4", "A100", "RTX-4090", "MI300X", "B200")
EXPECTED = {200, 304, 400, 408, 413, 422, 429, 504}
TRACE = "arrival_s,input_len,output_len\n" + "".join(f"{place / 3},{200 + place},80\n" for place in range(300))
PRICES = "provider,gpu,n_gpus,kind,usd_per_hour,date\nmine,L4,1,on-demand,{:.3f},2026-01-01\n"
CONFIG = {"model_type": "qwen3", "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 8}
CONFIG |= {
    "torch_dtype": "bfloat16",
    "head_dim": 64,
    "intermediate_size": 3072,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


class Seen:
    """What came of the requests, by kind."""

    def __init__(self) -> None:
        self.statuses: dict[str, Counter[str]] = defaultdict(Counter)
        self.times_s: dict[str, list[float]] = defaultdict(list)
        self.memory_bytes: list[tuple[float, float]] = []

    def put(self, kind: str, status: int | str, began: float) -> None:
        """Count one, and time it where it was answered."""
        self.statuses[kind][str(status)] += 1
        if status == 200:
            self.times_s[kind].append(time.perf_counter() - began)


def main() -> None:
    """Ask, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--slow", type=int, default=20, help="clients of each bad kind")
    parser.add_argument("--workers", type=int, default=2, help="of the server")
    parser.add_argument("--cooling", type=float, default=15.0, help="seconds before the last look at memory")
    options = parser.parse_args()
    with server("--workers", str(options.workers)) as (address, started, _):
        ask(address)
        seen = asyncio.run(asked(address, started, options))
        tell(seen)


async def asked(address: str, started: psutil.Process, options: argparse.Namespace) -> Seen:
    """Let all of them ask for so many minutes."""
    seen, until = Seen(), time.perf_counter() + 60 * options.minutes
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        users = [user(client, number, until, seen) for number in range(options.users)]
        bad = [one(address, until, seen) for one in (drips, reads_nothing) for _ in range(options.slow)]
        bad += [sends_much(client, until, seen) for _ in range(max(options.slow // 4, 1))]
        await asyncio.gather(*users, *bad, watch(started, until, seen))
        began = time.perf_counter()
        seen.put("health, at once after that", (await client.get("api/health")).status_code, began)
    await asyncio.sleep(options.cooling)
    seen.memory_bytes.append((time.perf_counter(), memory(started)))
    return seen


async def user(client: httpx2.AsyncClient, number: int, until: float, seen: Seen) -> None:
    """Someone who asks this and that, and sometimes goes before there is an answer."""
    chance = random.Random(number)
    await get(client, "the page", "", until, seen)
    while time.perf_counter() < until:
        kind, address = question(chance)
        if chance.random() < 0.1:
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.random()):
                    await get(client, kind, address, until, seen)
        elif chance.random() < 0.1:
            await send(client, chance, until, seen)
        else:
            await get(client, kind, address, until, seen)
        await asyncio.sleep(chance.expovariate(0.5))


def question(chance: random.Random) -> tuple[str, str]:
    """A kind of question, and its address; few are asked by two users."""
    model, gpu = chance.choice(MODELS), chance.choice(GPUS)
    load = {"concurrency": chance.randint(1, 64), "input_len": chance.randint(200, 4000), "output_len": 200}
    asked: dict[str, tuple[float, str, dict[str, object]]] = {
        "predict": (6, "predict", {"model": model, "gpu": gpu, **load}),
        "with its operators": (3, "predict", {"model": model, "gpu": gpu, **load, "explain": "true"}),
        "plan of one GPU": (4, "plan", {"model": model, "gpus": gpu, **load, "vary": "false", "tpot": 0.05}),
        "plan, with variants": (1, "plan", {"model": model, "gpus": f"{gpu},L4", **load, "top": 3}),
        "memory": (2, "memory", {"model": model, "gpu": gpu}),
        "training": (2, "compare", {"model": model, "gpus": f"8x{gpu}", "phase": "train", "method": "lora"}),
        "at home": (1, "local", {"gpu": gpu, "input_len": load["input_len"]}),
        "catalogue": (2, "gpus", {}),
        "validated": (2, "validated", {"gpu": gpu}),
        "what is wrong": (1, "predict", {"model": "nothing", "gpu": gpu, "batch": load["input_len"]}),
    }
    kind = chance.choices(list(asked), [weight for weight, _, _ in asked.values()])[0]
    _, name, query = asked[kind]
    return kind, f"api/{name}?{urlencode(query)}"


async def get(client: httpx2.AsyncClient, kind: str, address: str, until: float, seen: Seen) -> None:
    """Ask, and again when a busy server says so."""
    while True:
        began = time.perf_counter()
        try:
            response = await client.get(address)
        except httpx2.HTTPError as error:
            return seen.put(kind, type(error).__name__, began)
        seen.put(kind, response.status_code, began)
        if response.status_code != 429 or time.perf_counter() > until:
            return None
        await asyncio.sleep(float(response.headers["retry-after"]) * (0.75 + random.random() / 2))


async def send(client: httpx2.AsyncClient, chance: random.Random, until: float, seen: Seen) -> None:
    """Send a file, and ask by it."""
    began, number = time.perf_counter(), chance.random()
    config = json.dumps(CONFIG | {"hidden_size": 64 * chance.randint(4, 64)})
    files = {"model": ("x.json", config), "trace": ("x.csv", TRACE), "prices": ("x.csv", PRICES.format(number + 0.1))}
    kind = chance.choice(list(files))
    name, content = files[kind]
    try:
        response = await client.post(f"api/{kind}?name={name}", content=content)
    except httpx2.HTTPError as error:
        return seen.put(f"a file of {kind}", type(error).__name__, began)
    seen.put(f"a file of {kind}", response.status_code, began)
    if response.status_code == 200:
        asked = {"model": "Qwen3-8B"} | {kind: response.json()["id"]}
        await get(client, f"by a file of {kind}", f"api/predict?{urlencode(asked)}&gpu=L4", until, seen)
    return None


async def drips(address: str, until: float, seen: Seen) -> None:
    """Send a head a byte at a time, without end."""
    while time.perf_counter() < until:
        began, writer = time.perf_counter(), None
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*place(address))
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ")
            answer = asyncio.create_task(reader.read(100))
            while time.perf_counter() - began < 60 and not answer.done():
                writer.write(b"x")
                await asyncio.sleep(0.5)
            status = answer.result()[9:12].decode() if answer.done() else "held for 60 s"
            seen.put("a head that drips", status or "closed", began)
        if writer:
            writer.close()


async def reads_nothing(address: str, until: float, seen: Seen) -> None:
    """Ask for much, over and over, and read nothing of it."""
    while time.perf_counter() < until:
        began, writer = time.perf_counter(), None
        with suppress(OSError):
            _, writer = await asyncio.open_connection(*place(address), limit=1024)
            writer.write(b"GET /api/gpus HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20)
            ended = "held for 90 s"
            while time.perf_counter() - began < 90:
                await asyncio.sleep(1)
                if writer.transport.is_closing():
                    ended = "cut off"
                    break
                with suppress(ConnectionError):
                    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            seen.put("who reads nothing", ended, began)
        if writer:
            writer.close()


async def sends_much(client: httpx2.AsyncClient, until: float, seen: Seen) -> None:
    """Send a file of a GB, with its length and without."""

    async def parts() -> object:
        for _ in range(1024):
            yield bytes(2**20)

    while time.perf_counter() < until:
        for kind, headers in (("without", {}), ("with its length", {"content-length": str(2**30)})):
            began = time.perf_counter()
            try:
                response = await client.post("api/model?name=x.gguf", content=parts(), headers=headers)
            except httpx2.HTTPError as error:
                seen.put(f"a GB, {kind}", type(error).__name__, began)
            else:
                seen.put(f"a GB, {kind}", response.status_code, began)
            await asyncio.sleep(1)


def place(address: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(address)
    return parts.hostname or "", parts.port or 80


async def watch(started: psutil.Process, until: float, seen: Seen) -> None:
    """Look at the memory of all processes, every ten seconds."""
    while time.perf_counter() < until:
        await asyncio.sleep(10)
        seen.memory_bytes.append((time.perf_counter(), memory(started)))


def memory(started: psutil.Process) -> float:
    """What the processes hold, what they share counted for each."""
    size = 0.0
    for one in family(started):
        with suppress(psutil.Error):
            size += one.memory_info().rss
    return size


def tell(seen: Seen) -> None:
    """Print the table, and fail where something came that is no answer and no refusal."""
    print(f"{'':<28}{'200':>7}{'429':>7}  {'p50':>6} {'p90':>6} {'p99':>6} {'most':>6} s  others")
    for kind, counts in sorted(seen.statuses.items()):
        times = sorted(seen.times_s[kind]) or [0.0]
        points = [times[min(int(share * len(times)), len(times) - 1)] for share in (0.5, 0.9, 0.99, 1.0)]
        others = ", ".join(f"{status}: {count}" for status, count in counts.items() if status not in ("200", "429"))
        print(
            f"{kind:<28}{counts['200']:>7}{counts['429']:>7}  {' '.join(f'{one:6.2f}' for one in points)}    {others}"
        )
    begun = seen.memory_bytes[0][0] if seen.memory_bytes else 0.0
    print("MB: " + ", ".join(f"{at - begun + 10:.0f} s {size / 1e6:.0f}" for at, size in seen.memory_bytes[::3]))
    print(f"MB at the end, after a pause: {seen.memory_bytes[-1][1] / 1e6:.0f}")
    wrong = {status for counts in seen.statuses.values() for status in counts if status.isdigit()}
    if unexpected := {int(status) for status in wrong} - EXPECTED:
        raise SystemExit(f"unexpected: {sorted(unexpected)}")


if __name__ == "__main__":
    main()
