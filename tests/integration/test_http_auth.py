"""Who may use the HTTP door."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from dogwatch.errors import KeyRequired, PortTaken
from dogwatch.http.app import serve
from tests.door import open_door

KEY = "correct horse"


async def test_only_the_key_opens(database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """No key, a wrong one and one in the address get the same 401; probes need none."""
    async with open_door(database_url, temporal_server, tmp_path, api_key=KEY) as door:
        right = await door.http.get("/v1/jobs", headers={"Authorization": f"Bearer {KEY}"})
        assert right.status_code == 200
        answers = [
            await door.http.get("/v1/jobs"),
            await door.http.get("/v1/jobs", headers={"Authorization": "Bearer wrong"}),
            await door.http.get("/v1/jobs", headers={"Authorization": f"Basic {KEY}"}),
            await door.http.get("/v1/jobs", headers=[(b"Authorization", b"Bearer \xff")]),
            await door.http.get("/v1/jobs", params={"api_key": KEY, "token": KEY}),
            await door.http.post("/v1/jobs", content=b"not even JSON"),
            await door.http.get("/v1/jobs/unknown"),
        ]
        assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
        assert answers[0].json()["code"] == "unauthorized"
        assert answers[0].headers["WWW-Authenticate"] == "Bearer"
        assert (await door.http.get("/v1/health")).status_code == 200
        assert (await door.http.get("/v1/ready")).status_code == 200


async def test_without_a_key_web_pages_are_kept_out(database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """A page in a browser of this machine can reach loopback: from its own origin, or under a name that resolves to it."""
    async with open_door(database_url, temporal_server, tmp_path) as door:
        assert (await door.http.get("/v1/jobs")).status_code == 200
        assert (await door.http.get("/v1/jobs", headers={"Origin": door.url})).status_code == 200
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
            answer = await door.http.post("/v1/jobs", json={"prompt": "x"}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert await door.count("jobs") == 0


async def test_a_door_without_a_key_stays_on_this_machine(database_url: str, temporal_server: str, tmp_path: Path) -> None:
    """Listening on all addresses takes a key; a taken port is told with the setting that moves it."""
    async with open_door(database_url, temporal_server, tmp_path) as door:
        with pytest.raises(KeyRequired):
            await serve(door.deps, asyncio.Event(), host="0.0.0.0", port=0)
        with pytest.raises(PortTaken):
            await serve(replace(door.deps, api_key=KEY), asyncio.Event(), host="127.0.0.1", port=door.http.base_url.port or 0)
