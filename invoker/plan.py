"""From an action and who calls it to what the pool needs: which container, reusable by whom, initialised with what."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from invoker.code import MOUNT_TARGET, CodeStore
from invoker.config.model import Config
from invoker.manifest import BLACKBOX, Manifest
from invoker.model import Action, Limits, Namespace
from invoker.registry import credentials_for
from invoker.runtime import run_prefix
from pool.backend import ContainerBackend, Image
from pool.door import API_ADDRESS
from pool.errors import ActionError, ImageNotFound
from pool.model import ContainerSpec, LogTransport, Mount, Reactive, ReuseKey
from pool.table import MAX_ACTIVATIONS

#: Where a container, which has no network, finds the API: at its own door.
API_URL = "http://{}:{}".format(*API_ADDRESS)
#: Our own black-box runtime: what every image named in the manifest's `blackboxes` means.
NATIVE_IMAGE = "invokerd/blackbox:latest"
#: Plans kept; the least recently used go first.
MOST_PLANS = 20_000
#: Threads that numerical libraries start: as many as the CPU limit allows, not as the machine has.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class MountNotOffered(ActionError):
    """The site does not offer a mount any more that the namespace was granted."""

    code = "mount-not-offered"


class LimitsLowered(ActionError):
    """The action was written when the site allowed more than it does now."""

    code = "limits-lowered"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the container table says of a running activation to the daemon's successor."""

    namespace: str
    path: str
    version: str
    kind: str
    timeout: int
    memory: int
    logs: int
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is the same for every activation of one revision of an action by one namespace.

    Attributes:
        key: for the pool.
        facts: encoded `Facts`.
        prefix: of every /run body.
        action_name: `/ns/[package/]name`, as actions are told.
        gives_api_key: whether the action gets the caller's key.
        mounted_code: digest of code that must be unpacked on the host first; None when it goes inline.
        stems: how many stem cells of `key.spec` its kind wants; 0 for none.
        reactive: how that number follows demand; None: it does not.
    """

    key: ReuseKey
    facts: bytes
    prefix: bytes
    action_name: str
    gives_api_key: bool
    mounted_code: str | None
    stems: int
    reactive: Reactive | None


class Planner:
    """Makes plans and remembers them."""

    def __init__(self, *, config: Callable[[], Config], manifest: Manifest, backend: ContainerBackend, code: CodeStore) -> None:
        """Remember nothing yet.

        Args:
            config: gives the configuration of this moment.
            manifest: the kinds.
            backend: knows images.
            code: where large code is unpacked.
        """
        self._config = config
        self._manifest = manifest
        self._backend = backend
        self._code = code
        #: Reference -> what the engine said.
        self._images: dict[str, Image] = {}
        #: (namespace, revision of the action) -> plan, the last used last.
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()

    def find(self, namespace: Namespace, action: Action) -> Plan | None:
        """Look a plan up; None when `make` must be called first."""
        key = (namespace.uuid, action.revision)
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
        return plan

    async def make(self, namespace: Namespace, action: Action, *, pull: bool = True) -> Plan:
        """Make a plan: find the image, or pull it, and unpack large code.

        Raises:
            ImageNotFound, EngineError, EngineUnavailable: no image.
            CodeNotUnpackable: the code is broken.
            MountNotOffered: a reload took a mount away.
            LimitsLowered: it asks for more than the site allows by now.
        """
        refuse_lowered(action.limits, self._config())
        image = await self._image(self.reference_of(action), namespace.name, pull=pull)
        mounted = action.exec.code if self._code.is_mounted(action.exec) and image.logs is LogTransport.PIPE else None
        if mounted is not None:
            await self._code.ensure(mounted)
        plan = self._compose(namespace, action, image, mounted)
        self._plans[namespace.uuid, action.revision] = plan
        if len(self._plans) > MOST_PLANS:
            self._plans.popitem(last=False)
        return plan

    def forget(self) -> None:
        """Make every plan anew: the configuration or an image has changed."""
        self._plans.clear()
        self._images.clear()

    def reference_of(self, action: Action) -> str:
        """Name the image an action's containers are made from."""
        if action.exec.kind != BLACKBOX:
            return self._manifest.runtimes[action.exec.kind].image
        image = action.exec.image or ""
        return NATIVE_IMAGE if self._manifest.is_native(image) else image

    async def _image(self, reference: str, user: str, *, pull: bool) -> Image:
        image = self._images.get(reference)
        if image is not None:
            return image
        registry = self._config().registry
        ours = reference == NATIVE_IMAGE or any(runtime.image == reference for runtime in self._manifest.runtimes.values())
        if not ours and not registry.allows(reference):
            raise ImageNotFound(f"Failed to pull container image '{reference}': this site does not allow it (registry.allow).")
        credentials = credentials_for(reference, registry.credentials_file) if pull and not ours else None
        try:
            image = await self._backend.resolve_image(reference, pull=pull and not ours, credentials=credentials, user=user)
        except ImageNotFound as error:
            hint = "Run scripts/images on the node." if ours else str(error)
            raise ImageNotFound(f"Failed to pull container image '{reference}'. {hint}") from error
        self._images[reference] = image
        return image

    def _compose(self, namespace: Namespace, action: Action, image: Image, mounted: str | None) -> Plan:
        config = self._config()
        isolation, limits = config.isolation, action.limits
        cpu_millis = isolation.cpu_millis_for(limits.memory)
        try:
            mounts = isolation.mounts_for(namespace.name, namespace.mounts)
        except ValueError as error:
            raise MountNotOffered(f"The action cannot run on this node: {error}.") from error
        if mounted is not None:
            mounts = (*mounts, Mount(source=str(self._code.path(mounted)), target=MOUNT_TARGET))
        threads = str(max(1, cpu_millis // 1000)) if cpu_millis else ""
        environment = {"__OW_API_HOST": API_URL, "HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108 - inside the container
        concurrency = self._concurrency(action, image)
        if concurrency > 1:
            environment["__OW_ALLOW_CONCURRENT"] = "true"
        if threads:
            environment |= dict.fromkeys(THREAD_VARIABLES, threads)
        spec = ContainerSpec(
            namespace=namespace.name,
            uid=namespace.uid,
            gid=namespace.gid,
            groups=namespace.groups,
            image=image.image_id,
            kind=action.exec.kind,
            memory_mib=limits.memory,
            cpu_millis=cpu_millis,
            pids=isolation.pids,
            open_files=isolation.open_files,
            tmp_mib=min(isolation.tmp_mib, limits.memory),
            mounts=mounts,
            environment=tuple(sorted(environment.items())),
            logs=image.logs,
            server_keep_alive_s=image.server_keep_alive_s,
        )
        action_name = f"/{action.full_path}"
        stems, reactive = self._stems(action) if mounted is None else (0, None)
        return Plan(
            key=ReuseKey(spec=spec, action=action.full_path, revision=action.revision, concurrency=concurrency),
            facts=msgspec.json.encode(facts_of(namespace, action)),
            prefix=run_prefix(namespace=namespace.name, action_name=action_name, version=action.version),
            action_name=action_name,
            gives_api_key=action.says_yes("provide-api-key", if_absent=True),
            mounted_code=mounted,
            stems=stems,
            reactive=reactive,
        )

    def _concurrency(self, action: Action, image: Image) -> int:
        """How many activations one container may run at a time: what the action allows, where its kind or its image can."""
        runtime = self._manifest.runtimes.get(action.exec.kind)
        can = image.concurrent or (runtime is not None and runtime.concurrent)
        return min(action.limits.concurrency, MAX_ACTIVATIONS) if can else 1

    def _stems(self, action: Action) -> tuple[int, Reactive | None]:
        """Tell how many stem cells to keep, and how demand changes that; only in sizes that the manifest names for the kind."""
        stem_cells = self._config().pool.stem_cells
        runtime = self._manifest.runtimes.get(action.exec.kind)
        cells = [cell for cell in runtime.stem_cells if cell.memory_mib == action.limits.memory] if runtime else []
        if not stem_cells.enabled or not cells:
            return 0, None
        return stem_cells.count or cells[0].count, cells[0].reactive


def refuse_lowered(limits: Limits, config: Config) -> None:
    """Refuse to run what asks for more than the site allows by now. It can still be read, listed and written.

    What is more than the whole pool has is the pool's to refuse.

    Raises:
        LimitsLowered: naming the limit.
    """
    site, pool_mib = config.limits, config.pool.memory_mib
    for name, unit, asked, most in (
        ("memory", " MB", limits.memory if limits.memory <= pool_mib else 0, site.memory_max_mib or pool_mib),
        ("time", " milliseconds", limits.timeout, site.timeout_max_ms),
        ("log", " MB", limits.logs, site.logs_max_mib),
        ("concurrency", "", limits.concurrency, site.concurrency_max),
    ):
        if asked > most:
            raise LimitsLowered(f"The action's {name} limit of {asked}{unit} exceeded the system limit of {most}{unit}.")


def facts_of(namespace: Namespace, action: Action) -> Facts:
    """Gather what a lost activation's record needs."""
    return Facts(
        namespace=namespace.name,
        path=action.full_path,
        version=action.version,
        kind=action.exec.kind,
        timeout=action.limits.timeout,
        memory=action.limits.memory,
        logs=action.limits.logs,
        concurrency=action.limits.concurrency,
    )
