"""Pictures of answers, PNG or SVG (extra: plot), that can be read in black and white and by the colour-blind.

check_plot        what would end a picture, said before any work
answers_picture   a step part by part, and its operators under the roofline, a row of panels for each GPU
memory_picture    memory by kind beside what each GPU has
ranking_picture   the figure GPUs are ranked by, against latency
plans_picture     what plans cost against their latencies, beside what is promised
loads_picture     throughput against latency as load grows, a line for each GPU
errors_picture    a heat map of errors by operator family and GPU
quality_picture   scores against price and against latency
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.plotting.answers import answers_picture as answers_picture
    from predictor.plotting.canvas import check_plot as check_plot
    from predictor.plotting.choices import (
        plans_picture as plans_picture,
        quality_picture as quality_picture,
        ranking_picture as ranking_picture,
    )
    from predictor.plotting.errors import errors_picture as errors_picture
    from predictor.plotting.loads import loads_picture as loads_picture
    from predictor.plotting.memory import memory_picture as memory_picture

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "answers": ["answers_picture"],
        "canvas": ["check_plot"],
        "choices": ["plans_picture", "quality_picture", "ranking_picture"],
        "errors": ["errors_picture"],
        "loads": ["loads_picture"],
        "memory": ["memory_picture"],
    },
)
