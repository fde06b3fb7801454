"""Every error a user can meet: one tree, each message names the value, the rule and the cure."""

LONGEST = 2000  # characters of a message


class PredictorError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line and exits with 2."""

    def __str__(self) -> str:
        return plain_line(super().__str__())


def plain_line(text: str) -> str:
    """A text as one line that a terminal shows as it is, whatever the values in it hold; of a long one both ends.

    >>> plain_line("family is a\\nb; choose another.")
    'family is a b; choose another.'
    """
    line = _ends(" ".join(_ends(text).splitlines()))
    if line.isprintable():
        return line
    return _ends("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))


def _ends(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 503]} … {text[-500:]}"


class UnknownGpu(PredictorError):
    """A GPU name that neither the catalogue nor a spec file knows."""


class UnknownModel(PredictorError):
    """A model name that neither the catalogue nor a config file knows."""


class InvalidSpec(PredictorError):
    """A GPU spec or model config with a missing, unknown or impossible field."""


class UnknownLink(InvalidSpec):
    """GPUs joined by nothing of which anybody stated the rate."""


class UnsupportedDtype(PredictorError):
    """A number format that the GPU or the operator cannot run."""


class UnknownRate(UnsupportedDtype):
    """A number format whose rate on the GPU nobody stated, of an architecture that nobody described."""


class InvalidOp(PredictorError):
    """An operator shape that cannot exist, such as a batch of 0."""


class InvalidTable(PredictorError):
    """A measurement table that cannot be read or breaks the schema as a whole."""


class InvalidBundle(PredictorError):
    """A bundle that is missing, corrupt or made by an incompatible version."""


class InvalidRequest(PredictorError):
    """A prediction request with an impossible setting."""


class InvalidStore(PredictorError):
    """A store of promoted bundles that is damaged or cannot be used."""
