"""Charges and fees with carried remainders."""

from channels import pricing
from channels.types import U64_MAX
from tests.vectors.setting import Case


def _pricing_case(name: str, start: int, readings: list[tuple[int, int]]) -> Case:
    register, remainder, charged, results = start, 0, 0, []
    for reached, price in readings:
        added, remainder = pricing.charge(remainder, reached - register, price)
        charged += added
        register = reached
        results.append({"charged": str(charged), "remainder": str(remainder)})
    listed = [{"register": str(r), "price": str(p)} for r, p in readings]
    return {
        "name": name,
        "kind": "pricing",
        "input": {"register": str(start), "readings": listed},
        "results": results,
    }


def _fee_case(name: str, basis_points: int, earned: list[int]) -> Case:
    remainder, total, before, results = 0, 0, 0, []
    for cumulative in earned:
        added, remainder = pricing.fee(remainder, cumulative - before, basis_points)
        total += added
        before = cumulative
        results.append({"fee": str(total), "remainder": str(remainder)})
    given = {"basisPoints": basis_points, "earned": [str(amount) for amount in earned]}
    return {"name": name, "kind": "fee", "input": given, "results": results}


def pricing_cases() -> list[Case]:
    """Return pricing sequences."""
    watt_hours = 150_000_000_000
    third = 333_333_333
    return [
        _pricing_case("whole units", 0, [(1, watt_hours), (3, watt_hours), (3, watt_hours)]),
        _pricing_case("begins at the meter's reading", 987_654, [(987_655, watt_hours), (990_000, watt_hours)]),
        _pricing_case("a third each: the remainder carries", 0, [(n, third) for n in range(1, 11)]),
        _pricing_case("less than one unit for a long time", 0, [(n, 1) for n in (1, 10**9 - 1, 10**9, 2 * 10**9 + 1)]),
        _pricing_case("the price changes with the offer", 0, [(7, 999_999_999), (8, 1), (9, 2), (10, 10**18)]),
        _pricing_case("free", 5, [(6, 0), (U64_MAX, 0)]),
        _pricing_case("greatest register and price", 0, [(U64_MAX, U64_MAX)]),
        _fee_case("1 % of uneven amounts", 100, [1, 99, 100, 101, 12_345, 12_345]),
        _fee_case("no fee", 0, [5, 10]),
        _fee_case("all of it", 10_000, [5, 10]),
    ]
