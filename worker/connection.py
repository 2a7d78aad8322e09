"""The connection to Temporal: from the same variables and files as the `temporal` command line."""

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from dogwatch.errors import TemporalUnavailable

DEFAULT_TARGET = "127.0.0.1:7233"


async def connect_temporal() -> Client:
    """A client for the configured server, 127.0.0.1:7233 where nothing is configured. Raises TemporalUnavailable."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", DEFAULT_TARGET)
    try:
        return await Client.connect(**config, data_converter=pydantic_data_converter)
    except (RPCError, RuntimeError, OSError) as error:
        raise TemporalUnavailable(f"Temporal at {config['target_host']} does not answer: {error}") from error
