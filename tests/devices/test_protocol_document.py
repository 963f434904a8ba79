"""docs/protocol.md says what the code does."""

import json
import re
from pathlib import Path

import pytest

from channels import digests
from channels.pricing import charge
from channels.readings import SEQ_AHEAD_MAX
from channels.refusals import Refusal
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from devices import cbor_codec, messages, offers, registry
from devices.link import LinkSettings
from devices.topics import Topics

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def rows(first: str, last: str) -> list[list[str]]:
    """Return the cells of every table row between two headings."""
    part = TEXT[TEXT.index(first) : TEXT.index(last)]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


def test_every_refusal_has_its_number_and_name() -> None:
    found = dict(re.findall(r"\| (\d+) \| ([a-z_]+) \|", TEXT[TEXT.index("## 5.") : TEXT.index("## 6.")]))
    assert {int(number): name for number, name in found.items()} == {int(r): r.wire_name for r in Refusal}


def test_reading_refusals_are_listed_in_the_order_of_their_numbers() -> None:
    numbers = [
        int(row[0]) for row in rows("### Readings, in this order", "### `close`, in this order") if row[0].isdigit()
    ]
    assert numbers == list(range(1, 20))


def test_refusals_of_a_close_are_listed_in_the_order_of_the_checks() -> None:
    found = [int(row[1]) for row in rows("### `close`, in this order", "### `open`, in this order") if row[1].isdigit()]
    assert found == [3, 4, 5, 6, 7, 8, 9, 20]


@pytest.mark.parametrize("refusal", Refusal)
def test_what_is_transient(refusal: Refusal) -> None:
    lines = [line for line in TEXT.splitlines() if f"| {int(refusal)} | {refusal.wire_name} |" in line]
    assert any("transient" in line for line in lines) is refusal.transient


def test_the_field_table_has_the_codecs_keys() -> None:
    table = {int(row[0]): row[1] for row in rows("### 3.7", "Which fields") if row[0].isdigit()}
    assert sorted(table) == list(range(1, 22))
    keys = {
        "seq": cbor_codec.SEQ,
        "register": cbor_codec.REGISTER,
        "time": cbor_codec.TIME,
        "offer": cbor_codec.OFFER,
        "maxClaimableAmount": cbor_codec.CEILING,
        "signature": cbor_codec.SIGNATURE,
        "status": cbor_codec.STATUS,
        "reason": cbor_codec.REASON,
        "balance": cbor_codec.BALANCE,
        "requiredCeiling": cbor_codec.REQUIRED_CEILING,
        "commit": cbor_codec.COMMIT,
        "readingSignature": cbor_codec.READING_SIGNATURE,
        "answers": cbor_codec.ANSWERS,
        "lastSeq": cbor_codec.LAST_SEQ,
        "lastRegister": cbor_codec.LAST_REGISTER,
        "lastRemainder": cbor_codec.LAST_REMAINDER,
        "lastOffer": cbor_codec.LAST_OFFER,
        "offset": cbor_codec.OFFSET,
        "refunded": cbor_codec.REFUNDED,
    }
    assert {name: table[number] for name, number in keys.items()} == {name: name for name in keys}
    assert "channelId" in table[cbor_codec.ID]
    assert "chargedCumulativeAmount" in table[cbor_codec.CUMULATIVE]


@pytest.mark.parametrize(
    "type_hash",
    [
        digests.VOUCHER_TYPE,
        digests.CLAIM_ENTRY_TYPE,
        digests.REFUND_TYPE,
        digests.RECEIVE_AUTHORIZATION_TYPE,
        digests.OPEN_TYPE,
        digests.READING_TYPE,
        digests.CLOSE_TYPE,
        digests.EARNER_TYPE,
        digests.CHANNEL_CONFIG_TYPE,
        digests.DOMAIN_TYPE,
    ],
)
def test_every_signed_type_is_spelled_out(type_hash: bytes) -> None:
    spelled = re.findall(r"[A-Z]\w+\([a-z]\w+ \w+(?:,\s*[a-z]\w+ \w+)*\)", TEXT)
    assert type_hash in {digests.keccak(re.sub(r",\s+", ",", each).encode()) for each in spelled}


def test_addresses_and_topics() -> None:
    for address in (SETTLEMENT_ADDRESS, COLLECTOR_ADDRESS):
        assert "0x" + address.hex() in TEXT.lower()
    topics = Topics("{gateway}".strip("{}"))
    for topic in (
        topics.offer,
        topics.gateway_state,
        *(topics.topic("device", leaf) for leaf in ("usage", "earn", "open", "close")),
    ):
        written = topic.replace("/gateway/", "/{gateway}/").replace("/device/", "/{device}/")
        assert f"`{written}`" in TEXT


def test_limits() -> None:
    limits = {row[0]: row[1] for row in rows("## 9. Limits", "| MQTT 5 packets")}
    assert limits["message payload"] == f"{messages.PAYLOAD_MAX:,} bytes"
    assert limits["nesting"] == str(messages.DEPTH_MAX)
    assert limits["offer payload"] == (
        f"{offers.OFFER_MAX:,} bytes, {offers.SERVICES_MAX} services, {offers.LANES_MAX} lanes"
    )
    assert f"{messages.TEXT_MAX} bytes of UTF-8" in limits.values()
    assert SEQ_AHEAD_MAX == 2**20
    assert {
        registry.CHANNELS_PER_DEVICE_MAX,
        registry.ACCOUNTS_PER_DEVICE_MAX,
        registry.PAYERS_PER_DEVICE_MAX,
    } == {16}
    assert LinkSettings("g").packet_max == 2**20


def test_the_example_of_pricing() -> None:
    assert charge(0, 1_234 - 1_000, 150_000_000_000) == (35_100, 0)
    remainder, steps = 0, []
    for _ in range(4):
        added, remainder = charge(remainder, 1, 333_333_333)
        steps.append((added, remainder))
    assert steps == [(0, 333_333_333), (0, 666_666_666), (0, 999_999_999), (1, 333_333_332)]


def test_json_examples_are_json() -> None:
    blocks = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    assert all(isinstance(json.loads(block), dict) for block in blocks)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (Path(__file__).resolve().parents[2] / "docs" / target).exists(), target
