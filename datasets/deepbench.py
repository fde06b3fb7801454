"""DeepBench: matrix products, convolutions and all-reduces of vendors' libraries on older GPUs.

url       https://github.com/baidu-research/DeepBench, commit da81ba78
licence   Apache-2.0
read      results/**/*.xlsx, every sheet of results: "Dense Matrix Multiplication" -> gemm; "Convolution", forward of
          square images with square kernels -> conv; "All-Reduce" inside one machine -> collective
not read  sparse products and recurrent layers (no such family); oblong images, kernels, strides or padding, which a
          Conv cannot say; backward passes (other kernels, which no column tells apart); int8 convolutions (0.03 of the
          peak on T4, 0.08 on Pascal, where fp32 has 0.4 to 0.5: no engine runs them so) and int8 products of T4
          (vector units at 0.17 of the peak); all-reduces of several machines (the link between them is not stated);
          cells without a time
units     milliseconds: GEMM and conv rounded to 1 us; "Size # floats" of an all-reduce is times 4 bytes
timing    host: the mean of a loop of calls with one synchronisation at its end, so a launch hides behind the call
          before it, and operands that fit stay in the L2 cache. Of convolutions warm: a tenth take 16 us or less on
          V100, where NeuSight's calls, synchronised each, have a floor of 24 to 90, and their algorithms were picked by
          trial (Winograd at 1.2 to 1.3 times the direct peak)
engine    torch: cuBLAS, cuDNN, rocBLAS and MIOpen are called directly, and PyTorch calls the same; kernel_name is the
          library, with the transposes of a GEMM or the algorithm of a convolution; engine_version is CUDA's or ROCm's.
          All-reduces are nccl's.
dtype     by the cell beside "Precision". On P100 fp16 is stored but multiplied in fp32, as PyTorch does there too.
GPU       by the file's name. P100 is the PCIe card (X99 board); V100 sits in a DGX-1, its memory is not stated.
quirks    Column-major: M is the width of the weights and N the tokens, so m=N, n=M. int8 pads some sizes to a multiple
          of 4 ("Padded Kernels"). The filter's width is S and its height R. From 16 GPUs on all-reduces have one number
          more, the machines, in a column without a name. All-reduces of M40, P100 and TITAN X (Maxwell) reach 6 GB/s of
          bus bandwidth in 2 as in 8, 0.38 of PCIe, taken as through the host; GTX 1080 Ti and TITAN X (Pascal) 12.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements.readers import Unread, folder, run_reader, stack
from predictor.units import MS

URL = "https://github.com/baidu-research/DeepBench"
THROUGH_HOST = ("Tesla-M40", "P100-PCIe-16GB", "Titan-X-Maxwell")  # whose all-reduces do not go peer to peer
GPUS = {  # by what the file's name adds to "DeepBench_"
    "NV_V100": "V100-SXM2-16GB",
    "NV_P100": "P100-PCIe-16GB",
    "NV_T4": "Tesla T4",
    "NV_M40": "Tesla M40",
    "NV_1080Ti": "GTX 1080 Ti",
    "NV_TitanXp": "Titan Xp",
    "NV_TitanX_Pascal": "TITAN X (Pascal)",
    "NV_TitanX": "TITAN X (Maxwell)",
    "AMD_MI25": "MI25",
    "AMD_VegaFE": "Vega FE",
}
NO_INT8 = "Tesla-T4"  # at 0.17 of the peak of its tensor cores: CUDA 10.1 has them for few shapes only
DTYPES = (("Float", "fp32"), ("16 bit inputs", "fp16"), ("GEMM, Conv: Int8", "int8"))  # the cell begins so
GEMM = {"m": "n", "n": "m", "k": "k", "a transpose": "a", "b transpose": "b", "time": "ms"}
CONV = {
    "w": "size",
    "h": "height",
    "c": "in_channels",
    "n": "batch",
    "k": "out_channels",
    "s": "kernel",
    "r": "kernel_height",
    "pad_w": "padding",
    "pad_h": "padding_height",
    "horizontal stride": "stride",
    "vertical stride": "stride_height",
    "forward": "ms",
}
ALL_REDUCE = {
    "size # floats": "floats",
    "# chips / accelerator cards": "n_gpus",
    "mean all reduce time": "ms",
    "selected algorithm": "kernel_name",
}
TITLES = {"Dense Matrix": ("gemm", GEMM), "Convolution": ("conv", CONV), "All-Reduce": ("collective", ALL_REDUCE)}
OTHER_TITLES = ("Sparse Matrix", "Recurrent")
TEXTS = ("a", "b", "algorithm", "kernel_name")
MOST_GPUS = 8  # of one machine


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every workbook below root."""
    results = folder(root, "results", url=URL)
    return stack(frame for path in sorted(results.rglob("*.xlsx")) for frame in read_file(path, unread))


def read_file(path: Path, unread: Unread) -> list[pd.DataFrame]:
    """One GPU's workbook: a frame of each family of each sheet."""
    alias = GPUS.get(path.stem.removeprefix("DeepBench_"))
    gpu = unread.gpu(alias) if alias else unread.file(f"{path.name} names no GPU that is known here")
    if gpu is None:
        return []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unknown extension")  # of Excel, about how a sheet looks
            sheets = pd.read_excel(path, sheet_name=None, header=None)
            specs = {str(name): value for name, value, *_ in sheets.pop("Specs").itertuples(index=False)}
    except ImportError:
        raise InvalidTable("workbooks of Excel need openpyxl; pip install openpyxl.") from None
    except (OSError, ValueError, KeyError) as error:
        unread.file(f"{path.name} cannot be read ({str(error).splitlines()[0]})")
        return []
    amd = "ROCm Version" in specs
    version = f"rocm {specs['ROCm Version']}" if amd else f"cuda {specs.get('CUDA Version', '')}"
    frames = []
    for sheet in sheets.values():
        for family, rows in sections(sheet, unread):
            rows = FINISH[family](rows, amd, unread)
            if family == "collective":
                rows = rows.assign(link="host" if gpu in THROUGH_HOST else "pcie")
            rows = rows.assign(family=family, gpu=gpu, engine_version=version, latency_s=rows["ms"] * MS)
            vector = (rows["dtype"] == "int8") & (gpu == NO_INT8)
            rows = unread.keep(rows, ~vector, f"int8 of {NO_INT8}, most of it without tensor cores")
            timing = "warm" if family == "conv" else "host"
            frames.append(unread.positive(rows).assign(timing=timing, source="deepbench"))
    return frames


def sections(sheet: pd.DataFrame, unread: Unread) -> Iterator[tuple[str, pd.DataFrame]]:
    """(family, rows) of each part of a sheet that has one: the first column holds the titles of the parts."""
    title = sheet[0].where(sheet[0].map(lambda cell: isinstance(cell, str)))
    precision = str(sheet.iloc[title.eq("Precision").idxmax(), 1:].dropna().iloc[0])
    dtype = next((name for begin, name in DTYPES if precision.startswith(begin)), None)
    for (_, name), part in sheet.groupby([title.notna().cumsum(), title.ffill()], sort=False):
        family, names = next((kind for begin, kind in TITLES.items() if name.startswith(begin)), ("", {}))
        if not family:
            if name.startswith(OTHER_TITLES):
                unread.rows[f'"{name}" has no family here'] += len(part.dropna(how="all")) - 1
            continue
        head = next(row for row in part.index if len(set(names) & set(map(plain, part.loc[row]))) == len(names))
        columns = {at: names[plain(cell)] for at, cell in part.loc[head].items() if plain(cell) in names}
        algorithm = {at: "algorithm" for at, cell in part.loc[head].items() if plain(cell) == "forward algorithm"}
        rows = part.loc[head + 1 :].rename(columns=columns | algorithm)[[*columns.values(), *algorithm.values()]]
        rows = rows.dropna(how="all")
        numbers = [column for column in rows if column not in TEXTS]
        rows = rows.assign(dtype=dtype, **{c: pd.to_numeric(rows[c], errors="coerce") for c in numbers})
        yield family, unread.keep(rows, rows[numbers].notna().all(axis=1), f"a {family} row without all numbers")


def plain(cell: object) -> str:
    """The name of a column without its unit, as "time" of "Time (msec)"."""
    return str(cell).split("(")[0].strip().lower()


def gemm(rows: pd.DataFrame, amd: bool, unread: Unread) -> pd.DataFrame:
    """Dense products, named by their transposes."""
    library = "rocblas" if amd else "cublas"
    return rows.assign(engine="torch", kernel_name=library + "_" + (rows["a"] + rows["b"]).str.lower())


def conv(rows: pd.DataFrame, amd: bool, unread: Unread) -> pd.DataFrame:
    """Forward convolutions, as far as they are square."""
    rows = unread.keep(rows, rows["dtype"] != "int8", "an int8 convolution")
    square = pd.Series(True, index=rows.index)
    for side in ("size", "kernel", "padding", "stride"):
        square &= rows[side] == rows["height" if side == "size" else f"{side}_height"]
    rows = unread.keep(rows, square, "an oblong convolution")
    algorithm = rows.get("algorithm", pd.Series("", index=rows.index)).fillna("").astype(str).str.strip().str.lower()
    algorithm = algorithm.str.removeprefix("convolutionfwdalgo")
    library = "miopen" if amd else "cudnn"
    return rows.assign(engine="torch", kernel_name=(library + "_" + algorithm).str.removesuffix("_"))


def all_reduce(rows: pd.DataFrame, amd: bool, unread: Unread) -> pd.DataFrame:
    """All-reduces of one machine, none of which has a link between its GPUs but PCIe."""
    rows = unread.keep(rows, rows["n_gpus"] <= MOST_GPUS, "an all-reduce of several machines")
    return rows.assign(kind="all_reduce", engine="nccl", message_bytes=4.0 * rows["floats"], dtype=None)


FINISH = {"gemm": gemm, "conv": conv, "collective": all_reduce}

if __name__ == "__main__":
    run_reader(read, __doc__ or "")
