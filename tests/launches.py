"""Launches that several tests look at."""

from predictor.hardware.gpu import get_gpu
from predictor.planning.launch import Launch, launched
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload

LOAD = {"request_rate": 4.0, "input_len": 500, "output_len": 100}


def launch_of(**columns) -> Launch:
    request = Request.of(LOAD | columns)
    gpu = get_gpu(request.gpu)
    return launched(request, served_workload(request, get_model(request.model), gpu)[0], gpu)
