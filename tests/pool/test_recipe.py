from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pool.backend import FoundContainer
from pool.errors import ContainerStartFailed
from pool.model import ContainerId, ContainerSpec, LogTransport, Mount
from pool.recipe import LABEL_SPEC, EngineFacts, create_request, labels_of, spec_of

INFO = {
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "CPUShares": True,
    "PidsLimit": True,
    "InitBinary": "docker-init",
}
ABLE = EngineFacts.of(INFO, version="28.0", api_version="v1.47")
SPEC = ContainerSpec(
    namespace="ana",
    uid=1001,
    gid=1002,
    groups=(2001, 2002),
    image="sha256:1",
    kind="python:3",
    memory_mib=256,
    cpu_millis=1500,
    environment=(("OMP_NUM_THREADS", "2"),),
    mounts=(Mount(source="/cvmfs", target="/cvmfs"), Mount(source="/data", target="/data", read_only=False)),
)


def request(spec: ContainerSpec = SPEC, facts: EngineFacts = ABLE, **changes):
    settings = {"node": "n1", "boot_id": "b1", "log_directory": Path("/state/containers/c1"), **changes}
    return create_request(spec, facts, **settings)


def test_the_engine_describes_itself():
    assert (ABLE.cgroup_driver, ABLE.cgroup_version, ABLE.init_binary) == ("systemd", 2, True)
    assert ABLE.missing == ()


def test_the_process_is_the_user_and_may_nothing():
    made = request()
    host = made["HostConfig"]
    assert made["User"] == "1001:1002"
    assert host["GroupAdd"] == ["2001", "2002"]
    assert host["CapDrop"] == ["ALL"]
    assert "CapAdd" not in host
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert (host["NetworkMode"], host["IpcMode"]) == ("none", "private")
    assert "Privileged" not in host
    assert "Devices" not in host


def test_the_limits_are_those_of_the_spec_and_swap_is_none():
    host = request(facts=replace(ABLE, cgroup_driver="cgroupfs"))["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 256 << 20
    assert (host["CpuPeriod"], host["CpuQuota"], host["CpuShares"]) == (100_000, 150_000, 1024)
    assert host["PidsLimit"] == 1024
    assert {"Name": "core", "Soft": 0, "Hard": 0} in host["Ulimits"]
    assert {"Name": "nofile", "Soft": 1024, "Hard": 1024} in host["Ulimits"]
    assert "nproc" not in [limit["Name"] for limit in host["Ulimits"]], "the kernel counts it by user, over all containers"
    assert "size=64m" in host["Tmpfs"]["/tmp"]
    assert not {"noexec"} & set(host["Tmpfs"]["/tmp"].split(","))
    assert {"exec", "nosuid", "nodev", "mode=1777"} <= set(host["Tmpfs"]["/tmp"].split(","))


def test_where_systemd_sets_the_limits_it_is_told_of_a_page_of_swap_for_it_is_never_told_of_none():
    host = request()["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (256 << 20, (256 << 20) + 4096)
    host = request(facts=replace(ABLE, cgroup_version=1))["HostConfig"]
    assert host["Memory"] == host["MemorySwap"]


def test_without_a_quota_none_is_sent_and_a_tiny_one_is_the_kernels_least():
    assert "CpuQuota" not in request(msgspec.structs.replace(SPEC, cpu_millis=0))["HostConfig"]
    assert request(msgspec.structs.replace(SPEC, cpu_millis=1))["HostConfig"]["CpuQuota"] == 1000


@pytest.mark.parametrize(
    ("fact", "options"),
    [
        ("memory_limit", {"Memory", "MemorySwap"}),
        ("swap_limit", {"MemorySwap"}),
        ("cpu_quota", {"CpuQuota", "CpuPeriod"}),
        ("cpu_shares", {"CpuShares"}),
        ("pids_limit", {"PidsLimit"}),
    ],
)
def test_an_option_that_the_engine_does_not_support_is_not_sent(fact, options):
    facts = replace(ABLE, **{fact: False})
    assert set(request()["HostConfig"]) - set(request(facts=facts)["HostConfig"]) == options
    assert facts.missing == (fact,)


def test_an_engine_that_says_nothing_supports_nothing():
    assert len(EngineFacts.of({}, version="", api_version="").missing) == 5


def test_the_engine_keeps_no_logs_restarts_nothing_and_probes_nothing():
    made = request()
    assert made["Healthcheck"] == {"Test": ["NONE"]}
    host = made["HostConfig"]
    assert host["LogConfig"]["Type"] == "none"
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["AutoRemove"] is False
    assert host["OomScoreAdj"] > 0


def test_our_runtimes_get_the_pipe_and_foreign_images_an_init():
    ours = request()
    assert "__OW_LOG_PIPE=/run/invokerd/log" in ours["Env"]
    assert ours["HostConfig"]["Init"] is False
    assert {"Source": "/state/containers/c1", "Target": "/run/invokerd", "ReadOnly": True}.items() <= ours["HostConfig"][
        "Mounts"
    ][-1].items()
    foreign = request(msgspec.structs.replace(SPEC, logs=LogTransport.ATTACHED), log_directory=None)
    assert foreign["HostConfig"]["Init"] is True
    assert not [variable for variable in foreign["Env"] if variable.startswith("__OW_LOG_PIPE")]
    assert len(foreign["HostConfig"]["Mounts"]) == 2
    without = replace(ABLE, init_binary=False)
    assert request(msgspec.structs.replace(SPEC, logs=LogTransport.ATTACHED), without)["HostConfig"]["Init"] is False


def test_the_environment_of_the_spec_wins_over_ours():
    made = request(msgspec.structs.replace(SPEC, environment=(("HOME", "/home/ana"),)))
    assert "HOME=/home/ana" in made["Env"]
    assert "TMPDIR=/tmp" in made["Env"]


def test_mounts_are_read_only_as_told_and_follow_later_submounts_where_the_host_shares_them():
    cvmfs, data, _ = request(shared_mounts=frozenset({"/cvmfs"}))["HostConfig"]["Mounts"]
    assert (cvmfs["ReadOnly"], cvmfs["BindOptions"]["Propagation"]) == (True, "rslave")
    assert (data["ReadOnly"], data["BindOptions"]["Propagation"]) == (False, "rprivate")
    assert request()["HostConfig"]["Mounts"][0]["BindOptions"]["Propagation"] == "rprivate"


def test_the_parent_cgroup_is_sent_only_when_there_is_one():
    assert request(cgroup_parent="invokerd.slice")["HostConfig"]["CgroupParent"] == "invokerd.slice"
    assert "CgroupParent" not in request()["HostConfig"]


def found(labels) -> FoundContainer:
    return FoundContainer(container_id=ContainerId("c"), engine_id="e", running=True, labels=labels)


def test_a_container_tells_a_later_daemon_what_it_was_made_from():
    labels = request()["Labels"]
    assert (labels["invokerd.node"], labels["invokerd.boot"]) == ("n1", "b1")
    assert spec_of(found(labels)) == SPEC
    assert spec_of(found(labels_of(SPEC, node="n1", boot_id="b1"))).digest == SPEC.digest


@pytest.mark.parametrize("labels", [{}, {LABEL_SPEC: "{}"}, {LABEL_SPEC: "rubbish"}, {LABEL_SPEC: '{"namespace":1}'}])
def test_a_label_that_is_not_ours_is_refused(labels):
    with pytest.raises(ContainerStartFailed, match="what it was made from"):
        spec_of(found(labels))
