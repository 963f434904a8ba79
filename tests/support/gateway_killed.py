"""A process that commits in a loop until it is killed: its parent keeps what it was told is durable.

Started as a script with the journal's path. For each line `seed` on stdin it forks a child (forking is far quicker
than starting Python), which replays the journal and then commits, and prints

    pid N           who to kill
    ack N DIGEST    commit N is durable; DIGEST is of its records
    end             the child is dead
"""

import asyncio
import os
import sys
from hashlib import sha256
from pathlib import Path

from gateway import books as books_module
from gateway.books import Books
from gateway.journal import Journal
from gateway.records import encode
from gateway.terms import TermsBook
from tests.support.gateway_records import Script

# States are written often, so that a kill meets that, too.
STORE_MAX = 7


def say(text: str) -> None:
    """Write a line at once, in one piece."""
    os.write(1, f"{text}\n".encode())


async def commit_for_ever(path: Path, seed: int) -> None:
    """Replay, then commit until killed."""
    books_module.STORE_MAX = STORE_MAX
    books = Books(Journal(path))
    terms = TermsBook(900, 225)
    books.replay(terms.terms_then, terms.observe)
    script = Script(books, terms, seed)
    waiting: set[asyncio.Task[None]] = set()
    say(f"pid {os.getpid()}")

    commit = books.journal.commit

    def told(records):  # type: ignore[no-untyped-def]
        number, written = commit(records)
        digest = sha256(encode(tuple(records))).hexdigest()

        async def acknowledge() -> None:
            await written
            say(f"ack {number} {digest}")

        task = asyncio.create_task(acknowledge())
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        return number, task

    books.journal.commit = told  # type: ignore[method-assign]
    if books.ledger.founded is None:
        await script.found()
    else:
        script.resume()
    while True:
        written = script.step()
        if len(waiting) > 3:  # several in the writer's queue, as in life
            await written
        await asyncio.sleep(0)


def main() -> None:
    """Serve the parent until it closes stdin."""
    path = Path(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(commit_for_ever(path, int(line)))
        os.waitpid(child, 0)
        say("end")


if __name__ == "__main__":
    main()
