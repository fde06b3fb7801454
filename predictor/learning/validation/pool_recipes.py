"""How the disaggregated servers of TensorRT-LLM were run whose published rows do not say it.

Source: SemiAnalysisAI/InferenceX (Apache-2.0), .github/configs/nvidia-master.yaml at 0004cf5: dsr1-fp4-b200-dynamo-trt,
dsr1-fp8-b200-dynamo-trt and dsr1-fp8-h200-dynamo-trt, which name for each number of clients the workers of both pools
and whether multi-token prediction ran. Its H200 recipes give clients per decode worker, as the rows that say their
workers show: those of 4 clients and 9 workers have 36. Recipes of SGLang changed between runs, and of one number of
clients there are several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

H200, B200 = "H200-SXM-141GB", "B200-SXM-180GB"
# GPU, format and prompt → workers of both pools → clients. dep: attention groups with a share of experts each, tep:
# tensor parallel with shares of experts, tp: tensor parallel alone; then GPUs of a worker.
PLAIN: Mapping[tuple[str, str, int], Mapping[str, tuple[int, ...]]] = {
    (B200, "nvfp4", 1024): {
        "1 dep4, 1 dep8": (4096,),
        "1 dep4, 2 dep8": (2192,),
        "1 dep4, 5 dep8": (1365,),
        "1 dep4, 5 tep8": (6, 10, 15, 25, 45, 90, 180),
        "1 dep4, 6 tep8": (450,),
    },
    (B200, "nvfp4", 8192): {
        "1 dep4, 5 tep8": (6, 10, 15, 25, 50, 100),
        "2 dep4, 5 tep8": (370,),
        "4 dep4, 1 dep8": (1606,),
        "4 dep4, 3 dep8": (837,),
        "7 dep4, 2 dep8": (2222,),
    },
    (B200, "fp8", 1024): {
        "1 dep8, 3 tp8": (4, 32, 128),
        "1 dep8, 5 dep8": (1920,),
        "1 dep8, 1 dep8": (4096,),
        "2 dep8, 5 dep8": (5152,),
    },
    (B200, "fp8", 8192): {
        "1 dep8, 1 tp8": (1,),
        "1 dep8, 4 tp8": (32, 128),
        "1 dep8, 6 tp8": (96,),
        "1 dep8, 1 dep8": (128, 256),
        "1 dep8, 2 dep8": (128,),
        "2 dep8, 1 dep8": (640,),
    },
    (H200, "fp8", 1024): {
        "1 dep8, 9 tep8": (9,),
        "1 tep8, 9 tep8": (36, 72, 144, 288, 576),
        "1 dep8, 9 dep8": (1152,),
        "1 dep8, 6 dep8": (1536,),
        "2 dep8, 7 dep8": (3584,),
    },
    (H200, "fp8", 8192): {
        "1 tep8, 7 tep8": (7, 28),
        "1 tep8, 6 tep8": (48,),
        "1 tep8, 3 tep8": (48,),
        "2 tep8, 5 tep8": (160,),
        "2 dep8, 3 dep8": (192,),
        "1 dep8, 1 dep8": (128,),
        "5 dep8, 3 dep8": (768,),
        "3 dep8, 1 dep8": (512,),
    },
}
# Clients that were served with multi-token prediction, or were so too.
SPECULATIVE: Mapping[tuple[str, str, int], tuple[int, ...]] = {
    (B200, "nvfp4", 1024): (6, 10, 15, 25, 45, 90, 180, 875, 1214, 4968, 10860),
    (B200, "nvfp4", 8192): (6, 10, 15, 30, 60, 66, 90, 548, 658, 1096, 1691),
    (B200, "fp8", 1024): (8, 32, 64, 256, 896, 1024, 1184, 1600),
    (B200, "fp8", 8192): (8, 48, 64, 224, 288, 1088),
    (H200, "fp8", 1024): (11, 44, 88, 144, 352, 512, 896, 1024),
    (H200, "fp8", 8192): (7, 28, 48, 64, 128, 160, 256, 512),
}
SGLANG = "SGLang's number of workers is not told, and its recipes changed"
SEVERAL = "the number of workers is not told, and of so many clients there are several recipes, or none"
SPECULATED = "multi-token prediction ran, of which how many tokens were accepted is not told"


class Pool(NamedTuple):
    """Workers of a pool and the degrees of one."""

    workers: int
    tp: int
    ep: int
    attention_dp: int


def recipe(engine: str, gpu: str, dtype: str, input_len: int, clients: int) -> tuple[Pool, Pool] | str:
    """The prefill and decode pools that served so many clients, or why they are not known.

    >>> recipe("trtllm", "H200-SXM-141GB", "fp8", 1024, 1536)
    (Pool(workers=1, tp=1, ep=8, attention_dp=8), Pool(workers=6, tp=1, ep=8, attention_dp=8))
    """
    if engine != "trtllm":
        return SGLANG
    key = gpu, dtype, input_len
    plain = [pools for pools, served in PLAIN.get(key, {}).items() if clients in served]
    speculated = clients in SPECULATIVE.get(key, ())
    if len(plain) + speculated != 1:
        return SEVERAL
    if speculated:
        return SPECULATED
    prefill, decode = plain[0].split(", ")
    return _pool(prefill), _pool(decode)


def _pool(text: str) -> Pool:
    """
    >>> _pool("3 tp8"), _pool("1 dep4")
    (Pool(workers=3, tp=8, ep=1, attention_dp=1), Pool(workers=1, tp=1, ep=4, attention_dp=4))
    """
    found = re.fullmatch(r"(\d+) (dep|tep|tp)(\d+)", text)
    assert found, text
    workers, kind, gpus = int(found[1]), found[2], int(found[3])
    return Pool(
        workers=workers,
        tp=1 if kind == "dep" else gpus,
        ep=1 if kind == "tp" else gpus,
        attention_dp=gpus if kind == "dep" else 1,
    )
