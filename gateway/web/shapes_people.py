"""The answers about who asks and who may: sessions, operators, tokens, audit."""

from typing import Annotated

import msgspec
from msgspec import Meta


class _Shape(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all shapes."""


class SessionState(_Shape, frozen=True, kw_only=True):
    """Who asks. `via`: "session", "token", "demo" or "nobody"; `csrf` goes into X-CSRF-Token of every action.

    `relaxed`: what the demo does not ask for, in sentences. `setup_needed`: there is no operator yet.
    """

    name: str
    scope: str | None
    scopes: list[str]
    via: str
    csrf: str
    demo: bool
    relaxed: list[str]
    setup_needed: bool
    gateway: str


class Login(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name and password."""

    name: Annotated[str, Meta(max_length=256)]
    password: Annotated[str, Meta(max_length=1024)]


class SetupRequest(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The code of the set-up link, and the first operator's name and password."""

    code: Annotated[str, Meta(max_length=256)]
    name: Annotated[str, Meta(max_length=256)]
    password: Annotated[str, Meta(max_length=1024)]


ScopeName = Annotated[str, Meta(pattern="^(read|operate|admin)$")]


class NewOperator(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator to add, or whose password and scope to set."""

    name: Annotated[str, Meta(max_length=256)]
    password: Annotated[str, Meta(max_length=1024)]
    scope: ScopeName


class OperatorRow(_Shape, frozen=True, kw_only=True):
    """Somebody who may log in."""

    name: str
    scope: str
    created_at: int


class NewToken(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to make; `life_s` 0: until it is revoked."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    scope: ScopeName
    life_s: Annotated[int, Meta(ge=0, le=10 * 366 * 86_400)] = 0


class TokenRow(_Shape, frozen=True, kw_only=True):
    """A token; its secret is told once, when it is made. `expires_at` null: never; `used_at` null: not yet."""

    id: str
    name: str
    scope: str
    created_by: str
    created_at: int
    expires_at: int | None
    used_at: int | None


class MadeToken(_Shape, frozen=True, kw_only=True):
    """A new token with its secret."""

    token: TokenRow
    secret: str


class AuditRow(_Shape, frozen=True, kw_only=True):
    """One action. `outcome`: "done", "failed", or the code of the error."""

    id: int
    at: int
    who: str
    address: str
    action: str
    target: str
    outcome: str
