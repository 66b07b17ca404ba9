"""One opener for both MongoDB drivers: PyMongo's own async client, and Motor for those who have it.

Their surfaces differ in what must be awaited; ``settled`` is all the rest of the code needs to
know.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import pymongo
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from engine.errors import ConfigError, StoreError
from engine.stores.remote import is_here
from engine.stores.write_behind import sentence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Driver = Literal["pymongo", "motor"]

_OPTIONS: dict[str, Any] = {
    "serverSelectionTimeoutMS": 2_000,
    "connectTimeoutMS": 2_000,
    "socketTimeoutMS": 5_000,  # a hung server is a failed one
    "w": "majority",
    "journal": True,
    "tz_aware": True,
    "appname": "volley",
}


class MongoDatabase:
    """One database over one client, shared by the stores of a process; ``close`` it last."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._db = client[name]
        self.name = name

    def collection(self, name: str) -> Any:
        """Return a collection; finds, writes and ``create_index`` read alike in both drivers."""
        return self._db[name]

    async def ping(self) -> None:
        """Ask the server for a sign of life.

        Raises:
            StoreError: none came within the time limits.
        """
        try:
            await self._db.command("ping")
        except PyMongoError as error:
            raise StoreError(sentence("MongoDB", error)) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Run the block in a transaction; yields the session to hand to every call in it."""
        async with (
            await settled(self._client.start_session()) as session,
            await settled(session.start_transaction()),
        ):
            yield session

    async def close(self) -> None:
        """Close every connection."""
        await settled(self._client.close())


async def settled(value: Any) -> Any:
    """Return ``value``, awaited if this driver made it awaitable."""
    return await value if inspect.isawaitable(value) else value


def end_if_cancelled() -> None:
    """Raise the cancellation a driver swallowed.

    PyMongo sends inside ``asyncio.wait_for``, which before Python 3.12 drops a cancellation that
    comes together with its result; a loop over driver calls asks here, or it would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def open_mongo(url: str, driver: Driver = "pymongo") -> MongoDatabase:
    """Make a client for the database ``url`` names (``volley`` if it names none); connects when
    first used.

    Must be called on the loop that will use it.

    Raises:
        ConfigError: the URL is none MongoDB understands (it is not quoted: it may hold a password), or leads to
            another machine without TLS and credentials.
    """
    client_type: Any = pymongo.AsyncMongoClient
    if driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient

        client_type = AsyncIOMotorClient
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a misspelt option is a mistake, not noise
            _check_remote(url)
            client = client_type(url, **_OPTIONS)
        return MongoDatabase(client, client.get_default_database("volley").name)
    except (PyMongoError, ValueError, UserWarning) as error:
        raise ConfigError(
            f"storage.mongo_url is not a MongoDB URL ({type(error).__name__}): "
            "expected mongodb://HOST:PORT/DATABASE"
        ) from None


def _check_remote(url: str) -> None:
    """Refuse what would speak in the open, or with whoever answers."""
    by_name = url.startswith("mongodb+srv://")  # read here without its look-ups; TLS is its default
    read = parse_uri(url.replace("mongodb+srv://", "mongodb://", 1))
    if not by_name and all(is_here(host) for host, _ in read["nodelist"]):
        return
    options = read["options"]
    checked = not any(name.startswith("tlsAllowInvalid") for name in options)
    proves = bool(read["password"]) or options.get("authMechanism") == "MONGODB-X509"
    if not (options.get("tls", by_name) and checked and proves):
        raise ConfigError(
            "storage.mongo_url leads to another machine without checked TLS and credentials: expected "
            "mongodb://USER:PASSWORD@HOST:PORT/DATABASE?tls=true, or an address of this machine"
        )
