"""The users' cgroups: what the engine is told; weights on made-up hierarchies of both versions; and both on this machine's."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import pytest

from pool.cgroup import mount_points
from pool.docker import DockerBackend
from pool.errors import EngineError
from pool.model import ContainerId, ContainerSpec
from pool.user_groups import UserGroups, default_parent, parent_path
from tests.support.cpu_group import cpu_group_of, cpu_weight
from tests.support.made_up_cgroups import hierarchy


def a_spec(namespace: str = "anna", uid: int = 1001) -> ContainerSpec:
    return ContainerSpec(namespace=namespace, uid=uid, gid=uid, image="sha256:1", kind="k", memory_mib=256)


def weights(**by_namespace: float):
    return lambda namespace: by_namespace.get(namespace, 1.0)


def refuse(command: list[str]) -> None:
    pytest.fail(f"nothing is to be run: {command}")


def test_each_node_has_a_parent_of_its_own_which_is_no_slice_in_another():
    assert default_parent("web-1") == "functions_web_1"


@pytest.mark.parametrize(("driver", "parent"), [("cgroupfs", "/functions"), ("systemd", "functions.slice"), ("none", None)])
def test_the_parent_is_named_as_the_engines_driver_wants_it(driver: str, parent: str | None):
    assert parent_path("functions", driver) == parent


@pytest.mark.parametrize(("parent", "group"), [("/x", "/x/u1001"), ("x.slice", "x-u1001.slice")])
def test_each_user_has_one_cgroup_below_the_parent_whatever_the_namespace(parent: str, group: str):
    groups = UserGroups(parent, weights(), run=refuse)
    assert groups.of(a_spec("anna")) == groups.of(a_spec("other")) == group
    assert groups.of(a_spec(uid=2)) != group


@pytest.mark.parametrize(
    ("version", "file", "usual", "weight", "value"),
    [
        (1, "cpu.shares", 1024, 4.0, 4096),
        (1, "cpu.shares", 1024, 0.001, 2),
        (1, "cpu.shares", 1024, 1000.0, 262_144),
        (2, "cpu.weight", 100, 4.0, 400),
        (2, "cpu.weight", 100, 0.001, 1),
        (2, "cpu.weight", 100, 1000.0, 10_000),
    ],
)
async def test_a_group_gets_its_weight_within_what_the_kernel_takes(tmp_path, version, file, usual, weight, value):
    proc, point = hierarchy(tmp_path, version, "cpu")
    directory = point / "functions" / "u1001"
    directory.mkdir(parents=True)
    (directory / file).write_text(f"{usual}\n")
    await UserGroups("/functions", weights(anna=weight), proc=proc, run=refuse).weigh(a_spec())
    assert (directory / file).read_text() == str(value)


async def test_a_weight_of_an_earlier_daemon_is_put_right(tmp_path):
    proc, point = hierarchy(tmp_path, 2)
    directory = point / "functions" / "u1001"
    directory.mkdir(parents=True)
    (directory / "cpu.weight").write_text("400\n")
    await UserGroups("/functions", weights(), proc=proc, run=refuse).weigh(a_spec())
    assert (directory / "cpu.weight").read_text() == "100"


async def test_changed_weights_are_given_to_the_groups_that_are_there_and_to_the_others_when_they_come_back(tmp_path, caplog):
    proc, point = hierarchy(tmp_path, 1, "cpu")
    files = {uid: point / "functions" / f"u{uid}" / "cpu.shares" for uid in (1001, 1002, 1003)}
    for file in files.values():
        file.parent.mkdir(parents=True)
        file.write_text("1024\n")
    now = {"anna": 1.0, "otto": 2.0, "gone": 1.0}
    groups = UserGroups("/functions", now.__getitem__, proc=proc, run=refuse)
    for namespace, uid in (("anna", 1001), ("otto", 1002), ("gone", 1003)):
        await groups.weigh(a_spec(namespace, uid=uid))
    files[1003].unlink()
    files[1003].parent.rmdir()
    now |= {"anna": 4.0, "gone": 3.0}
    with caplog.at_level(logging.WARNING):
        await groups.weigh_anew()
    assert [files[uid].read_text() for uid in (1001, 1002)] == ["4096", "2048"]
    assert not caplog.records
    files[1003].parent.mkdir()
    files[1003].write_text("1024\n")
    await groups.weigh(a_spec("gone", uid=1003))
    assert files[1003].read_text() == "3072"


async def test_systemd_is_told_of_a_changed_weight(tmp_path):
    proc, point = hierarchy(tmp_path, 2)
    (point / "a.slice" / "a-u1001.slice").mkdir(parents=True)
    (point / "a.slice" / "a-u1001.slice" / "cpu.weight").write_text("100\n")
    now, told = {"anna": 1.0}, []
    groups = UserGroups("a.slice", now.__getitem__, proc=proc, run=told.append)
    await groups.weigh(a_spec("anna"))
    await groups.weigh_anew()
    assert told == []
    now["anna"] = 0.5
    await groups.weigh_anew()
    assert told == [["systemctl", "set-property", "--runtime", "a-u1001.slice", "CPUWeight=50"]]


def test_groups_without_containers_are_removed_and_the_others_stay(tmp_path):
    proc, point = hierarchy(tmp_path, 1, "cpu")
    parent = point / "functions"
    (parent / "u1001" / "a container").mkdir(parents=True)
    for other in ("u1002", "u1003", "site"):
        (parent / other).mkdir()
    groups = UserGroups("/functions", weights(), proc=proc, run=refuse)
    groups.remove_empty(parent=True)
    assert {each.name for each in parent.iterdir()} == {"u1001", "site"}, "what is not ours stays, and so does the parent"
    for left in (parent / "u1001" / "a container", parent / "site"):
        left.rmdir()
    groups.remove_empty()
    assert list(point.iterdir()) == [parent]
    assert not list(parent.iterdir())
    groups.remove_empty(parent=True)
    assert not parent.exists()


def test_slices_are_left_to_systemd(tmp_path):
    proc, point = hierarchy(tmp_path, 2)
    (point / "a.slice" / "a-u1001.slice").mkdir(parents=True)
    UserGroups("a.slice", weights(), proc=proc, run=refuse).remove_empty(parent=True)
    assert (point / "a.slice" / "a-u1001.slice").is_dir()


@pytest.mark.parametrize(("weight", "value"), [(None, "700"), (2.5, "2560")])
async def test_the_parent_gets_its_weight_with_the_first_container_where_the_site_has_given_it_one(tmp_path, weight, value):
    proc, point = hierarchy(tmp_path, 1, "cpu")
    file = point / "functions" / "u1001" / "cpu.shares"
    file.parent.mkdir(parents=True)
    file.write_text("1024")
    above = point / "functions" / "cpu.shares"
    above.write_text("700")
    groups = UserGroups("/functions", weights(), weight=weight, proc=proc, run=refuse)
    await groups.weigh(a_spec())
    assert above.read_text() == value
    above.write_text("1")  # by an operator, who knows why
    await groups.weigh(a_spec())
    assert above.read_text() == "1"


async def test_systemd_is_told_where_it_makes_the_groups_and_only_of_what_changes(tmp_path):
    proc, point = hierarchy(tmp_path, 2)
    told: list[list[str]] = []
    for uid in (1001, 1002):
        directory = point / "a.slice" / "a-b.slice" / f"a-b-u{uid}.slice"
        directory.mkdir(parents=True)
        (directory / "cpu.weight").write_text("100\n")
    groups = UserGroups("a-b.slice", weights(anna=3.0), proc=proc, run=told.append)
    for _ in range(2):
        await groups.weigh(a_spec("anna"))
        await groups.weigh(a_spec("otto", uid=1002))
    assert told == [["systemctl", "set-property", "--runtime", "a-b-u1001.slice", "CPUWeight=300"]]
    assert (point / "a.slice" / "a-b.slice" / "a-b-u1001.slice" / "cpu.weight").read_text() == "100\n"  # systemd's to write


@pytest.mark.parametrize("is_mounted", [True, False])
async def test_a_weight_that_cannot_be_given_is_told_once_and_costs_no_start(tmp_path, caplog, is_mounted):
    proc, _ = hierarchy(tmp_path, 2)
    if not is_mounted:
        (proc / "self" / "mountinfo").write_text("")
    groups = UserGroups("/functions", weights(anna=3.0), proc=proc, run=refuse)
    with caplog.at_level(logging.WARNING):
        await groups.weigh(a_spec())
        await groups.weigh(a_spec())
    (record,) = caplog.records
    assert "uid 1001 do not get their weight of 3 in CPU time" in record.getMessage()


@pytest.fixture
async def backend(engine_url, tmp_path):
    """A backend on the real engine whose containers, and cgroups, are gone afterwards."""
    name = f"functions-{uuid.uuid4().hex[:6]}"
    backend = await DockerBackend.open(engine_url, node=name, boot_id="b", run_dir=tmp_path / "containers")
    backend.use_groups(UserGroups(parent_path(name, backend.facts.cgroup_driver) or pytest.skip("no cgroups"), weights(anna=3.0)))
    try:
        yield backend
    finally:
        for left in await backend.list_containers():
            await backend.remove(left.container_id, None)
        await backend.close()
        UserGroups(parent_path(name, backend.facts.cgroup_driver), weights()).remove_empty(parent=True)
        assert not [point for _, point, _ in mount_points(Path("/proc/self/mountinfo").read_text()) if (point / name).exists()]


@pytest.mark.docker
async def test_the_engine_makes_a_cgroup_for_each_user_and_it_has_the_users_weight(backend, probe_images):
    image = probe_images["pipe"].image_id
    groups = []
    for namespace, uid in (("anna", 43210), ("anna", 43210), ("otto", 43220)):
        spec = ContainerSpec(namespace=namespace, uid=uid, gid=uid, image=image, kind="probe", memory_mib=48)
        handle = await backend.create(ContainerId(f"invokerd-groups-{uuid.uuid4().hex[:12]}"), spec)
        groups.append(cpu_group_of(handle.descriptors.pid).parent)
    assert groups[0] == groups[1] != groups[2]
    assert groups[0].parent == groups[2].parent
    assert {"u43210", "u43220"} == {group.name.removesuffix(".slice").rpartition("-")[2] for group in groups}
    assert cpu_weight(groups[0]) == 3 * cpu_weight(groups[2])


@pytest.mark.docker
async def test_a_container_of_an_earlier_daemon_is_weighed_anew_and_refused_where_the_parent_is_another(backend, probe_images):
    spec = ContainerSpec(namespace="anna", uid=43230, gid=43230, image=probe_images["pipe"].image_id, kind="probe", memory_mib=48)
    handle = await backend.create(ContainerId(f"invokerd-groups-{uuid.uuid4().hex[:12]}"), spec)
    group = cpu_group_of(handle.descriptors.pid).parent
    three = cpu_weight(group)
    name = group.parent.name.removesuffix(".slice")
    handle.close()
    (found,) = await backend.list_containers()
    parent = parent_path(name, backend.facts.cgroup_driver)
    backend.use_groups(UserGroups(parent, weights(anna=6.0)))
    handle = await backend.adopt(found)
    assert cpu_weight(group) == 2 * three
    handle.close()
    backend.use_groups(UserGroups(parent_path("elsewhere", backend.facts.cgroup_driver), weights()))
    with pytest.raises(EngineError, match=r"not in the cgroup .*elsewhere.*u43230"):
        await backend.adopt(found)
