"""The search attributes of workflows: a namespace must know them before the first start that sets them."""

import asyncio
import time
from collections.abc import Mapping

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from dogwatch.errors import SearchAttributeMissing, SettingsInvalid, TemporalUnavailable

USABLE_WITHIN_S = 120.0
"""A cluster's frontends keep what they know of a namespace for up to a minute."""
_POLL_S = 0.5
_NOT_OURS_TO_ADD = {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.UNAUTHENTICATED}


async def ensure_search_attributes(client: Client, wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Have the client's namespace know `wanted`, names with their types; twice is fine. Returns what was added, once it can be used.

    Raises SearchAttributeMissing where they are not ours to add or have another type, SettingsInvalid where there is no such
    namespace, TemporalUnavailable.
    """
    try:
        missing = await _missing(client, wanted)
        if missing:
            await add_search_attributes(client, missing)
            await _until_usable(client, tuple(missing))
    except RPCError as error:
        raise _typed(error, client.namespace, wanted) from error
    return tuple(missing)


async def add_search_attributes(client: Client, wanted: Mapping[str, str]) -> None:
    """Add search attributes to the client's namespace without looking what it has. Raises RPCError."""
    types = {name: _type(kind) for name, kind in wanted.items()}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=types)
    await client.operator_service.add_search_attributes(request)


async def _missing(client: Client, wanted: Mapping[str, str]) -> dict[str, str]:
    listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
    known = listed.custom_attributes
    # The server takes an addition under a known name without a word and keeps the old type (measured).
    other = [name for name, kind in wanted.items() if name in known and known[name] != _type(kind)]
    if other:
        raise SearchAttributeMissing(f"the namespace {client.namespace} has {_told(wanted, other)} under another type")
    return {name: kind for name, kind in wanted.items() if name not in known}


async def _until_usable(client: Client, names: tuple[str, ...]) -> None:
    query = " AND ".join(f"{name} IS NULL" for name in names)
    deadline = time.monotonic() + USABLE_WITHIN_S
    while True:
        try:
            await client.count_workflows(query)
        except RPCError as error:
            if error.status is not RPCStatusCode.INVALID_ARGUMENT or time.monotonic() > deadline:
                raise
            await asyncio.sleep(_POLL_S)
        else:
            return


def _typed(error: RPCError, namespace: str, wanted: Mapping[str, str]) -> Exception:
    if error.status in _NOT_OURS_TO_ADD:
        return SearchAttributeMissing(f"the namespace {namespace} lacks {_told(wanted, wanted)}, and this connection may not add them")
    if error.status is RPCStatusCode.NOT_FOUND:
        return SettingsInvalid(f"Temporal has no namespace {namespace} (TEMPORAL_NAMESPACE)")
    return TemporalUnavailable(f"Temporal does not take the search attributes: {error.status.name} {error.message}"[:500])


def _told(wanted: Mapping[str, str], names: Mapping[str, str] | list[str]) -> str:
    return ", ".join(f"{name} ({wanted[name]})" for name in names)


def _type(kind: str) -> IndexedValueType.ValueType:
    constant = "KEYWORD_LIST" if kind == "KeywordList" else kind.upper()
    return IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{constant}")
