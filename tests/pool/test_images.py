"""Images of an engine that misbehaves: what is behind a reference, and pulls that are shared."""

import asyncio
import base64
import json

import pytest
from scripted_engine import Engine

from pool.backend import Image
from pool.errors import EngineDiskFull, EngineError, ImageNotFound
from pool.guard import Deadlines
from pool.images import split_reference
from pool.model import LogTransport

PIPE = (200, {"Id": "sha256:77", "Config": {"Labels": {"invokerd.protocol": "pipe", "invokerd.keep-alive-s": "86400"}}})


async def test_an_image_tells_how_it_speaks(engine, backend):
    engine.answers["GET /images/ours"] = PIPE
    engine.answers["GET /images/theirs"] = (200, {"Id": "sha256:78", "Config": {"Labels": None}})
    engine.answers["GET /images/odd"] = (200, {"Id": "sha256:79", "Config": {"Labels": {"invokerd.keep-alive-s": "soon"}}})
    ours, theirs, odd = [await backend.resolve_image(name, pull=True) for name in ("ours:1", "theirs", "odd")]
    assert (ours.image_id, ours.logs, ours.server_keep_alive_s) == ("sha256:77", LogTransport.PIPE, 86400.0)
    assert (theirs.image_id, theirs.logs, theirs.server_keep_alive_s) == ("sha256:78", LogTransport.ATTACHED, 1.0)
    assert odd.server_keep_alive_s == 1.0
    assert not [verb for verb in engine.verbs() if verb.startswith("POST")]  # what is here is never pulled


@pytest.mark.parametrize("reference", ["", "../containers/x", "a/../../info", "a?b", "a#b", "a b", "-a", "a" * 600, "a\n"])
async def test_what_is_no_reference_never_reaches_the_engine(engine, backend, reference):
    asked = len(engine.requests)
    with pytest.raises(ImageNotFound):
        await backend.resolve_image(reference, pull=True)
    assert len(engine.requests) == asked


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("python", ("python", "latest")),
        ("python:3", ("python", "3")),
        ("host:5000/a/b", ("host:5000/a/b", "latest")),
        ("host:5000/a/b:v1", ("host:5000/a/b", "v1")),
        ("a/b@sha256:12", ("a/b", "sha256:12")),
        ("a/b:v1@sha256:12", ("a/b:v1", "sha256:12")),
    ],
)
def test_a_reference_is_split_into_name_and_tag(reference, parts):
    assert split_reference(reference) == parts


def pulls(engine: Engine, said: bytes = b'{"status":"done"}\n') -> asyncio.Event:
    """Let a pull of `r/i` succeed once the event is set."""
    go = asyncio.Event()

    async def pull():
        await go.wait()
        engine.answers["GET /images/r/i"] = PIPE
        return 200, said

    engine.answers["GET /images/r/i"] = (404, {"message": "no such image"})
    engine.answers["POST /images/create"] = pull
    return go


async def test_an_absent_image_is_pulled_once_for_all_who_wait(engine, backend):
    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(backend.resolve_image("r/i:2", pull=True)) for _ in range(5)]
        while "POST /images/create" not in engine.verbs():
            await asyncio.sleep(0)
        go.set()
    assert {waiter.result().image_id for waiter in waiters} == {"sha256:77"}
    (pulled,) = [request for request in engine.requests if request[1] == "/images/create"]
    assert pulled[2] == {"fromImage": ["r/i"], "tag": ["2"]}


async def test_nothing_is_pulled_onto_a_full_disk_and_what_is_there_is_found(engine, backend, monkeypatch):
    def refuse(_path):
        raise EngineDiskFull

    monkeypatch.setattr("pool.images.refuse_on_full_disk", refuse)
    engine.answers["GET /images/here"] = PIPE
    engine.answers["GET /images/far"] = (404, {"message": "no such image"})
    assert (await backend.resolve_image("here", pull=True)).image_id == "sha256:77"
    with pytest.raises(EngineDiskFull):
        await backend.resolve_image("far", pull=True)
    assert "POST /images/create" not in engine.verbs()


async def test_who_keeps_images_is_told_of_each_that_was_pulled(engine, backend):
    told = []
    backend.images.on_pulled = lambda reference, image_id: told.append((reference, image_id))
    engine.answers["GET /images/here"] = PIPE
    await backend.resolve_image("here", pull=True)
    assert told == []

    async def pull():
        engine.answers["GET /images/far"] = PIPE
        return 200, b'{"status":"Pulling"}\n'

    engine.answers["GET /images/far"] = (404, {"message": "no such image"})
    engine.answers["POST /images/create"] = pull
    await backend.resolve_image("far", pull=True)
    assert told == [("far", "sha256:77")]


@pytest.mark.parametrize("answer", [(200, []), (404, {"message": "no such image"})])
async def test_a_name_is_taken_from_an_image_without_force_and_gone_already_is_success(engine, backend, answer):
    """Others may have it under a name of theirs, or a stopped container that is made from it."""
    engine.answers["GET /images/r/i:1/json"] = PIPE
    engine.answers["DELETE /images/"] = answer
    await backend.remove_image("sha256:77", "r/i:1")
    assert engine.verbs()[-1] == "DELETE /images/r/i:1"
    assert "force" not in engine.requests[-1][2]


async def test_a_name_that_is_of_another_image_by_now_is_left_alone(engine, backend):
    engine.answers["GET /images/r/i:1/json"] = PIPE
    await backend.remove_image("sha256:76", "r/i:1")
    assert not [verb for verb in engine.verbs() if verb.startswith("DELETE")]


async def test_an_image_that_is_used_stays_and_that_is_told(engine, backend):
    engine.answers["GET /images/r/i:1/json"] = PIPE
    engine.answers["DELETE /images/"] = (409, {"message": "image is being used by running container"})
    with pytest.raises(EngineError, match="being used"):
        await backend.remove_image("sha256:77", "r/i:1")


async def who_leads_and_who_waits(group, engine, backend):
    first = group.create_task(backend.resolve_image("r/i", pull=True))
    while "POST /images/create" not in engine.verbs():
        await asyncio.sleep(0)
    second = group.create_task(backend.resolve_image("r/i", pull=True))
    while engine.verbs().count("GET /images/r/i/json") < 2:
        await asyncio.sleep(0)
    return first, second


async def test_a_pull_whose_first_waiter_goes_away_is_led_by_the_next(engine, backend):
    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        first, second = await who_leads_and_who_waits(group, engine, backend)
        first.cancel()
        go.set()
    assert first.cancelled()
    assert second.result().image_id == "sha256:77"


async def test_a_waiter_that_goes_away_does_not_end_the_pull_for_the_others(engine, backend):
    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        first, second = await who_leads_and_who_waits(group, engine, backend)
        await asyncio.sleep(0.01)
        second.cancel()
        go.set()
    assert first.result().image_id == "sha256:77"


async def test_credentials_go_to_the_registry_and_are_not_shared(engine, backend):
    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        for name in ("ana", "bob"):
            credentials = {"username": name, "password": "x?>"}
            group.create_task(backend.resolve_image("r/i", pull=True, credentials=credentials, user=name))
        while engine.verbs().count("POST /images/create") < 2:
            await asyncio.sleep(0)
        go.set()
    sent = [headers["x-registry-auth"] for headers in engine.headers if "x-registry-auth" in headers]
    assert {json.loads(base64.urlsafe_b64decode(auth))["username"] for auth in sent} == {"ana", "bob"}


async def test_a_user_who_wants_many_images_has_one_pull_at_a_time_and_holds_up_nobody_else(engine, backend):
    go, asked = asyncio.Event(), []

    async def pull():
        await go.wait()
        for name in ("one", "two", "three", "mine"):
            engine.answers[f"GET /images/{name}"] = PIPE
        return 200, b'{"status":"done"}\n'

    engine.answers["POST /images/create"] = pull
    for name in ("one", "two", "three", "mine"):
        engine.answers[f"GET /images/{name}"] = (404, {"message": "no such image"})
    async with asyncio.TaskGroup() as group:
        for name in ("one", "two", "three"):
            group.create_task(backend.resolve_image(name, pull=True, user="greedy"))
        while engine.verbs().count("GET /images/three/json") < 1 or "POST /images/create" not in engine.verbs():
            await asyncio.sleep(0)
        group.create_task(backend.resolve_image("mine", pull=True, user="modest"))
        while engine.verbs().count("POST /images/create") < 2:
            await asyncio.sleep(0)
        asked = [query["fromImage"] for verb, path, query, _ in engine.requests if path == "/images/create"]
        go.set()
    assert asked == [["one"], ["mine"]]


async def test_one_who_lines_up_just_as_a_turn_ends_does_not_pull_what_the_one_before_has_pulled(engine, backend, monkeypatch):
    """The lock is free for a moment, and yet there is somebody before it."""
    images, image = backend.images, Image(image_id="sha256:77", logs=LogTransport.PIPE, server_keep_alive_s=1.0)
    looked, pulled = asyncio.get_running_loop().create_future(), []

    async def inspect(_reference):
        if pulled:
            return image
        if asyncio.current_task().get_name() == "late" and not looked.done():
            await looked
        raise ImageNotFound

    async def lead(_key, reference, _credentials):
        pulled.append(reference)
        await asyncio.sleep(0)

    monkeypatch.setattr(images, "_inspect", inspect)
    monkeypatch.setattr(images, "_lead_pull", lead)
    turn = images._turns["greedy"] = asyncio.Lock()
    async with asyncio.TaskGroup() as group, turn:
        for name in ("waits", "late"):
            group.create_task(images.resolve("two", pull=True, user="greedy"), name=name)
        await asyncio.sleep(0)
        looked.set_result(None)
    assert pulled == ["two"]


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"message": "repository does not exist"}),
        (500, {"message": "dial tcp: no such host"}),
        (200, b'{"status":"Pulling"}\n{"errorDetail":{"message":"denied"},"error":"denied"}\n'),
        None,
    ],
)
async def test_a_pull_that_fails_says_that_the_image_is_not_to_be_had(engine, backend, answer):
    engine.answers["GET /images/r/i"] = (404, {"message": "no such image"})
    engine.answers["POST /images/create"] = answer
    backend.guard.deadlines = Deadlines(pull_s=0.3 if answer is None else 600.0)
    with pytest.raises(ImageNotFound, match="pull"):
        await backend.resolve_image("r/i", pull=True)
    assert backend.guard.sick_classes() == []
