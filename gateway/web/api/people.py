"""Who asks and who may: the session, the first set-up, operators, tokens and the audit log."""

import msgspec
from starlette.responses import Response

from gateway.web.access import Caller, Scope
from gateway.web.api.common import before, not_found
from gateway.web.desk import Desk
from gateway.web.endpoints import PAGING, Asked, Endpoint, Page, Problem
from gateway.web.guard import COOKIE, Guard, address
from gateway.web.shapes_people import (
    AuditRow,
    Login,
    MadeToken,
    NewOperator,
    NewToken,
    OperatorRow,
    SessionState,
    SetupRequest,
    TokenRow,
)
from gateway.web.store import Token

RELAXED = (
    "nobody has to log in: whoever reaches this page on this machine operates the demo",
    "every device with a deposit is let in without being enrolled",
    "readings need no signature of their own",
    "everything is gone when the demo ends",
)


class People:
    """The handlers of one gateway."""

    def __init__(self, desk: Desk, guard: Guard) -> None:
        self._desk = desk
        self._guard = guard
        self._access = guard.access

    def endpoints(self) -> list[Endpoint]:
        """Return the rows of this subject."""
        admin, tag = Scope.ADMIN, "access"
        return [
            Endpoint("GET", "/session", None, self.session, SessionState, "Who asks", tag, errors=(429,)),
            Endpoint("POST", "/session", None, self.login, SessionState, "Log in", tag, Login, kept=False,
                     errors=(401,)),
            Endpoint("DELETE", "/session", Scope.READ, self.logout, None, "Log out", tag, status=204, kept=False),
            Endpoint(
                "POST", "/setup", None, self.setup, SessionState, "Make the first operator", tag, SetupRequest,
                errors=(401,), kept=False,
            ),
            Endpoint("GET", "/operators", admin, self.operators, Page[OperatorRow], "List operators", tag),
            Endpoint(
                "POST", "/operators", admin, self.put_operator, OperatorRow, "Add or change an operator", tag,
                NewOperator, status=201, kept=False,
            ),
            Endpoint("DELETE", "/operators/{name}", admin, self.remove, None, "Remove an operator", tag, status=204),
            Endpoint("GET", "/tokens", admin, self.tokens, Page[TokenRow], "List tokens", tag),
            Endpoint(
                "POST", "/tokens", admin, self.new_token, MadeToken, "Make a token", tag, NewToken, status=201,
                kept=False,
            ),
            Endpoint("DELETE", "/tokens/{id}", admin, self.revoke, None, "Revoke a token", tag, status=204),
            Endpoint("GET", "/audit", admin, self.audit, Page[AuditRow], "Actions, newest first", tag, queries=PAGING),
        ]  # fmt: skip

    async def session(self, asked: Asked) -> SessionState:
        """Return who asks."""
        return await self._state(None if asked.caller.via == "nobody" else asked.caller)

    async def login(self, asked: Asked) -> Response:
        """Begin a session."""
        body: Login = asked.body
        return await self._logged_in(body.name, body.password, asked)

    async def setup(self, asked: Asked) -> Response:
        """Make the first operator and log in."""
        body: SetupRequest = asked.body
        await self._access.setup(body.code, body.name, body.password, address(asked.request))
        return await self._logged_in(body.name, body.password, asked)

    async def logout(self, asked: Asked) -> Response:
        """End the session."""
        cookie = asked.request.cookies.get(COOKIE)
        if cookie:
            await self._access.store.end_session(cookie)
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, path="/", secure=self._guard.secure, httponly=True, samesite="strict")
        return response

    async def operators(self, asked: Asked) -> Page[OperatorRow]:
        """List operators."""
        rows = [
            OperatorRow(name=each.name, scope=each.scope, created_at=each.created_at)
            for each in await self._access.store.operators()
        ]
        return Page(rows, None, len(rows))

    async def put_operator(self, asked: Asked) -> OperatorRow:
        """Add an operator, or set its password and scope."""
        body: NewOperator = asked.body
        await self._access.put_operator(body.name, body.password, Scope(body.scope))
        made = await self._access.store.operator(body.name)
        assert made is not None, "it was stored a moment ago"
        return OperatorRow(name=made.name, scope=made.scope, created_at=made.created_at)

    async def remove(self, asked: Asked) -> None:
        """Remove an operator, but never the last admin: nobody could let anybody in again."""
        name = asked.path["name"]
        known = {each.name: each.scope for each in await self._access.store.operators()}
        if name not in known:
            raise not_found("such operator")
        if [each for each, scope in known.items() if scope == Scope.ADMIN.value] == [name]:
            raise Problem(409, "last_admin", "the last admin cannot be removed: make another one first")
        await self._access.store.remove_operator(name)

    async def tokens(self, asked: Asked) -> Page[TokenRow]:
        """List tokens."""
        rows = [_token(each) for each in await self._access.store.tokens()]
        return Page(rows, None, len(rows))

    async def new_token(self, asked: Asked) -> MadeToken:
        """Make a token."""
        body: NewToken = asked.body
        if not body.name.isprintable():
            raise Problem(400, "bad_body", "the name of a token has printable characters")
        secret, token = await self._access.new_token(body.name, Scope(body.scope), asked.caller.name, body.life_s)
        return MadeToken(token=_token(token), secret=secret)

    async def revoke(self, asked: Asked) -> None:
        """Revoke a token."""
        if not await self._access.store.revoke_token(asked.path["id"]):
            raise not_found("such token")

    async def audit(self, asked: Asked) -> Page[AuditRow]:
        """Return actions, newest first."""
        limit = asked.limit()
        found = await self._access.store.audited(limit + 1, before(asked))
        rows = [
            AuditRow(
                id=each.id,
                at=each.at,
                who=each.who,
                address=each.address,
                action=each.action,
                target=each.target,
                outcome=each.outcome,
            )
            for each in found[:limit]
        ]
        return Page(rows, str(rows[-1].id) if len(found) > limit else None)

    # -- inside --

    async def _logged_in(self, name: str, password: str, asked: Asked) -> Response:
        old = asked.request.cookies.get(COOKIE)
        secret, caller = await self._access.login(name, password, address(asked.request))
        if old:  # a cookie that was there before the login never becomes a session, and an old session ends
            await self._access.store.end_session(old)
        response = json_response(await self._state(caller))
        response.set_cookie(COOKIE, secret, path="/", secure=self._guard.secure, httponly=True, samesite="strict")
        return response

    async def _state(self, caller: Caller | None) -> SessionState:
        demo = self._guard.demo
        return SessionState(
            name="" if caller is None else caller.name,
            scope=None if caller is None else caller.scope.value,
            scopes=[] if caller is None else [scope.value for scope in Scope if caller.scope.holds(scope)],
            via="nobody" if caller is None else caller.via,
            csrf="" if caller is None else caller.csrf,
            demo=demo,
            relaxed=list(RELAXED) if demo else [],
            setup_needed=not demo and not await self._access.store.operators(),
            gateway=self._desk.gateway.config.gateway,
        )


def json_response(value: object) -> Response:
    """Return a value as an answer that a handler adds headers to."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def _token(token: Token) -> TokenRow:
    return TokenRow(
        id=token.id,
        name=token.name,
        scope=token.scope,
        created_by=token.created_by,
        created_at=token.created_at,
        expires_at=token.expires_at or None,
        used_at=token.used_at or None,
    )
