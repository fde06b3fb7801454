"""How an input is made from a seed: values, lines and bytes that a reader does not expect."""

from __future__ import annotations

import json
import re
import struct
from copy import deepcopy
from random import Random
from typing import Any

MOST_BYTES = 200_000  # of an input
DEEP = "@deep@"
TOKEN = re.compile(rb'"[^"\n]*"|[-+\w.]+')
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 3.5, 1e-300, 1e300, -1e300, 2**31, 2**63, -(2**63), 2**64, 10**40, 10**400),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        " ",
        "x",
        "x" * 5000,
        "\x00",
        "\ud800",
        "\x1b[31m",
        "a\nb",
        "é\u202e",
    ),
    *(
        "nan",
        "inf",
        "-inf",
        "1e999",
        "9" * 5000,
        "1_000",
        "٣",
        "0x10",
        "-1",
        "0",
        "8",
        "true",
        "null",
        "../../etc/passwd",
    ),
    *(
        "/dev/zero",
        "2026-01-01",
        "2026-99-99T00:00:00Z",
        "fp8",
        "H100",
        "Llama-3.1-8B",
        "{}",
        "[]",
        "a" * 300 + "," * 300,
    ),
    *([], {}, [[]], [None], [1, 2], [1] * 300, ["x"], [{}], {"a": 1}, {"": None}, {"a": {"a": []}}, DEEP),
)
RAW = (  # in place of a token of a text
    *(b"", b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"1", b"9" * 5000, b"1" + b"0" * 400, b"true", b'""', b"[]"),
    *(b"{}", b"''", b'"', b"'", b",", b"\n", b"\r", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"[" * 3000),
    *(b"{a = " * 1500, b"!!python/object/apply:os.system [id]", b"&a [*a]", b"=1+1", b"1979-05-27", b"07:32:00"),
    *(b"x" * 5000, b"," * 3000, "é\u202e٣".encode(), b"1_0", b"0x7f", b"99999999999999999999", b"1.5", b"|", b"---"),
)
WHOLE = (
    0,
    1,
    2,
    7,
    8,
    9,
    10,
    12,
    13,
    31,
    255,
    2**16,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def mutated(seed: bytes, others: list[bytes], random: Random) -> bytes:
    """An input: the seed after one or a few changes."""
    value = _parsed(seed)
    content = _changed_json(value, random) if value is not None and random.random() < 0.7 else b""
    if content:
        return content[:MOST_BYTES]
    content = _changed_bytes(seed, random) if b"\x00" in seed else _changed_text(seed, others, random)
    return content[:MOST_BYTES]


def _parsed(seed: bytes) -> Any:
    try:
        return json.loads(seed)
    except (ValueError, RecursionError):
        return None


def _changed_json(value: Any, random: Random) -> bytes:
    try:
        return _with_changes([value], random)
    except (RecursionError, ValueError):  # of what was nested already
        return b""


def _with_changes(held: list[Any], random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        _change(*random.choice(_places(held)), random)
    text = json.dumps(held[0])
    if DEEP in text:
        depth = random.choice((5, 900, 5000, 90_000))
        text = text.replace(
            f'"{DEEP}"', random.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)), 1
        )
    if random.random() < 0.05 and (at := text.find("{")) >= 0:  # a key twice
        keys = re.findall(r'"(\w+)":', text) or ["a"]
        text = f'{text[: at + 1]}"{random.choice(keys)}": {json.dumps(random.choice(ODD))}, {text[at + 1 :]}'
    content = text.encode("utf-8", "surrogatepass")
    return _changed_bytes(content, random) if random.random() < 0.05 else content


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a value."""
    found, left = [], [value]
    while left:
        holder = left.pop()
        inside = list(enumerate(holder)) if isinstance(holder, list) else list(holder.items())
        found += [(holder, key) for key, _ in inside]
        left += [held for _, held in inside if isinstance(held, dict | list)]
    return found


def _change(holder: Any, key: Any, random: Random) -> None:
    old, way = holder[key], random.random()
    if way < 0.5:
        holder[key] = deepcopy(random.choice(ODD))
    elif way < 0.6 and isinstance(holder, dict):
        del holder[key]
        if not holder:
            holder["a"] = 1
    elif way < 0.68 and isinstance(holder, dict):
        holder[str(random.choice(ODD))[:5000]] = holder.pop(key)
    elif way < 0.76:
        holder[key] = [old] if random.random() < 0.5 else {"a": old}
    elif way < 0.82:
        holder[key] = str(old)
    elif isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 2**60:
        holder[key] = random.choice((-old, old * 1000, old + 0.5, old * 10**12, float(old), old - 1, old * 2**40))
    elif isinstance(old, str):
        cut = random.randrange(len(old) + 1)
        holder[key] = old[:cut] + str(random.choice(ODD))[:3000] + old[cut:]
    else:
        holder[key] = [old, deepcopy(old)] if random.random() < 0.5 else deepcopy(random.choice(ODD))


def _changed_text(seed: bytes, others: list[bytes], random: Random) -> bytes:
    content = seed
    for _ in range(random.choice((1, 1, 2, 3, 5))):
        way, tokens = random.random(), list(TOKEN.finditer(content[:20_000]))
        if way < 0.5 and tokens:
            token = random.choice(tokens)
            quoted = (
                random.choice(RAW)
                if token[0][:1] != b'"' or random.random() < 0.4
                else b'"' + random.choice(RAW) + b'"'
            )
            content = content[: token.start()] + quoted + content[token.end() :]
        elif way < 0.75:
            lines = content.splitlines(keepends=True) or [b""]
            at = random.randrange(len(lines))
            change = random.random()
            if change < 0.3:
                del lines[at]
            elif change < 0.6:
                lines.insert(at, random.choice(lines))
            elif change < 0.7:
                lines[at] *= random.choice((2, 50, 1000))
            elif change < 0.85:
                lines.insert(at, random.choice(random.choice(others).splitlines(keepends=True) or [b""]))
            else:
                random.shuffle(lines)
            content = b"".join(lines)
        else:
            content = _changed_bytes(content, random)
        content = content[:MOST_BYTES]
    return content


def _changed_bytes(seed: bytes, random: Random) -> bytes:
    content = bytearray(seed)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        at, way = random.randrange(len(content) + 1), random.random()
        if way < 0.4 and at < len(content):
            content[at] = random.choice(
                (0, 255, 127, 128, content[at] ^ (1 << random.randrange(8)), random.randrange(256))
            )
        elif way < 0.65:
            form = random.choice("BHIQ")
            number = random.choice(WHOLE) & (2 ** (8 * struct.calcsize(form)) - 1)
            content[at : at + struct.calcsize("<" + form)] = struct.pack(random.choice("<<>") + form, number)
        elif way < 0.75:
            del content[at:]
        elif way < 0.85:
            del content[at : at + random.choice((1, 2, 4, 8, 50))]
        else:
            content[at:at] = random.choice((random.randbytes(8), bytes(8), b"\xff" * 8, bytes(content[:at][-50:])))
    return bytes(content)
