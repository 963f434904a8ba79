"""The shell that wires the house: configuration, pipeline, ledger, journal, effects, settler, commands.

No rule of the protocol and no rule about money lives here; those are in `channels`, `devices` and
`settlement`.
"""

__version__ = "0.1.0"
