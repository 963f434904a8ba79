"""The golden vectors that the gateway is checked against too."""

import json
import shutil
from pathlib import Path

import pytest

from firmware_sim.cli import main
from firmware_sim.vectors import check_directory

VECTORS = Path(__file__).resolve().parents[2] / "tests" / "vectors"
FILES = {
    "digests.json",
    "malformed.json",
    "offers.json",
    "opens.json",
    "pricing.json",
    "readings.json",
    "receipts.json",
    "signatures.json",
}


def test_every_case_of_every_file_holds(capsys) -> None:
    counts, failures = check_directory(VECTORS)
    assert failures == []
    assert set(counts) >= FILES
    assert all(counts.values())
    assert main(["vectors", str(VECTORS)]) == 0
    assert f"{sum(counts.values())} cases, 0 failed" in capsys.readouterr().out


def spoil(value: object) -> object:
    """The last hex digit or decimal digit of a text changed."""
    assert isinstance(value, str)
    return value[:-1] + ("1" if value[-1] != "1" else "2")


SPOILT = [
    ("digests.json", "channelId", "id"),
    ("digests.json", "voucher", "digest"),
    ("digests.json", "open", "signature"),
    ("digests.json", "reading", "digest"),
    ("digests.json", "earner", "id"),
    ("digests.json", "deposit", "nonce"),
    ("digests.json", "claimBatch", "digest"),
    ("digests.json", "refund", "digest"),
    ("signatures.json", "signature", "valid"),
    ("offers.json", "offer", "digest"),
    ("offers.json", "offer", "canonical"),
    ("offers.json", "offer", "valid"),
    ("readings.json", "usage", "answersJson"),
    ("readings.json", "usage", "answersCbor"),
    ("readings.json", "usage", "cbor"),
    ("readings.json", "earn", "json"),
    ("opens.json", "open", "cbor"),
    ("opens.json", "state", "answersJson"),
    ("receipts.json", "receipt", "cbor"),
    ("receipts.json", "receipt", "json"),
    ("pricing.json", "pricing", "results"),
    ("pricing.json", "fee", "results"),
    ("malformed.json", "usage", "answers"),
    ("malformed.json", "usage", "number"),
]


@pytest.mark.parametrize(("file", "kind", "field"), SPOILT)
def test_a_spoilt_vector_is_found(tmp_path, capsys, file: str, kind: str, field: str) -> None:
    shutil.copy(VECTORS / file, tmp_path / file)
    document = json.loads((tmp_path / file).read_text())
    case = next(case for case in document["cases"] if case["kind"] == kind and case.get(field) is not None)
    value = case[field]
    if isinstance(value, bool):
        case[field] = not value
    elif isinstance(value, int):
        case[field] = value + 1
    elif isinstance(value, list):
        name = next(iter(value[-1]))
        value[-1][name] = spoil(value[-1][name])
    elif field in ("json", "canonical"):
        case[field] = value[:-3] + ("1" if value[-3] != "1" else "2") + value[-2:]
    else:
        case[field] = spoil(value)
    (tmp_path / file).write_text(json.dumps(document))
    _, failures = check_directory(tmp_path)
    assert len(failures) == 1
    assert case["name"] in failures[0]
    assert main(["vectors", str(tmp_path)]) == 1
    assert "1 failed" in capsys.readouterr().out


def test_a_directory_without_vectors_is_an_error(tmp_path, capsys) -> None:
    assert main(["vectors", str(tmp_path)]) == 2
    assert "no vector files" in capsys.readouterr().err
