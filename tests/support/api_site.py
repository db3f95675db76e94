"""The API on a real loopback socket: the entity store is the real one, what runs and records activations is a fake.

`site` is a fixture of tests/invoker (without a disk) and of tests/acceptance (with one); their conftest.py take it from here.
"""

import asyncio
import hashlib
import io
import itertools
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import ClientSession, web
from yarl import URL

from invoker.activation import Accepted, Activation, CpuQuality, Meter, Phases, Status
from invoker.config.model import LimitsConfig
from invoker.cpu_window import CpuWindows
from invoker.health import Check, Health
from invoker.http.admission import Admission
from invoker.http.auth import Authenticator
from invoker.http.front import build_front
from invoker.http.services import Services
from invoker.invocation import Accepted202, Call
from invoker.manifest import Manifest
from invoker.model import LimitOverrides, Limits, Namespace
from invoker.record.apis import ApiStore
from invoker.record.entities import EntityStore
from invoker.short import ShortPlan
from invoker.triggers import Triggers
from invoker.vault import KEY_BYTES, Vault
from pool.errors import InvokerError
from pool.model import ActivationId, PeakQuality, StartKind

MANIFEST = b"""{
  "runtimes": {
    "python": [
      {"kind": "python:2", "image": {"prefix": "example", "name": "python2", "tag": "1"}, "deprecated": true},
      {"kind": "python:3", "image": {"prefix": "example", "name": "python3", "tag": "1"}, "default": true,
       "stemCells": [{"initialCount": 2, "memory": "256 MB"}]}
    ],
    "nodejs": [{"kind": "nodejs:20", "image": "example/nodejs20:1", "default": true, "attached": {"attachmentName": "c"}}],
    "java": [{"kind": "java:8", "image": {"name": "java8"}, "requireMain": true}]
  },
  "blackboxes": [{"prefix": "openwhisk", "name": "dockerskeleton", "tag": "latest"}]
}"""


def accepted_of(activation_id, call):
    """The promise of a call."""
    caller = call.identity.namespace.name
    return Accepted(
        activation_id=activation_id,
        namespace=caller,
        subject=caller,
        path=call.action.full_path,
        payload=call.payload,
        transaction=call.transaction,
        accepted_ms=0,
    )


class MemoryCode:
    """Code without a disk."""

    def __init__(self):
        self.texts = {}

    async def put(self, text):
        text = text.decode() if isinstance(text, bytes) else text
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.texts[digest] = text
        return digest

    async def read(self, digest):
        return self.texts[digest]

    async def read_utf8(self, digest):
        return self.texts[digest].encode()

    def unpin(self, digest):
        pass

    def remove(self, digest):
        del self.texts[digest]


class MemoryWriter:
    """A database that takes everything and keeps nothing."""

    async def execute(self, sql, parameters):
        pass

    async def close(self):
        pass


class SiteEntities(EntityStore):
    """The real store, without a disk unless it is given one.

    Attributes:
        before_put: called with an entity that is about to be written.
    """

    def __init__(self, writer=None, code=None):
        super().__init__(writer or MemoryWriter(), code or MemoryCode())
        self.before_put = lambda entity: None

    async def put(self, entity, *, expected_revision):
        self.before_put(entity)
        await super().put(entity, expected_revision=expected_revision)

    def add(self, entity):
        """Have an entity without asking the API, over the one of its path."""
        self._replace(self.get(entity.namespace, entity.path), entity)

    def add_namespace(self, namespace):
        self._forget_namespace(self.get_namespace(namespace.name))
        self._remember_namespace(namespace)

    def everything(self):
        """All entities: what must be the same after a request that was refused."""
        return {each.full_path: each for tree in self._trees.values() for each in tree.values()}


class FakeActivations:
    def __init__(self):
        self.records = []
        self.logs = {}
        self.ticks = []
        self.payloads = []

    async def fired(self, activation, *, lines, promised, payload, tick, stored):
        self.records += [activation] if stored else []
        self.logs[activation.activation_id] = lines
        self.ticks += [tick] if tick else []
        self.payloads.append(payload)

    async def ticked(self, tick):
        self.ticks.append(tick)

    async def get(self, namespace, activation_id):
        return next((each for each in self.records if (each.namespace, each.activation_id) == (namespace, activation_id)), None)

    async def get_logs(self, namespace, activation_id):
        return self.logs.get(activation_id)

    async def list(self, namespace, *, name, since_ms, upto_ms, limit, skip):
        return self._all(namespace, name, since_ms, upto_ms)[skip : skip + limit]

    async def count(self, namespace, *, name, since_ms, upto_ms, skip):
        return max(len(self._all(namespace, name, since_ms, upto_ms)) - skip, 0)

    def _all(self, namespace, name, since_ms, upto_ms):
        return sorted(
            (
                each
                for each in self.records
                if each.namespace == namespace
                and name in {None, each.path.partition("/")[2]}
                and (since_ms is None or each.start_ms >= since_ms)
                and (upto_ms is None or each.start_ms <= upto_ms)
            ),
            key=lambda each: -each.start_ms,
        )


class FakeInvoker:
    """Answers what the test says; remembers the calls."""

    def __init__(self):
        self.calls: list[Call] = []
        self.running = 0
        self.cancelled = []
        self.was = None
        self.promised = []
        self.full = None
        self.numbers = itertools.count(1)
        self.answer = lambda call: Accepted202(activation_id=ActivationId("0" * 32))

    async def invoke(self, call):
        self.calls.append(call)
        return self.answer(call)

    def find_short(self, _identity, _action, payload, _wait_s):
        return ShortPlan(None, payload)

    def start_short(self, call, _found, on_end):
        """End in the next turn of the loop; an id alone means that the caller's time is up."""
        self.calls.append(call)
        done = error = None
        try:
            done = self.answer(call)
        except InvokerError as failure:
            error = failure
        ended = SimpleNamespace(done=done, error=error)
        if isinstance(done, Accepted202):
            ended = SimpleNamespace(done=None, error=None, activation_id=done.activation_id)
        asyncio.get_running_loop().call_soon(on_end, ended)

    def new_id(self):
        return ActivationId(f"{next(self.numbers):032x}")

    def check_queue(self, call):
        if self.full is not None:
            raise self.full

    async def run_promised(self, calls, promise):
        await promise([accepted_of(name, call) for name, call in calls])
        self.promised += calls

    def in_flight(self, namespace):
        return self.running

    def ids_in_flight(self):
        return [ActivationId(f"{number:032x}") for number in range(self.running)]

    def cancel(self, activation_id, *, namespace=None):
        self.cancelled.append((activation_id, namespace))
        return self.was

    async def wait_recorded(self, activation_id):
        assert activation_id in {each for each, _ in self.cancelled}


@dataclass
class Answered:
    status: int
    headers: dict
    text: str

    @property
    def json(self):
        return msgspec.json.decode(self.text)

    @property
    def error(self):
        body = self.json
        assert set(body) == {"error", "code"}
        assert body["code"] == self.headers["X-Request-ID"]
        return body["error"]


@dataclass
class Site:
    """A running API and its parts."""

    entities: SiteEntities = field(default_factory=SiteEntities)
    activations: FakeActivations = field(default_factory=FakeActivations)
    apis: ApiStore = field(default_factory=lambda: ApiStore(MemoryWriter()))
    invoker: FakeInvoker = field(default_factory=FakeInvoker)
    limits: LimitsConfig = field(default_factory=lambda: LimitsConfig.of_profile("openwhisk"))
    health: Health = field(default_factory=lambda: Health(checks=(Check(name="engine", ok=True),)))
    seals_all: bool = False
    operator: str | None = None
    disabled: bool = False
    now: float = 1_700_000_000.0
    cost: dict | None = None
    url: str = ""
    session: ClientSession | None = None
    auth: str = ""

    def __post_init__(self):
        self.vault = Vault(b"k" * KEY_BYTES, seals_all=lambda: self.seals_all)
        self.authenticator = Authenticator(self.entities, b"p" * 32)
        self.cpu = CpuWindows(self.limits.cpu_window_s, lambda: self.now)
        self.auth = self.add_namespace("guest")

    def services(self):
        manifest, admission = Manifest.parse(MANIFEST), Admission(lambda: self.limits, cpu=self.cpu)
        self.triggers = Triggers(
            entities=self.entities,
            admission=admission,
            manifest=manifest,
            invoker=self.invoker,
            recorder=self.activations,
            vault=self.vault,
            node="node1",
            wall_clock=lambda: self.now,
        )
        return Services(
            authenticator=self.authenticator,
            admission=admission,
            manifest=manifest,
            triggers=self.triggers,
            entities=self.entities,
            vault=self.vault,
            activations=self.activations,
            apis=self.apis,
            invoker=self.invoker,
            limits=lambda: self.limits,
            price=lambda _: self.cost,
            health=lambda: self.health,
            ready=lambda: self.health,
            wall_clock=lambda: self.now,
            public_url="https://node.example",
            operator_credentials=self.operator,
            disable=self.disable,
            build="2026-01-01",
            build_number="0.1.0",
        )

    async def disable(self):
        self.disabled = True

    def add_namespace(self, name, **options):
        """Return the value of `Authorization` for a new namespace."""
        uuid, key = self.authenticator.make_key()
        key_hash = self.authenticator.hash_key(key)
        self.entities.add_namespace(
            Namespace(name=name, uuid=uuid, key_hash=key_hash, uid=2000, gid=2000, created_ms=0, **options)
        )
        return "Basic " + b64encode(f"{uuid}:{key}".encode()).decode()

    def grant(self, **limits):
        """Give the caller limits of its own."""
        namespace = self.entities.get_namespace("guest")
        self.entities.add_namespace(msgspec.structs.replace(namespace, limits=LimitOverrides(**limits)))

    def use(self, cpu_s, namespace="guest"):
        """Have activations of a namespace use CPU time now."""
        self.cpu.add(namespace, round(cpu_s * 1e6), int(self.now * 1000))

    async def ask(self, method, path, body=None, *, auth=True, headers=None, json_type=True):
        """Send one request. Paths without a slash in front are below `/api/v1/namespaces/_/`."""
        if not path.startswith("/"):
            path = f"/api/v1/namespaces/_/{path}"
        sent = dict(headers or {})
        if auth:
            sent.setdefault("Authorization", auth if isinstance(auth, str) else self.auth)
        if body is not None and not isinstance(body, (bytes, str)):
            body = msgspec.json.encode(body)
        if body is not None and json_type:
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method,
            URL(self.url + path, encoded=True),
            data=io.BytesIO(body.encode() if isinstance(body, str) else body) if body else body,
            headers=sent,
            skip_auto_headers=("Content-Type",),
            allow_redirects=False,
        ) as response:
            return Answered(response.status, response.headers, await response.text())

    async def put_hello(self, **fields):
        body = {"exec": {"kind": "python:3", "code": "def main(args): return args"}, **fields}
        answered = await self.ask("PUT", "actions/hello?overwrite=true", body)
        assert answered.status == 200, answered.text
        return answered.json


@asynccontextmanager
async def running(site):
    """Serve a site within the block."""
    async with asyncio.TaskGroup() as group:
        runner = web.ServerRunner(build_front(site.services(), group))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ClientSession() as site.session:
            yield site
        await runner.cleanup()


@pytest.fixture
async def site():
    """The API of a site with OpenWhisk's limits, one namespace `guest`, and its key."""
    async with running(Site()) as site:
        yield site


@pytest.fixture
def make_activation():
    """Makes finished activations of `guest`."""
    numbers = itertools.count(1)

    def make(**fields):
        number = next(numbers)
        values = {
            "activation_id": ActivationId(f"{number:032x}"),
            "node": "node1",
            "namespace": "guest",
            "subject": "guest",
            "path": "guest/hello",
            "version": "0.0.1",
            "kind": "python:3",
            "limits": Limits(),
            "start_ms": 1000 * number,
            "end_ms": 1000 * number + 42,
            "status": Status.SUCCESS,
            "result": msgspec.Raw(b'{"big": 1.10e5, "text": "\\u00e9"}'),
            "size": 33,
            "wait_ms": 3,
            "container": "invokerd-node1-0123456789ab",
            "meter": Meter(
                start_kind=StartKind.FROZEN,
                memory_limit_mib=256,
                billed_us=42_000,
                cpu_us=12_034,
                cpu_quality=CpuQuality.EXACT,
                peak_bytes=9_000_000,
                peak_quality=PeakQuality.EXACT,
                phases=Phases(thaw=120, run=42_000),
            ),
        }
        return Activation(**(values | fields))

    return make
