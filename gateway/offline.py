"""The books of a gateway that does not run: opened under its lock, changed only through the journal."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from channels.types import SETTLEMENT_ADDRESS
from devices.registry import Registry
from gateway.books import Books
from gateway.config import Config
from gateway.data_dir import lock_data_dir
from gateway.enrolment import BadRequest, add_device, parse_device
from gateway.errors import SetupError
from gateway.journal import Journal
from gateway.ledger import Ledger
from gateway.service import fill_registry
from gateway.terms import TermsBook
from gateway.watcher import Watcher
from settlement.port import ExecutionLayer


class OfflineBooks:
    """A context in which the books of a stopped gateway are open. Raises SetupError while it runs."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __enter__(self) -> "OfflineBooks":
        self._lock = lock_data_dir(Path(self._config.data_dir))
        self.books = Books(Journal(Path(self._config.data_dir) / "journal.sqlite"))
        self.terms = TermsBook(self._config.offer.withdraw_delay, self._config.withdraw_margin_s)
        self.books.replay(self.terms.terms_then, self.terms.observe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the states in memory are not trusted: the journal alone says what happened.
        asyncio.run(self.books.close() if kind is None else self.books.journal.close())
        os.close(self._lock)

    @property
    def ledger(self) -> Ledger:
        """The states as of the last commit."""
        return self.books.ledger

    def watcher(self, layer: ExecutionLayer) -> Watcher:
        """Return what brings these books up to the chain; the journal must have been founded."""
        founded, chain = self.ledger.founded, self._config.chain
        assert founded is not None, "asked for after a first run"
        return Watcher(
            self.books,
            layer,
            founded.token,
            founded.lanes,
            frozenset((founded.treasury, *founded.lanes)),
            settlement=SETTLEMENT_ADDRESS,
            confirmations=chain.confirmations,
            poll_s=chain.poll_ms / 1000,
        )

    def add_device(self, body: Mapping[str, Any]) -> None:
        """Enrol a device. Raises SetupError for what cannot be."""
        registry = Registry()
        fill_registry(registry, self.ledger)
        try:
            asyncio.run(add_device(self.books, registry, parse_device(body)))
        except BadRequest as error:
            raise SetupError(f"{error}.") from error
