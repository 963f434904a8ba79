"""Who is asking, and what they may do: passwords, sessions, tokens, scopes, and a brake on guessing.

Three scopes, each holding the one before: read, operate, admin. A browser logs in and gets a session cookie; its
actions must carry the session's CSRF token. A program sends a bearer token. In demo mode, on loopback, everybody
is an operator without a login, and the dashboard says so.
"""

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.web.store import Operator, OperatorStore, Token, secret_hash

SESSION_IDLE_S = 12 * 3600
SESSION_LIFE_S = 7 * 86_400
# Noting every request would write to flash at each one.
SEEN_EVERY_S = 300

# Interactive strength (RFC 7914): 32 MiB and about a tenth of a second here, half a second on a Pi.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 1
PASSWORD_MIN, PASSWORD_MAX = 10, 256
NAME_MAX = 64

# A person mistypes a few times; a guesser gets ten tries in the first minute and one a minute after that.
TRIES_MAX = 10
TRY_BACK_S = 60.0
ADDRESSES_MAX = 4_096


class Scope(StrEnum):
    """What somebody may do; each holds those before it. Values are stored: never renamed."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def holds(self, needed: "Scope") -> bool:
        """Tell whether this scope is enough where `needed` is asked for."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was recognised. `csrf` is what a browser's actions must carry; empty for programs."""

    name: str
    scope: Scope
    via: str  # "session", "token", "demo"
    csrf: str = ""


class Brake:
    """Slows down guessing, per address and per name: a bucket of tries that fills up again slowly. Bounded."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tries left, as of when

    def wait_s(self, *keys: str) -> float:
        """Return how many seconds these keys must wait before the next try; 0 when they may try now."""
        return max((self._wait(key) for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        """Take one try from each."""
        for key in keys:
            self._buckets[key] = (self._left(key) - 1, time.monotonic())
            self._buckets.move_to_end(key)
        while len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)

    def succeeded(self, *keys: str) -> None:
        """Forget the failures of these keys."""
        for key in keys:
            self._buckets.pop(key, None)

    def _wait(self, key: str) -> float:
        return max(0.0, (1 - self._left(key)) * TRY_BACK_S)

    def _left(self, key: str) -> float:
        left, since = self._buckets.get(key, (float(TRIES_MAX), 0.0))
        return min(float(TRIES_MAX), left + (time.monotonic() - since) / TRY_BACK_S)


class BadCredentials(Exception):
    """Wrong name or password, or a weak new one; the words are for the user."""


class SlowDown(Exception):
    """Too many failed tries; `wait_s` says how long to wait."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many failed tries: wait {wait_s:.0f} s")
        self.wait_s = wait_s


class Access:
    """Recognises callers and manages who may call."""

    def __init__(self, store: OperatorStore) -> None:
        self.store = store
        self._brake = Brake()
        # One hash at a time: each takes 32 MiB, and guessers must not take a small box's memory.
        self._hashing = asyncio.Lock()

    # -- first run --

    async def setup_code(self) -> str | None:
        """Return a new one-time code that makes the first operator, or None when there is one already."""
        if await self.store.operators():
            return None
        code = secrets.token_urlsafe(24)
        await self.store.put_setup(secret_hash(code))
        return code

    async def setup(self, code: str, name: str, password: str, address: str) -> None:
        """Make the first operator, an admin. Raises BadCredentials or SlowDown."""
        self._may_try(address)
        _check_new(name, password)
        waiting = await self.store.setup_hash()
        if waiting is None or not hmac.compare_digest(waiting, secret_hash(code)):
            self._brake.failed(address)
            raise BadCredentials("this set-up link is not valid (any more)")
        operator = await self._operator(name, password, Scope.ADMIN)
        if not await self.store.take_setup(waiting):  # used up by somebody else meanwhile
            raise BadCredentials("this set-up link is not valid (any more)")
        await self.store.put_operator(operator)

    async def put_operator(self, name: str, password: str, scope: Scope) -> None:
        """Add an operator or set its password and scope. Raises BadCredentials or TooMany."""
        _check_new(name, password)
        await self.store.put_operator(await self._operator(name, password, scope))

    # -- sessions --

    async def login(self, name: str, password: str, address: str) -> tuple[str, Caller]:
        """Return (cookie secret, caller) of a new session. Raises BadCredentials or SlowDown."""
        keys = (f"address {address}", f"name {name[:NAME_MAX]}")
        self._may_try(*keys)
        operator = await self.store.operator(name) if len(name) <= NAME_MAX else None
        good = len(password) <= PASSWORD_MAX and await self._verify(operator, password)
        if operator is None or not good:
            self._brake.failed(*keys)
            raise BadCredentials("wrong name or password")
        self._brake.succeeded(*keys)
        secret, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        await self.store.put_session(secret, name, csrf, int(time.time()))
        return secret, Caller(name, Scope(operator.scope), "session", csrf)

    async def of_session(self, secret: str) -> Caller | None:
        """Return who a session cookie belongs to, or None when it has ended."""
        session = await self.store.session(secret)
        if session is None:
            return None
        now = int(time.time())
        if now - session.seen_at > SESSION_IDLE_S or now - session.created_at > SESSION_LIFE_S:
            await self.store.end_session(secret)
            return None
        if now - session.seen_at > SEEN_EVERY_S:
            await self.store.saw_session(secret, now)
        return Caller(session.operator, Scope(session.scope), "session", session.csrf)

    # -- tokens --

    async def new_token(self, name: str, scope: Scope, by: str, life_s: int = 0) -> tuple[str, Token]:
        """Make a token; its secret is returned here and never again. Raises TooMany."""
        now = int(time.time())
        secret = f"mg_{secrets.token_urlsafe(32)}"
        token = Token(secrets.token_hex(8), name, scope.value, by, now, now + life_s if life_s else 0, 0)
        await self.store.put_token(token, secret)
        return secret, token

    async def of_token(self, secret: str, address: str) -> Caller | None:
        """Return who a bearer token stands for, or None. Raises SlowDown for an address that guesses."""
        key = f"token {address}"
        self._may_try(key)
        token = await self.store.token(secret) if len(secret) <= 128 else None
        now = int(time.time())
        if token is None or (token.expires_at and now >= token.expires_at):
            self._brake.failed(key)
            return None
        if now - token.used_at > SEEN_EVERY_S:
            await self.store.saw_token(token.id, now)
        return Caller(f"token {token.name}", Scope(token.scope), "token")

    # -- inside --

    def _may_try(self, *keys: str) -> None:
        wait_s = self._brake.wait_s(*keys)
        if wait_s > 0:
            raise SlowDown(wait_s)

    async def _operator(self, name: str, password: str, scope: Scope) -> Operator:
        salt = secrets.token_bytes(16)
        async with self._hashing:
            hashed = await asyncio.to_thread(_scrypt(salt).derive, password.encode())
        return Operator(name, salt, hashed, scope.value, int(time.time()))

    async def _verify(self, operator: Operator | None, password: str) -> bool:
        """Check a password; an unknown name takes as long as a known one."""
        salt = operator.salt if operator else bytes(16)
        expected = operator.hash if operator else bytes(32)
        async with self._hashing:
            try:
                await asyncio.to_thread(_scrypt(salt).verify, password.encode(), expected)
            except InvalidKey:
                return False
        return operator is not None


def _scrypt(salt: bytes) -> Scrypt:
    return Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)


def _check_new(name: str, password: str) -> None:
    if not (0 < len(name) <= NAME_MAX and name.isprintable() and name == name.strip()):
        raise BadCredentials(f"a name has 1 to {NAME_MAX} printable characters")
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise BadCredentials(f"a password has {PASSWORD_MIN} to {PASSWORD_MAX} characters")
