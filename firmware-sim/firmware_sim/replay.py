"""Real meter readings from a file: every (day, meter) is a device, every row one reading of each meter."""

import csv
from array import array
from dataclasses import dataclass, field
from pathlib import Path

HEADER = ["day", "minute", "watts", "kitchen_wh", "laundry_wh", "heating_wh"]
METERS = ("main", "kitchen", "laundry", "heating")

# A year of minutes of one household is half a million rows; more than this is not such a file.
ROWS_MAX = 2_000_000


class ReplayError(ValueError):
    """The file is not of the expected form; the message names the line."""


@dataclass(slots=True)
class Track:
    """Registers of one meter on one day, in Wh from the day's start, in file order."""

    day: int
    meter: str
    registers: "array[int]" = field(default_factory=lambda: array("Q"))

    @property
    def device(self) -> str:
        """Device id, like d01-main."""
        return f"d{self.day:02d}-{self.meter}"

    @property
    def total(self) -> int:
        """The last register: Wh of the day."""
        return self.registers[-1] if self.registers else 0


def read_tracks(path: Path) -> list[Track]:
    """The tracks of a file, by day of first appearance, meters in column order; OSError or ReplayError."""
    try:
        return _read_tracks(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ReplayError(f"{path}: not a file of meter readings: {error}") from error


def _read_tracks(path: Path) -> list[Track]:
    days: dict[int, list[Track]] = {}
    sums: dict[int, list[int]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if next(rows, None) != HEADER:
            raise ReplayError(f"{path}: the first line must be {','.join(HEADER)}")
        for number, row in enumerate(rows, start=2):
            if number > ROWS_MAX:
                raise ReplayError(f"{path}: more than {ROWS_MAX} lines")
            day, *amounts = _row(path, number, row)
            tracks = days.setdefault(day, [Track(day, meter) for meter in METERS])
            total = sums.setdefault(day, [0] * len(METERS))
            for index, amount in enumerate(amounts):
                total[index] += amount
                # Watts over a minute: 60 of them are one watt-hour. The division comes last, nothing is lost.
                tracks[index].registers.append(total[index] // 60 if index == 0 else total[index])
    if not days:
        raise ReplayError(f"{path}: no readings")
    return [track for tracks in days.values() for track in tracks]


def _row(path: Path, number: int, row: list[str]) -> list[int]:
    """day, watts, kitchen, laundry, heating."""
    if len(row) != len(HEADER) or not all(cell.isascii() and cell.isdigit() for cell in row):
        raise ReplayError(f"{path}: line {number} is not {len(HEADER)} non-negative integers")
    if any(len(cell) > 12 for cell in row):
        raise ReplayError(f"{path}: line {number} has a number beyond any meter")
    day, _minute, *amounts = (int(cell) for cell in row)
    return [day, *amounts]
