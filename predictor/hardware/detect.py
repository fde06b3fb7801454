"""Which GPUs this machine has, as its drivers' own tools name them; nothing is imported or installed for it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from predictor.errors import InvalidRequest, PredictorError
from predictor.hardware.gpu import Gpu, resolve_gpu
from predictor.units import GIB, MIB

TIMEOUT_S = 20.0
UNLIKE = 0.12  # share by which memory may differ from the catalogue's before it is taken from the driver


class Found(NamedTuple):
    """A device as its driver names it. mem_bytes: of it, 0.0 where the driver does not say."""

    name: str
    mem_bytes: float


class Detected(NamedTuple):
    """GPUs of one kind in this machine. note: what to say of them."""

    gpu: Gpu
    n_gpus: int
    note: str


def detect() -> list[Detected]:
    """The GPUs of this machine that the catalogue knows, most of a kind first.

    Raises InvalidRequest where there are none: no tool of a driver answers, or no name that it gives is known.
    """
    found = [device for command, read in TOOLS for device in read(_output(command))]
    known, unknown = _known(found)
    if known:
        return known
    if unknown:
        raise InvalidRequest(f"{unknown[0]} is no GPU of the catalogue; give --gpu NAME, or a spec of it (.toml).")
    tools = ", ".join(command[0] for command, _ in TOOLS)
    raise InvalidRequest(f"no GPU is found in this machine ({tools} name none); give --gpu NAME.")


def _known(found: Sequence[Found]) -> tuple[list[Detected], list[str]]:
    known: list[Detected] = []
    unknown: list[str] = []
    for device, count in Counter(found).most_common():
        try:
            gpu, note = resolve_gpu(device.name)
            if device.mem_bytes and abs(device.mem_bytes / gpu.mem_bytes - 1) > UNLIKE and not gpu.unified_memory:
                gpu, _ = resolve_gpu(f"{gpu.name}, mem_gib={device.mem_bytes / GIB:.4g}")
                note = f"{device.name} has {device.mem_bytes / GIB:.3g} GiB by its driver, which is taken."
        except PredictorError:
            unknown.append(device.name)
        else:
            known.append(Detected(gpu, count, note))
    return known, unknown


def _output(command: Sequence[str]) -> str:
    """What a tool prints; "" where there is none, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def of_nvidia(text: str) -> list[Found]:
    """Lines of "name, MiB".

    >>> of_nvidia("NVIDIA L4, 23034\\n")[0].name
    'NVIDIA L4'
    """
    rows = [line.rsplit(",", 1) for line in text.splitlines() if "," in line]
    return [Found(name.strip(), _number(size) * MIB) for name, size in rows]


def of_amd(text: str) -> list[Found]:
    """The JSON of rocm-smi, whose keys differ between releases."""
    try:
        cards = json.loads(text)
    except ValueError:
        return []
    if not isinstance(cards, dict):
        return []
    found = []
    for card in cards.values():
        facts = {str(key).casefold(): str(value) for key, value in card.items()} if isinstance(card, dict) else {}
        names = [facts[key] for key in ("card series", "card model", "device name") if key in facts]
        total = next((facts[key] for key in facts if key.startswith("vram total memory")), "0")
        if named := [name for name in names if not name.startswith("0x")]:
            found.append(Found(named[0], _number(total)))
    return found


def of_apple(text: str) -> list[Found]:
    """The JSON of system_profiler: a chip and the cores of its GPU."""
    try:
        displays = json.loads(text).get("SPDisplaysDataType", [])
    except (ValueError, AttributeError):
        return []
    found = []
    for display in displays if isinstance(displays, list) else []:
        chip, cores = str(display.get("sppci_model", "")), str(display.get("sppci_cores", ""))
        if chip.startswith("Apple"):
            found.append(Found(f"{chip} ({cores} GPU cores)" if cores.isdecimal() else chip, 0.0))
    return found


def _number(text: str) -> float:
    digits = text.strip().split(" ")[0]
    return float(digits) if digits.replace(".", "", 1).isdecimal() else 0.0


TOOLS: tuple[tuple[tuple[str, ...], Callable[[str], list[Found]]], ...] = (
    (("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"), of_nvidia),
    (("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"), of_amd),
    (("system_profiler", "SPDisplaysDataType", "-json"), of_apple),
)
