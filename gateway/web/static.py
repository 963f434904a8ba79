"""The built front end: its files are listed once, so nothing else in the file system can be asked for."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

DIST = Path(__file__).parent / "dist"

# Paths of the single page; what is behind them is its own business.
PAGES = (
    "/",
    "/devices",
    "/devices/{device}",
    "/settlement",
    "/settlement/{cycle}",
    "/layer",
    "/events",
    "/repairs",
    "/enrolment",
    "/ledger",
    "/access",
    "/login",
    "/setup",
)
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".ico": "image/x-icon",
}
_MISSING = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Metergate</title></head>
<body><h1>The gateway runs</h1>
<p>The pages of the dashboard are not built here: <code>make setup</code> builds them.</p>
<p>The API is served all the same: <a href="/api/v1/openapi.json">/api/v1/openapi.json</a>,
<a href="/healthz">/healthz</a> and <a href="/metrics">/metrics</a>.</p></body></html>
"""


class FrontEnd:
    """The files of one build."""

    def __init__(self, directory: Path = DIST) -> None:
        self._files: dict[str, Path] = {}
        if (directory / "index.html").is_file():
            for path in directory.rglob("*"):
                if path.is_file() and path.suffix in _TYPES:
                    self._files["/" + path.relative_to(directory).as_posix()] = path

    @property
    def built(self) -> bool:
        """True when there is a front end to serve."""
        return bool(self._files)

    @property
    def paths(self) -> list[str]:
        """The files' paths, as they are asked for."""
        return [path for path in self._files if path != "/index.html"]

    async def page(self, request: Request) -> Response:
        """Return the page; it finds out from the path what to show."""
        if not self.built:
            return HTMLResponse(_MISSING, headers={"cache-control": "no-store"})
        return self._file(request, "/index.html", "no-cache")

    async def file(self, request: Request) -> Response:
        """Return a file of the build; those with a hash in their name never change."""
        path = request.url.path
        if path not in self._files:
            return PlainTextResponse("there is no such file\n", 404)
        immutable = path.startswith("/assets/")
        return self._file(request, path, "public, max-age=31536000, immutable" if immutable else "no-cache")

    def _file(self, request: Request, path: str, caching: str) -> Response:
        file = self._files[path]
        packed = file.with_name(f"{file.name}.gz")
        headers = {"cache-control": caching, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", "") and packed.is_file():
            file = packed
            headers["content-encoding"] = "gzip"
        return FileResponse(file, headers=headers, media_type=_TYPES[self._files[path].suffix])
