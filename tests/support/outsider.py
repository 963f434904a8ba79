"""A device of somebody else: written from docs/protocol.md alone, in plain Python.

It speaks MQTT with paho, signs with eth-account, and imports nothing of this project. It keeps what a meter keeps
(seq, register, exact amount, last ceiling) and can lose it.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import cbor2
from eth_account.signers.local import LocalAccount

from tests.support.outsider_link import GATEWAY, Connection, answers_of
from tests.support.outsider_signing import Chain, Config, address, checked_offer, key, recover, sign
from tests.support.outsider_wire import cbor_reading, json_reading, plain

BARE = {"status", "reason", "answers"}
ABOUT_UNKNOWN = BARE | {"id", "seq"}
ABOUT_CHANNEL = {
    "id", "seq", "maxClaimableAmount", "status", "cumulative", "balance", "commit", "answers", "lastSeq",
    "lastRegister", "lastRemainder", "lastOffer", "offset",
}  # fmt: skip
ABOUT_ACCOUNT = ABOUT_CHANNEL - {"maxClaimableAmount", "balance"}
STATE = {
    "maxClaimableAmount", "signature", "cumulative", "balance", "lastSeq", "lastRegister", "lastRemainder",
    "lastOffer", "offset",
}  # fmt: skip


@dataclass(slots=True)
class Book:
    """What a meter keeps about one channel or account."""

    id: bytes
    service: str
    price: int
    start: int = 0  # amount at the opening
    exact: int = 0  # since then, in 10⁻⁹ base units
    seq: int = 0
    register: int = 0
    ceiling: int = 0
    signature: bytes | None = None
    offset: int = 0
    balance: int = 0
    offer: bytes = b""

    @property
    def cumulative(self) -> int:
        """What was charged or earned, in base units."""
        return self.start + self.exact // 10**9

    def owed_after(self, units: int) -> int:
        """Return the tight ceiling of a reading that comes next."""
        return self.start + (self.exact + units * self.price) // 10**9 - self.offset

    def take(self, units: int, seq: int, ceiling: int, signature: bytes | None, offer: bytes) -> None:
        """Note an accepted reading."""
        self.exact += units * self.price
        self.register += units
        self.seq = seq
        self.offer = offer
        if ceiling > self.ceiling:
            self.ceiling, self.signature = ceiling, signature


@dataclass(slots=True)
class Outsider:
    """A device with a payer, an authorizer for vouchers and a meter key of its own."""

    connection: Connection
    payer: LocalAccount
    encoding: str = "json"
    sign_readings: bool = False
    clock: Callable[[], float] = time.time
    authorizer: LocalAccount = field(init=False)
    offer: dict[str, Any] = field(init=False)
    chain: Chain = field(init=False)
    config: Config = field(init=False)
    book: Book = field(init=False)
    _salts: int = 0

    def __post_init__(self) -> None:
        self.authorizer = key("authorizer", self.connection.device)
        self.take_offer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    @property
    def device(self) -> str:
        """Our name on the broker."""
        return self.connection.device

    def take_offer(self) -> None:
        """Read, check and adopt the newest offer."""
        self.offer = checked_offer(self.connection.newest_offer())
        self.chain = Chain.of(self.offer)

    @property
    def offer_id(self) -> bytes:
        """Id of the offer that we price under."""
        return bytes.fromhex(self.offer["id"][2:])

    def salt(self) -> bytes:
        """Return 32 bytes that we have not used yet."""
        self._salts += 1
        return hashlib.sha256(f"{self.device} {self._salts}".encode()).digest()

    # -- opening --

    def lane(self) -> bytes:
        """Return the receiver that the offer gives to our payer."""
        lanes = self.offer["lanes"]
        chosen = lanes[int.from_bytes(address(self.payer), "big") % len(lanes)]["payTo"]
        return bytes.fromhex(chosen[2:])

    def new_config(self, **changes: Any) -> Config:
        """Return the configuration of a new channel, with members replaced."""
        members = {
            "payer": address(self.payer),
            "payerAuthorizer": address(self.authorizer),
            "receiver": self.lane(),
            "receiverAuthorizer": bytes.fromhex(self.offer["receiverAuthorizer"][2:]),
            "token": bytes.fromhex(self.offer["asset"][2:]),
            "withdrawDelay": self.offer["withdrawDelay"],
            "salt": self.salt(),
        }
        return Config(**{**members, **changes})

    def deposit(self, config: Config, amount: int, **changes: Any) -> dict[str, Any]:
        """Return the `deposit` of an open; `changes` are valid_after, valid_before, salt and signer."""
        signer = changes.pop("signer", self.payer)
        signed_amount = changes.pop("signed_amount", amount)
        times = {"valid_after": 0, "valid_before": int(self.clock()) + 3_600, "salt": self.salt(), **changes}
        what = self.chain.deposit(config, signed_amount, **times)
        authorization = {
            "validAfter": times["valid_after"],
            "validBefore": times["valid_before"],
            "salt": times["salt"],
            "signature": sign(signer, what),
        }
        return {"amount": amount, "authorization": {"erc3009Authorization": authorization}}

    def opening(
        self, config: Config, amount: int, *, service: str = "grid-power", bound: bool = False, **changes: Any
    ) -> dict[str, Any]:
        """Return the members of an `open`; `changes` are `register`, `offer` and those of `deposit`."""
        message: dict[str, Any] = {"channelConfig": config.values(), "service": service}
        for name in ("register", "offer"):
            if name in changes:
                message[name] = changes.pop(name)
        message["deposit"] = self.deposit(config, amount, **changes)
        if bound:
            message["binding"] = self.binding(config, service, message.get("register", 0))
        return message

    def binding(self, config: Config, service: str, register: int) -> bytes:
        """Return our authorizer's signature that this device may meter the channel."""
        channel = self.chain.channel_id(config)
        return sign(self.authorizer, self.chain.binding(channel, GATEWAY, self.device, service, register))

    def encoded(self, message: dict[str, Any]) -> bytes:
        """Write an `open` in our encoding; in CBOR it has string keys."""
        if self.encoding == "cbor":
            return cbor2.dumps(message)
        return json_text(plain(message))

    def open(self, amount: int, **options: Any) -> dict[str, Any]:
        """Open a new channel with a deposit and return the receipt; the book is fresh when it was accepted."""
        config = self.new_config()
        message = self.opening(config, amount, **options)
        receipt = self.connection.ask("open", self.encoded(message))
        if receipt["status"] == "accepted":
            self.config = config
            self.book = Book(
                self.chain.channel_id(config),
                message["service"],
                int(self.offer["services"][message["service"]]["price"]),
                register=message.get("register", 0),
                balance=receipt["balance"],
                offer=message.get("offer", self.offer_id),
            )
        return receipt

    def top_up(self, amount: int) -> dict[str, Any]:
        """Add a deposit to our channel and return the receipt."""
        receipt = self.connection.ask(
            "open", self.encoded(self.opening(self.config, amount, service=self.book.service))
        )
        if receipt["status"] == "accepted":
            self.book.balance = receipt["balance"]
        return receipt

    def earner(self, payee: LocalAccount, meter: LocalAccount, service: str, **changes: Any) -> dict[str, Any]:
        """Return the members of an `open` of an earner account."""
        salt = changes.pop("salt", self.salt())
        account = self.chain.account_id(GATEWAY, self.device, service, address(payee), address(meter), salt)
        signature = sign(changes.pop("signer", payee), account)
        members = {"payee": address(payee), "meterKey": address(meter), "salt": salt, "signature": signature}
        return {"service": service, "earner": members, **changes}

    def open_earner(
        self, payee: LocalAccount, meter: LocalAccount, service: str = "solar-export", register: int = 0
    ) -> dict[str, Any]:
        """Open an earner account and return the receipt; the book is the account's."""
        message = self.earner(payee, meter, service, register=register)
        salt = message["earner"]["salt"]
        receipt = self.connection.ask("open", self.encoded(message))
        account = self.chain.account_id(GATEWAY, self.device, service, address(payee), address(meter), salt)
        price = int(self.offer["services"][service]["price"])
        self.authorizer = meter
        self.book = Book(account, service, price, register=register, offer=self.offer_id)
        return receipt

    # -- readings --

    def usage(self, units: int, *, ahead: int = 0, **changes: Any) -> dict[str, Any]:
        """Return the fields of the next paying reading with a tight voucher, `ahead` above it, members replaced."""
        fields = self._reading(units, changes)
        fields["maxClaimableAmount"] = changes.pop("maxClaimableAmount", self.book.owed_after(units) + ahead)
        signed = changes.pop("signed_ceiling", fields["maxClaimableAmount"])
        signer = changes.pop("signer", self.authorizer)
        fields["signature"] = sign(signer, self.chain.voucher(fields["id"], signed))
        if self.sign_readings:
            fields["readingSignature"] = self._reading_signature(fields, fields["maxClaimableAmount"])
        return {**fields, **changes}

    def earning(self, units: int, **changes: Any) -> dict[str, Any]:
        """Return the fields of the next earning reading, members replaced."""
        fields = self._reading(units, changes)
        signer = changes.pop("signer", self.authorizer)
        fields["readingSignature"] = self._reading_signature(fields, 0, signer)
        return {**fields, **changes}

    def _reading(self, units: int, changes: dict[str, Any]) -> dict[str, Any]:
        fields = {
            "id": self.book.id,
            "seq": self.book.seq + 1,
            "register": self.book.register + units,
            "time": int(self.clock() * 1000),
            "offer": self.offer_id,
        }
        return {name: changes.pop(name, value) for name, value in fields.items()}

    def _reading_signature(self, fields: dict[str, Any], ceiling: int, signer: LocalAccount | None = None) -> bytes:
        members = [fields[name] for name in ("id", "seq", "register", "time", "offer")]
        return sign(signer or self.authorizer, self.chain.reading(*members, ceiling))

    def written(self, leaf: str, fields: dict[str, Any]) -> bytes:
        """Write a reading in our encoding."""
        return cbor_reading(fields) if self.encoding == "cbor" else json_reading(leaf, fields)

    def send(self, leaf: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Publish a reading and return its receipt."""
        return self.connection.ask(leaf, self.written(leaf, fields))

    def pay(self, units: int, *, ahead: int = 0, **changes: Any) -> dict[str, Any]:
        """Send the next paying reading, and note it when it was accepted."""
        fields = self.usage(units, ahead=ahead, **changes)
        receipt = self.send("usage", fields)
        if receipt["status"] == "accepted":
            self.book.take(units, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
            self.book.offset = receipt["offset"]
        return receipt

    def earn(self, units: int, **changes: Any) -> dict[str, Any]:
        """Send the next earning reading, and note it when it was accepted."""
        fields = self.earning(units, **changes)
        receipt = self.send("earn", fields)
        if receipt["status"] == "accepted":
            self.book.take(units, fields["seq"], 0, None, fields["offer"])
            self.book.offset = receipt["offset"]
        return receipt

    # -- closing --

    def closing(self, **changes: Any) -> bytes:
        """Return the next `close` in our encoding, members replaced; `signer` and `signed_device` change what signs."""
        seq = changes.pop("seq", self.book.seq + 1)
        signed = self.chain.closing(self.book.id, GATEWAY, changes.pop("signed_device", self.device), seq)
        message = {
            "channelId": self.book.id,
            "seq": seq,
            "signature": sign(changes.pop("signer", self.authorizer), signed),
        }
        message |= changes
        if self.encoding == "cbor":
            return cbor2.dumps(message)
        return json_text(
            {name: "0x" + value.hex() if isinstance(value, bytes) else value for name, value in message.items()}
        )

    def close(self, **changes: Any) -> dict[str, Any]:
        """Close our channel and return the receipt, which comes when claim and refund are final."""
        receipt = self.connection.ask("close", self.closing(**changes))
        if receipt["status"] == "accepted":
            self.book.seq, self.book.balance = receipt["seq"], receipt["balance"]
        return receipt

    def reopen(self, amount: int) -> dict[str, Any]:
        """Open the very same channel again with a new deposit."""
        return self.top_up(amount)

    def expected(self) -> dict[str, Any]:
        """Return the state that the gateway must have of our channel: what our own book says."""
        book = self.book
        state = {
            "maxClaimableAmount": book.ceiling,
            "cumulative": book.cumulative,
            "balance": book.balance,
            "lastSeq": book.seq,
            "lastRegister": book.register,
            "lastRemainder": book.exact % 10**9,
            "lastOffer": book.offer,
            "offset": book.offset,
        }
        return state if book.signature is None else {**state, "signature": book.signature}

    def probe(self) -> dict[str, Any]:
        """Return the state that the gateway has of our channel: a voucher of a stranger changes nothing."""
        receipt = self.send("usage", self.usage(0, signer=key("a stranger")))
        assert receipt["reason"] == "bad_signature", receipt
        return {name: receipt[name] for name in sorted(STATE & receipt.keys())}

    def forget(self) -> None:
        """Lose all but keys and configuration, as after a broken flash."""
        self.book = Book(self.book.id, self.book.service, self.book.price, offer=self.offer_id)

    def adopt(self, receipt: dict[str, Any]) -> None:
        """Take up the state in a receipt, as docs/protocol.md 3 allows: only with our own voucher for it."""
        signer = recover(self.chain.voucher(self.book.id, receipt["maxClaimableAmount"]), receipt["signature"])
        if signer != address(self.authorizer):
            raise ValueError("the ceiling in the receipt is not signed by us")
        if receipt["cumulative"] - receipt["offset"] > receipt["maxClaimableAmount"]:
            raise ValueError("the gateway charges more than we have ever signed")
        book = self.book
        book.start, book.exact = receipt["cumulative"], receipt["lastRemainder"]
        book.seq, book.register = receipt["lastSeq"], receipt["lastRegister"]
        book.ceiling, book.signature = receipt["maxClaimableAmount"], receipt["signature"]
        book.offset, book.balance, book.offer = receipt["offset"], receipt["balance"], receipt["lastOffer"]


def json_text(value: Any) -> bytes:
    """Return JSON that begins with `{`."""
    return json.dumps(value).encode()


def checked(receipt: dict[str, Any], device: Outsider, seq: int, payload: bytes | None = None) -> dict[str, Any]:
    """Check every field of an accepted receipt about a channel or account against what the device knows."""
    book = device.book
    account = "accountId" in receipt["names"] or not hasattr(device, "config")
    fields = ABOUT_ACCOUNT if account else ABOUT_CHANNEL | ({"signature"} if book.signature else set())
    assert set(receipt) - {"encoding", "names"} == fields, receipt
    assert receipt["encoding"] == device.encoding
    assert (receipt["id"], receipt["seq"], receipt["status"]) == (book.id, seq, "accepted"), receipt
    assert receipt["commit"] > 0
    assert receipt["cumulative"] == book.cumulative, receipt
    last = (receipt["lastSeq"], receipt["lastRegister"], receipt["lastRemainder"], receipt["lastOffer"])
    assert last == (book.seq, book.register, book.exact % 10**9, book.offer), receipt
    assert receipt["offset"] == book.offset
    if not account:
        assert receipt["balance"] == book.balance
        assert (receipt["maxClaimableAmount"], receipt.get("signature")) == (book.ceiling, book.signature), receipt
    if payload is not None:
        assert receipt["answers"] == answers_of(payload)
    return receipt
