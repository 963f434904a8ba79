"""`metergate operator`: the way in when the link is lost, also beside a running gateway."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.web.access import Access, BadCredentials, Scope
from gateway.web.store import FILE, OperatorStore

CONFIG = """
gateway = "gw1"
data_dir = "data"
key_file = "keys.json"
mqtt = {}
chain = {url = "http://127.0.0.1:1", chain_id = 1, asset = "0x1111111111111111111111111111111111111111",
         payouts = "0x2222222222222222222222222222222222222222"}
services = {water = {unit = "L", price = "1"}}
""".replace(",\n", ",")


class Home:
    """A configuration, and commands on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "metergate.toml"
        self.config.write_text(CONFIG, encoding="utf-8")

    def run(self, *arguments: str, password: str = "correct horse battery", code: int = 0) -> None:
        """Run a command."""
        file = self.directory / "password"
        file.write_text(f"{password}\n", encoding="utf-8")
        extra = ["--password-file", str(file)] if arguments[0] in ("add", "reset") else []
        assert main(["operator", *arguments, *extra, "--config", str(self.config)]) == code

    async def access(self) -> tuple[OperatorStore, Access]:
        """Return what the gateway would use."""
        (self.directory / "data").mkdir()
        store = OperatorStore(self.directory / "data")
        await store.open()
        return store, Access(store)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A site whose gateway has never run."""
    return Home(tmp_path)


def test_operators_and_tokens_come_and_go(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.run("add", "anna")
    home.run("add", "ben", "--scope", "read")
    home.run("reset", "ben", password="another password")
    home.run("token", "add", "grafana")
    secret = capsys.readouterr().out.splitlines()[-1]
    assert secret.startswith("mg_")
    home.run("list", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["operators"] == [{"name": "anna", "scope": "admin"}, {"name": "ben", "scope": "read"}]
    (token,) = told["tokens"]
    assert (token["name"], token["scope"]) == ("grafana", "read")
    home.run("token", "revoke", token["id"])
    home.run("remove", "anna")
    home.run("list")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["operator", "ben", "read"]
    assert (home.directory / "data" / FILE).stat().st_mode & 0o777 == 0o600


def test_each_of_them_for_a_program(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        home.run(*arguments, "--json")
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    assert told("add", "anna", "--scope", "operate") == {"name": "anna", "scope": "operate"}
    assert told("reset", "anna") == {"name": "anna", "scope": "operate"}
    token = told("token", "add", "grafana", "--scope", "read")
    assert (token["name"], token["scope"], token["token"][:3]) == ("grafana", "read", "mg_")
    assert told("list")["tokens"] == [{"id": token["id"], "name": "grafana", "scope": "read"}]
    assert told("token", "revoke", token["id"]) == {"id": token["id"], "revoked": True}
    assert told("remove", "anna") == {"name": "anna", "removed": True}


async def test_a_reset_ends_the_old_password(home: Home) -> None:
    store, access = await home.access()
    try:
        await access.put_operator("anna", "correct horse battery", Scope.ADMIN)
        secret, _ = await access.login("anna", "correct horse battery", "here")
        await access.put_operator("anna", "another password", Scope.ADMIN)
        assert await access.of_session(secret) is None
        with pytest.raises(BadCredentials):
            await access.login("anna", "correct horse battery", "here")
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("arguments", "password", "words"),
    [
        (("add", "anna"), "short", "10 to 256"),
        (("add", " anna"), "correct horse battery", "printable"),
        (("reset", "nobody"), "correct horse battery", "no operator"),
        (("remove", "nobody"), "", "no operator"),
        (("token", "revoke", "nothing"), "", "no token"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    home: Home, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], password: str, words: str
) -> None:
    home.run(*arguments, password=password, code=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
