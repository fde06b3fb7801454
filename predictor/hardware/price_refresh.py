"""Newer prices: rows of gpuhunt's catalogue, which is collected from the providers, as a file of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from predictor.errors import InvalidRequest, UnknownGpu
from predictor.hardware.gpu import Gpu, catalogue, get_gpu
from predictor.hardware.price import Price
from predictor.units import GIB

INSTALL = "pip install 'gpu-predictor[prices]'"
WITHOUT_PROMISE = ("lium", "vastai")  # marketplaces
# gpuhunt's names of providers that the catalogue of prices has by another.
PROVIDERS: Mapping[str, str] = {
    "aws": "AWS",
    "azure": "Azure",
    "crusoe": "Crusoe",
    "digitalocean": "DigitalOcean",
    "gcp": "Google Cloud",
    "jarvislabs": "Jarvislabs",
    "lambdalabs": "Lambda",
    "nebius": "Nebius",
    "oci": "Oracle Cloud",
    "runpod": "RunPod",
    "vastai": "Vast.ai",
    "verda": "Verda",
    "vultr": "Vultr",
}
CLOSE = 0.15  # of the memory by which a row's GPU is told from its siblings


def fetch_prices(rows: Iterable[Any] | None = None) -> tuple[list[Price], int]:
    """Prices of today, the cheapest instance of each provider, region, GPU, number and kind; and rows left out.

    rows: gpuhunt's CatalogItems; by default fetched, which needs gpuhunt and a network: else InvalidRequest.
    Left out are rows whose name and memory fit no GPU of the catalogue.
    """
    today = datetime.now(UTC).date().isoformat()
    cheapest: dict[tuple[Any, ...], Price] = {}
    left_out = 0
    for row in _fetched() if rows is None else rows:
        if not row.gpu_count or not row.price:
            continue
        gpu = _gpu_of(str(row.gpu_name), float(row.gpu_memory or 0), str(row.instance_name))
        if gpu is None:
            left_out += 1
            continue
        kind = "spot" if row.spot else "community" if row.provider in WITHOUT_PROMISE else "on-demand"
        provider = PROVIDERS.get(row.provider, row.provider)
        place = (provider, row.location, gpu.name, row.gpu_count, kind)
        if place not in cheapest or row.price < cheapest[place].usd_per_hour:
            cheapest[place] = Price(
                provider=provider,
                gpu=gpu.name,
                n_gpus=row.gpu_count,
                kind=kind,
                usd_per_hour=float(row.price),
                region=row.location,
                instance=row.instance_name,
                date=today,
                source="gpuhunt",
                quote=f"{row.gpu_count} {row.gpu_name} {row.gpu_memory:g}GB ${row.price:g}",
            )
    return list(cheapest.values()), left_out


def _fetched() -> list[Any]:
    try:
        import gpuhunt
    except ImportError:
        raise InvalidRequest(f"--refresh needs gpuhunt; {INSTALL}.") from None
    import logging

    logging.getLogger("gpuhunt").setLevel(logging.CRITICAL)  # the error below says it in a line
    try:
        rows = list(gpuhunt.query())
    except (OSError, ValueError, gpuhunt.GPUHuntError) as error:
        raise InvalidRequest(f"gpuhunt has no prices ({error}); check the network, or give --prices FILE.") from error
    if not rows:
        raise InvalidRequest("gpuhunt has no prices; check the network, or give --prices FILE.")
    return rows


def _gpu_of(name: str, mem_gib: float, instance: str) -> Gpu | None:
    """The catalogue's GPU of that name and memory; the form factor from the instance's name, if that tells."""
    form = next((form for form in ("PCIe", "NVL", "SXM") if form.casefold() in instance.casefold()), "")
    for spelled in (f"{name} {form} {mem_gib:g}GB", f"{name} {form}", f"{name} {mem_gib:g}GB", name):
        try:
            gpu = get_gpu(" ".join(spelled.split()))
        except UnknownGpu:
            continue
        if gpu.name in catalogue() and abs(gpu.mem_bytes / GIB - mem_gib) <= CLOSE * mem_gib:
            return gpu
    return None
