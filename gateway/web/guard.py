"""What every API request passes: who asks, may they, is it the same action again; and the note in the audit log."""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway.web.access import Access, BadCredentials, Caller, Scope, SlowDown
from gateway.web.endpoints import BODY_MAX, Asked, Endpoint, ErrorAnswer, ErrorBody, Problem, check_queries, decode_body
from gateway.web.store import StoredAnswer, TooMany
from settlement.errors import ChainRefused, ChainUnavailable

log = logging.getLogger("metergate.web")

COOKIE = "metergate_session"
CSRF_HEADER = "x-csrf-token"
_KEY = re.compile(r"[!-~]{1,128}")
# A body that trickles in holds a connection; 16 KiB arrive in far less on any line.
BODY_WAIT_S = 10.0


class Guard:
    """Lets requests in. `demo`: everybody on loopback operates without a login."""

    def __init__(self, access: Access, *, demo: bool, secure: bool) -> None:
        self.access = access
        self.demo = demo
        self.secure = secure
        self._acting: dict[tuple[str, str], asyncio.Lock] = {}

    def route(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of a route."""

        async def answer(request: Request) -> Response:
            try:
                caller = await self.caller(request)
                if endpoint.scope is not None:
                    allow(caller, endpoint.scope)
                if endpoint.action:
                    self._same_origin(request, caller)
                    return await self._act(endpoint, request, caller or _NOBODY)
                return await self._run(endpoint, request, caller or _NOBODY, b"")
            except Problem as problem:
                return problem_response(problem)
            except SlowDown as error:
                return problem_response(_slow(error))

        return answer

    async def caller(self, request: Request) -> Caller | None:
        """Return who asks, None for nobody known. Raises SlowDown for somebody who guesses tokens."""
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return await self.access.of_token(secret.strip(), address(request))
        cookie = request.cookies.get(COOKIE)
        if cookie:
            found = await self.access.of_session(cookie)
            if found is not None:
                return found
        return Caller("demo", Scope.ADMIN, "demo") if self.demo else None

    def _same_origin(self, request: Request, caller: Caller | None) -> None:
        """Refuse an action that another site's page makes a browser send."""
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            raise Problem(403, "foreign_origin", "this action comes from another site")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Problem(403, "foreign_origin", "this action comes from another site")
        if caller is not None and caller.via == "session" and request.headers.get(CSRF_HEADER) != caller.csrf:
            raise Problem(403, "csrf", f"an action of a browser carries the session's token in {CSRF_HEADER}")

    async def _act(self, endpoint: Endpoint, request: Request, caller: Caller) -> Response:
        raw = await read_body(request)
        key = request.headers.get("idempotency-key")
        if key is None or not endpoint.kept:
            return await self._audited(endpoint, request, caller, raw)
        if not _KEY.fullmatch(key):
            raise Problem(400, "bad_key", "an idempotency key has 1 to 128 printable characters without spaces")
        asked = hashlib.sha256(b"\0".join((request.method.encode(), request.url.path.encode(), raw))).digest()
        lock = self._acting.setdefault((caller.name, key), asyncio.Lock())
        try:
            async with lock:  # the same key twice at once: the second one waits for the first one's answer
                stored = await self.access.store.answer(caller.name, key)
                if stored is None:
                    response = await self._audited(endpoint, request, caller, raw)
                    if response.status_code < 500:
                        kept = StoredAnswer(asked, response.status_code, bytes(response.body))
                        await self.access.store.put_answer(caller.name, key, kept, int(time.time()))
                    return response
        finally:
            if not lock.locked():
                self._acting.pop((caller.name, key), None)
        if stored.request != asked:
            raise Problem(409, "key_reused", "this idempotency key was used for another request")
        return Response(stored.body, stored.status, {"idempotent-replay": "true"}, "application/json")

    async def _audited(self, endpoint: Endpoint, request: Request, caller: Caller, raw: bytes) -> Response:
        outcome = "failed"
        try:
            response = await self._run(endpoint, request, caller, raw)
            outcome = "done"
            return response
        except Problem as problem:
            outcome = problem.code
            return problem_response(problem)
        except SlowDown as error:
            outcome = "slow_down"
            return problem_response(_slow(error))
        finally:
            if endpoint.audited:
                action, target = f"{endpoint.method} {endpoint.path}", request.url.path[:256]
                await self.access.store.audit(int(time.time()), caller.name, address(request), action, target, outcome)

    async def _run(self, endpoint: Endpoint, request: Request, caller: Caller, raw: bytes) -> Response:
        check_queries(endpoint.queries, request.query_params)
        body = None if endpoint.body is None else decode_body(raw, endpoint.body)
        asked = Asked(request, caller, request.path_params, request.query_params, body)
        try:
            answer = await endpoint.handler(asked)
        except (ChainUnavailable, ChainRefused) as error:
            raise Problem(503, "chain_unavailable", str(error)) from error
        except BadCredentials as error:
            raise Problem(401, "bad_credentials", str(error)) from error
        except TooMany as error:
            raise Problem(409, "too_many", str(error)) from error
        if isinstance(answer, Response):
            return answer
        if answer is None:
            return Response(status_code=endpoint.status)
        return Response(msgspec.json.encode(answer), endpoint.status, media_type="application/json")


_NOBODY = Caller("nobody", Scope.READ, "nobody")


def allow(caller: Caller | None, scope: Scope) -> None:
    """Raise Problem unless this caller may do what needs `scope`."""
    if caller is None:
        raise Problem(401, "login_needed", "log in, or send a token", {"www-authenticate": "Bearer"})
    if not caller.scope.holds(scope):
        raise Problem(403, "scope", f"this needs the scope {scope.value}; {caller.name} has {caller.scope.value}")


async def read_body(request: Request) -> bytes:
    """Return the body. Raises Problem when it is too large, or comes too slowly."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_MAX:
                    raise Problem(413, "too_large", f"a request has at most {BODY_MAX} bytes")
    except TimeoutError:
        raise Problem(400, "too_slow", f"the body did not arrive within {BODY_WAIT_S:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "cut_off", "the request was cut off") from None
    return bytes(body)


def address(request: Request) -> str:
    """Return where a request comes from, for the audit log and the brake."""
    return request.client.host if request.client is not None else "unknown"


def problem_response(problem: Problem) -> Response:
    """Return a problem as an answer."""
    body = msgspec.to_builtins(ErrorAnswer(ErrorBody(problem.code, problem.message)))
    return JSONResponse(body, problem.status, dict(problem.headers))


def _slow(error: SlowDown) -> Problem:
    return Problem(429, "slow_down", str(error), {"retry-after": str(int(error.wait_s) + 1)})
