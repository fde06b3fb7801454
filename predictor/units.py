"""Units. Inside the library everything is SI: bytes, seconds, FLOP/s, hertz, watts.

Data-sheet units appear only in the catalogues and are converted once, where a catalogue is read.

>>> 80 * GIB
85899345920
"""

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KIB, MIB, GIB = 2**10, 2**20, 2**30
MHZ, GHZ = 10**6, 10**9
TFLOP = 10**12
MS, US = 1e-3, 1e-6


def format_bytes(count: float) -> str:
    """Bytes as people read them, decimal units.

    >>> format_bytes(16.06e9)
    '16.1 GB'
    """
    for unit, size in (("TB", TB), ("GB", GB), ("MB", MB), ("kB", KB)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def format_seconds(seconds: float) -> str:
    """Seconds as people read them.

    >>> format_seconds(0.0123)
    '12.3 ms'
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= MS:
        return f"{seconds / MS:.3g} ms"
    return f"{seconds / US:.3g} µs"
