"""Time operators on this machine's device.

bench      measure for a budget of seconds
Pace       how long to measure
Call       a shape and the torch call that is it
shapes     random shapes of a family
Device     what is measured on
device_of  the device of this machine
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.measurements.bench.device import Device as Device, device_of as device_of
    from predictor.measurements.bench.operators import Call as Call, shapes as shapes
    from predictor.measurements.bench.run import Pace as Pace, bench as bench

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "run": ["bench", "Pace"],
        "operators": ["Call", "shapes"],
        "device": ["Device", "device_of"],
    },
)
