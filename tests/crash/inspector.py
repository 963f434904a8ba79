"""What must hold after every restart, read from the journal's file, from the chain and from the gateway itself."""

import http.client
import json
import socket
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

import cbor2

from tests.crash.fleet import Fleet
from tests.crash.site import FEE_BASIS_POINTS, Site
from tests.support.demo_process import METERGATE, ROOT
from tests.support.gateway_devices import Earner, Payer
from tests.support.proof_books import ProofBooks

ASK_S = 30.0


class Control:
    """The gateway's control socket, spoken to without the gateway's own client."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    @property
    def ready(self) -> bool:
        """True while somebody listens there."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(self._path)
            except OSError:
                return False
        return True

    def ask(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """Return (status, answer). Raises OSError or HTTPException when the gateway dies meanwhile."""
        connection = http.client.HTTPConnection("metergate", timeout=ASK_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(ASK_S)
        try:
            connection.sock.connect(self._path)
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


class JournalReader:
    """Reads the journal's file with nothing but SQLite, CRC-32 and CBOR, each commit once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last = 0
        self.tags: Counter[str] = Counter()
        self.readings: dict[tuple[bytes, int], tuple[int, int]] = {}  # (id, seq): (commit, cumulative)

    def read(self) -> list[str]:
        """Read what is new; returns what is wrong with it."""
        if not self._path.exists():
            return []
        found = []
        db = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)
        try:
            rows = db.execute("SELECT number, body FROM commits WHERE number > ? ORDER BY number", (self.last,))
            for number, sealed in rows:
                if number != self.last + 1:
                    found.append(f"the journal lacks commit {self.last + 1}")
                self.last = number
                if crc32(sealed[4:]).to_bytes(4, "big") != sealed[:4]:
                    found.append(f"commit {number} is damaged")
                    continue
                for record in cbor2.loads(sealed[4:]):
                    found += self._take(number, record)
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):  # killed before its first migration
                raise
        finally:
            db.close()
        return found

    def _take(self, number: int, record: list[Any]) -> list[str]:
        tag = record[0]
        self.tags[tag] += 1
        if tag not in ("r", "e"):
            return []
        cumulative = record[9] if tag == "r" else record[8]
        key = (record[1], record[2])
        again = self.readings.get(key)
        self.readings[key] = (number, cumulative)
        return [] if again is None else [f"reading {key[1]} of 0x{key[0].hex()} is in commits {again[0]} and {number}"]


class Inspector:
    """Holds one site's gateway to what its devices and its chain know."""

    def __init__(self, site: Site, fleet: Fleet) -> None:
        self._site = site
        self._fleet = fleet
        self.control = Control(site.data / "control.sock")
        self.journal = JournalReader(site.data / "journal.sqlite")
        self.books = ProofBooks(site.observer, site.keys.treasury.address, FEE_BASIS_POINTS)
        self._checked = 0  # accepted readings found in the journal

    def add(self, body: Payer | Earner) -> None:
        """Let the auditor know of a device."""
        if isinstance(body, Payer):
            self.books.payers.append(body)
        else:
            self.books.earners.append(body)

    def nothing_lost(self) -> list[str]:
        """Every receipt that a device holds is in the journal, in the commit that it names."""
        with self._fleet.lock:
            accepted = list(self._fleet.accepted)
        found = self.journal.read()
        for each in accepted[self._checked :]:
            kept = self.journal.readings.get((each.identifier, each.seq))
            if kept is None:
                found.append(f"reading {each.seq} of 0x{each.identifier.hex()} was receipted and is not in the journal")
            elif kept != (each.commit, each.cumulative):
                found.append(f"reading {each.seq} of 0x{each.identifier.hex()}: {each} and {kept} in the journal")
        self._checked = len(accepted)
        return found

    def nothing_twice(self) -> list[str]:
        """Nothing was claimed or paid on the chain beyond what the meters say."""
        flows = self._site.observer.flows()
        found = self.books.views(flows)
        with self._fleet.lock:
            self.books.unanswered = self._fleet.unanswered()
            return found + self.books.beyond(flows)

    def balanced(self) -> list[str]:
        """The gateway's own proof of its books against the chain; nothing while it cannot be given."""
        status, answer = self.control.ask("GET", "/v1/books")
        return list(answer["faults"]) if status == 200 else []

    def unsettled(self) -> list[str]:
        """Return where the chain is not yet what every receipt says."""
        with self._fleet.lock:
            return self.books.unsettled()

    def ledger_checked(self) -> list[str]:
        """`metergate ledger --check` says that the books hold, to the unit."""
        command = [*METERGATE, "ledger", "--check", "--config", str(self._site.config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        return [] if done.returncode == 0 else [f"ledger --check: {done.returncode}\n{done.stdout}{done.stderr}"]
