"""From a `ContainerSpec` to the engine's create request: a function of values, so that a bench can build the same.

Docker cannot mount a bind `nosuid` or `nodev`; `no-new-privileges`, the empty capability set and the device cgroup
take the teeth out of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pool.backend import FoundContainer
from pool.disk import directory_of
from pool.errors import ContainerStartFailed
from pool.model import ContainerSpec, LogTransport, Mount

LABEL_NODE = "invokerd.node"
LABEL_BOOT = "invokerd.boot"
LABEL_SPEC = "invokerd.spec"
#: Labels of images.
LABEL_PROTOCOL = "invokerd.protocol"
LABEL_KEEP_ALIVE = "invokerd.keep-alive-s"
LABEL_CONCURRENT = "invokerd.concurrent"

#: Where a container finds its log FIFO.
LOG_DIRECTORY = "/run/invokerd"
LOG_PIPE = f"{LOG_DIRECTORY}/log"

#: The container's own, a tmpfs of `ContainerSpec.tmp_mib`.
_TMP = "/tmp"  # noqa: S108 -- not a path of this host
_MIB = 1024 * 1024
#: The least swap that there is. runc tells systemd of a limit of swap only if it is not nought (opencontainers/cgroups#74): the
#: next `systemctl daemon-reload` would take away a limit of which systemd does not know.
_PAGE = 4096
_CPU_PERIOD_US = 100_000
#: Under memory pressure the kernel shall kill an action before anything of the site.
_OOM_SCORE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What `GET /info` and `/version` say of an engine; only options that it supports are sent.

    Attributes:
        version, api_version: of the engine, and the one we speak with it.
        cgroup_driver, cgroup_version: `cgroupfs` or `systemd`; 1 or 2.
        memory_limit, swap_limit, cpu_quota, cpu_shares, pids_limit: whether containers can be limited so.
        init_binary: whether it can put an init before a foreign image's process.
        root_dir: where it keeps images and the files of containers; only asked how full its file system is.
    """

    version: str
    api_version: str
    cgroup_driver: str
    cgroup_version: int
    memory_limit: bool
    swap_limit: bool
    cpu_quota: bool
    cpu_shares: bool
    pids_limit: bool
    init_binary: bool
    root_dir: str = ""

    @classmethod
    def of(cls, info: Mapping[str, Any], *, version: str, api_version: str) -> EngineFacts:
        """Read the engine's own description of itself."""
        return cls(
            version=version,
            api_version=api_version,
            cgroup_driver=str(info.get("CgroupDriver", "")),
            cgroup_version=int(info.get("CgroupVersion") or 1),
            memory_limit=bool(info.get("MemoryLimit")),
            swap_limit=bool(info.get("SwapLimit")),
            cpu_quota=bool(info.get("CpuCfsQuota")),
            cpu_shares=bool(info.get("CPUShares")),
            pids_limit=bool(info.get("PidsLimit")),
            init_binary=bool(info.get("InitBinary")),
            root_dir=directory_of(info),
        )

    @property
    def systemd_limits(self) -> bool:
        """Whether systemd sets the limits of containers, and sets them anew whenever it reads its units."""
        return self.cgroup_driver == "systemd" and self.cgroup_version == 2

    @property
    def missing(self) -> tuple[str, ...]:
        """Limits that this engine cannot enforce, by name, for `doctor`."""
        limits = ("memory_limit", "swap_limit", "cpu_quota", "cpu_shares", "pids_limit")
        return tuple(name for name in limits if not getattr(self, name))


def labels_of(spec: ContainerSpec, *, node: str, boot_id: str) -> dict[str, str]:
    """Build the labels by which a later daemon finds a container and knows what it is."""
    return {LABEL_NODE: node, LABEL_BOOT: boot_id, LABEL_SPEC: msgspec.json.encode(spec).decode()}


def spec_of(found: FoundContainer) -> ContainerSpec:
    """Decode the spec that a container was created from.

    Raises:
        ContainerStartFailed: the label is not there, or is of another version's making.
    """
    try:
        return msgspec.json.decode(found.labels.get(LABEL_SPEC, ""), type=ContainerSpec)
    except msgspec.DecodeError as error:
        raise ContainerStartFailed(f"{found.container_id} does not say what it was made from") from error


def create_request(
    spec: ContainerSpec,
    facts: EngineFacts,
    *,
    node: str,
    boot_id: str,
    log_directory: Path | None,
    shared_mounts: frozenset[str] = frozenset(),
    cgroup_parent: str | None = None,
) -> dict[str, Any]:
    """Build the body of `POST /containers/create`.

    Args:
        spec: what to make.
        facts: of the engine that will make it.
        node: goes into the labels, as does `boot_id`.
        boot_id: of the running kernel.
        log_directory: host directory of the log FIFO; None with an attached stream.
        shared_mounts: sources of `spec.mounts` whose later submounts (autofs, CVMFS) shall appear inside.
        cgroup_parent: parent cgroup, or slice under the systemd driver.
    """
    return {
        "Image": spec.image,
        "User": f"{spec.uid}:{spec.gid}",
        "Env": [f"{name}={value}" for name, value in _environment(spec)],
        "Labels": labels_of(spec, node=node, boot_id=boot_id),
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdout": spec.logs is LogTransport.ATTACHED,
        "AttachStderr": spec.logs is LogTransport.ATTACHED,
        "Tty": False,
        "OpenStdin": False,
        "StopTimeout": 1,
        "HostConfig": {
            "NetworkMode": spec.network,
            "GroupAdd": [str(group) for group in spec.groups],
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "UsernsMode": "host",  # files belong to the user, even where the engine remaps ids for others
            "ReadonlyRootfs": True,
            # Owned by the user: runc before 1.2 gives it the mode of the image's own /tmp, whatever `mode` says.
            "Tmpfs": {_TMP: f"rw,exec,nosuid,nodev,size={spec.tmp_mib}m,mode=1777,uid={spec.uid},gid={spec.gid}"},
            "IpcMode": "private",
            "ShmSize": spec.tmp_mib * _MIB,
            "Ulimits": [
                {"Name": "nofile", "Soft": spec.open_files, "Hard": spec.open_files},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            # Our runtimes reap their children themselves.
            "Init": spec.logs is LogTransport.ATTACHED and facts.init_binary,
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "OomScoreAdj": _OOM_SCORE,
            "Mounts": _mounts(spec, log_directory, shared_mounts),
            **_limits(spec, facts),
            **({"CgroupParent": cgroup_parent} if cgroup_parent else {}),
        },
    }


def _environment(spec: ContainerSpec) -> list[tuple[str, str]]:
    variables = {"HOME": _TMP, "TMPDIR": _TMP}
    if spec.logs is LogTransport.PIPE:
        variables["__OW_LOG_PIPE"] = LOG_PIPE
    variables.update(spec.environment)
    return sorted(variables.items())


def _limits(spec: ContainerSpec, facts: EngineFacts) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if facts.memory_limit:
        limits["Memory"] = spec.memory_mib * _MIB
        if facts.swap_limit:
            limits["MemorySwap"] = spec.memory_mib * _MIB + (_PAGE if facts.systemd_limits else 0)
    if facts.cpu_quota and spec.cpu_millis:
        # Not NanoCpus: that is refused above the number of processors.
        limits["CpuPeriod"] = _CPU_PERIOD_US
        limits["CpuQuota"] = max(1000, spec.cpu_millis * _CPU_PERIOD_US // 1000)
    if facts.cpu_shares:
        limits["CpuShares"] = spec.cpu_weight
    if facts.pids_limit:
        limits["PidsLimit"] = spec.pids
    return limits


def _mounts(spec: ContainerSpec, log_directory: Path | None, shared: frozenset[str]) -> list[dict[str, Any]]:
    """Bind mounts. The engine refuses a source that does not exist, instead of creating it as root."""
    mounts = [_bind(mount, "rslave" if mount.source in shared else "rprivate") for mount in spec.mounts]
    if log_directory is not None:
        mounts.append(_bind(Mount(source=str(log_directory), target=LOG_DIRECTORY), "rprivate"))
    return mounts


def _bind(mount: Mount, propagation: str) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": propagation},
    }
