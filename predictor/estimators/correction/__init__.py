"""What a few measured calls teach about an estimator's errors: a Gaussian process over calls.

Traits          what makes calls alike
Prior           amplitudes and lengths
covariance      of the errors of two columns of calls
learn           a prior from held-out GPUs
Correction      the fitted process
fit_correction  from measured calls
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.estimators.correction.kernel import Prior as Prior, Traits as Traits, covariance as covariance
    from predictor.estimators.correction.prior import learn as learn
    from predictor.estimators.correction.process import Correction as Correction, fit_correction as fit_correction

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "kernel": ["Traits", "Prior", "covariance"],
        "prior": ["learn"],
        "process": ["Correction", "fit_correction"],
    },
)
