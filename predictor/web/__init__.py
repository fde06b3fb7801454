"""The page, and the commands over HTTP (extra: web).

create_app  the application, for a server of one's own
serve       the application on a port of this machine
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.web.app import create_app as create_app
    from predictor.web.server import serve as serve

__getattr__, __dir__, __all__ = attach(__name__, submod_attrs={"app": ["create_app"], "server": ["serve"]})
