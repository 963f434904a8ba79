"""Exact pricing with a carried remainder (docs/protocol.md 4).

Prices are integers of 10⁻⁹ token base units per register unit, so `exact` amounts are in nano base units.
Only whole base units are ever charged, and what is cut off is carried to the next reading: over any run of
readings the sum charged is the floor of the exact sum.
"""

NANO = 10**9
BASIS_POINTS = 10**4


def charge(remainder: int, units: int, price: int) -> tuple[int, int]:
    """Return (base units newly charged, new remainder) for `units` of the register at `price`.

    `remainder` is what earlier readings left, 0 ≤ remainder < 10⁹, in nano base units.
    """
    return divmod(remainder + units * price, NANO)


def fee(remainder: int, earned: int, basis_points: int) -> tuple[int, int]:
    """Return (operator's fee, new remainder) on `earned` base units; the remainder is in 10⁻⁴ base units."""
    return divmod(remainder + earned * basis_points, BASIS_POINTS)
