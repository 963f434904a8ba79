"""The programs of docs/devices.md make what the golden vectors say."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")

_MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
static uint8_t *unhex(const char *s) {
    size_t n = strlen(s) / 2;
    uint8_t *to = malloc(n + 1);
    for (size_t i = 0; i < n; i++) { unsigned v; sscanf(s + 2 * i, "%2x", &v); to[i] = (uint8_t)v; }
    return to;
}
static void show(const uint8_t *s, size_t n) { for (size_t i = 0; i < n; i++) printf("%02x", s[i]); printf("\n"); }
int main(int n, char **a) {
    uint8_t out[256], domain[32];
    if (a[1][0] == 'k') {
        keccak256(unhex(a[2]), strlen(a[2]) / 2, out);
        show(out, 32);
    } else if (a[1][0] == 'v') {
        settlement_domain(strtoull(a[2], 0, 10), unhex(a[3]), domain);
        voucher_digest(domain, unhex(a[4]), strtoull(a[5], 0, 10), out);
        show(out, 32);
    } else {
        show(out, usage_message(out, unhex(a[2]), strtoull(a[3], 0, 10), strtoull(a[4], 0, 10), strtoull(a[5], 0, 10),
                                unhex(a[6]), strtoull(a[7], 0, 10), unhex(a[8]), n > 9 ? unhex(a[9]) : 0));
    }
    return 0;
}
"""


def _cases(file: str, kind: str) -> list[dict[str, Any]]:
    document = json.loads((ROOT / "tests/vectors" / file).read_text())
    setting = {name: document["setting"][name] for name in ("chainId", "settlement")}
    return [setting | case["input"] | {"case": case} for case in document["cases"] if case["kind"] == kind]


def _program(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


class InC:
    def __init__(self, directory: Path) -> None:
        source, self.program = directory / "device.c", directory / "device"
        source.write_text(_program("c") + _MAIN)
        subprocess.run(
            ["cc", "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined,address",
             "-fno-sanitize-recover", str(source), "-o", str(self.program)], check=True,
        )  # fmt: skip

    def _run(self, *arguments: object) -> bytes:
        texts = [each.hex() if isinstance(each, bytes) else str(each) for each in arguments]
        environment = {"ASAN_OPTIONS": "detect_leaks=0"}
        done = subprocess.run([self.program, *texts], check=True, capture_output=True, text=True, env=environment)
        return bytes.fromhex(done.stdout)

    def keccak(self, data: bytes) -> bytes:
        return self._run("k", data)

    def voucher(self, chain_id: int, contract: bytes, channel: bytes, ceiling: int) -> bytes:
        return self._run("v", chain_id, contract, channel, ceiling)

    def usage(self, *arguments: Any) -> bytes:
        return self._run("u", *(each for each in arguments if each is not None))


class InPython:
    def __init__(self, directory: Path) -> None:
        self.names: dict[str, Any] = {}
        exec(_program("python"), self.names)

    def keccak(self, data: bytes) -> bytes:
        return bytes(self.names["keccak256"](data))

    def voucher(self, chain_id: int, contract: bytes, channel: bytes, ceiling: int) -> bytes:
        domain = self.names["settlement_domain"](chain_id, contract)
        return bytes(self.names["voucher_digest"](domain, channel, ceiling))

    def usage(self, *arguments: Any) -> bytes:
        return bytes(self.names["usage_message"](*arguments))


@pytest.fixture(scope="module", params=[InC, InPython], ids=["C", "MicroPython"])
def firmware(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    make: Callable[[Path], Any] = request.param
    return make(tmp_path_factory.mktemp("firmware"))


def test_keccak(firmware: Any) -> None:
    from channels.digests import keccak

    for size in (0, 1, 7, 135, 136, 137, 271, 272, 273, 1000):
        data = bytes(each % 251 for each in range(size))
        assert firmware.keccak(data) == keccak(data), size


def test_the_voucher_is_the_vectors(firmware: Any) -> None:
    checked = 0
    for case in _cases("digests.json", "voucher"):
        if int(case["maxClaimableAmount"]) < 2**64:
            contract, channel = (bytes.fromhex(case[name][2:]) for name in ("settlement", "channelId"))
            made = firmware.voucher(case["chainId"], contract, channel, int(case["maxClaimableAmount"]))
            assert made.hex() == case["case"]["digest"][2:], case["case"]["name"]
            checked += 1
    assert checked


def test_the_message_is_the_vectors(firmware: Any) -> None:
    checked = 0
    for case in _cases("readings.json", "usage"):
        if case["case"]["cbor"] is None or int(case["maxClaimableAmount"]) >= 2**64:
            continue
        payload = bytes.fromhex(case["case"]["cbor"][2:])
        if payload[0] not in (0xA7, 0xA8) or payload[1] != 1 or cbor2.dumps(cbor2.loads(payload)) != payload:
            continue  # what a gateway reads too: another order, longer integers, fields that nobody knows
        raw = {name: bytes.fromhex(case[name][2:]) for name in ("channelId", "offer", "signature")}
        reading = case.get("readingSignature")
        made = firmware.usage(
            raw["channelId"], int(case["seq"]), int(case["register"]), int(case["time"]), raw["offer"],
            int(case["maxClaimableAmount"]), raw["signature"], None if reading is None else bytes.fromhex(reading[2:]),
        )  # fmt: skip
        assert made.hex() == case["case"]["cbor"][2:], case["case"]["name"]
        checked += 1
    assert checked > 1
