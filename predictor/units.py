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
HOUR = 3600  # seconds
