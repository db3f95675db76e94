"""What a container of ours is from inside: the effective values, as its process sees them."""

import asyncio
import os
import subprocess
import uuid
from pathlib import Path

import msgspec
import pytest

from pool.docker import DockerBackend
from pool.errors import EngineError
from pool.fifo import create_fifo
from pool.model import ContainerId, ContainerSpec, LogTransport, Mount

pytestmark = pytest.mark.docker

UID, GID, GROUPS = 43210, 43211, (50001, 50002)


@pytest.fixture
async def backend(engine_url, tmp_path):
    backend = await DockerBackend.open(
        engine_url, node=f"inside-{uuid.uuid4().hex[:6]}", boot_id="b", run_dir=tmp_path / "containers"
    )
    try:
        yield backend
    finally:
        for left in await backend.list_containers():
            await backend.remove(left.container_id, None)
        await backend.close()


@pytest.fixture
def spec(probe_images):
    return ContainerSpec(
        namespace="n",
        uid=UID,
        gid=GID,
        groups=GROUPS,
        image=probe_images["pipe"].image_id,
        kind="probe",
        memory_mib=48,
        cpu_millis=500,
        cpu_weight=512,
        pids=50,
        open_files=77,
        tmp_mib=5,
        environment=(("GREETING", "hello world"), ("OMP_NUM_THREADS", "1")),
    )


@pytest.fixture
def look(backend):
    """Start a container and run one shell script in it: its output, and the handle."""

    async def look(spec: ContainerSpec, script: str, *, handle=None):
        handle = handle or await backend.create(ContainerId(f"invokerd-inside-{uuid.uuid4().hex[:12]}"), spec)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while True:
                try:
                    sock = await backend.dial(handle)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.002)
            with sock:
                body = script.encode()
                await loop.sock_sendall(sock, b"POST /cgi-bin/sh HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                answer = b""
                while data := await loop.sock_recv(sock, 65536):
                    answer += data
        return answer.partition(b"\r\n\r\n")[2].decode(), handle

    return look


def fields(status: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}


async def test_the_process_is_the_user_with_the_users_groups_and_no_right_beyond(look, spec):
    status, _ = await look(spec, "cat /proc/1/status")
    found = fields(status)
    assert found["Uid"].split() == [str(UID)] * 4
    assert found["Gid"].split() == [str(GID)] * 4
    assert {int(group) for group in found["Groups"].split()} == {GID, *GROUPS}
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[capabilities], 16) == 0
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"


async def test_without_groups_it_has_its_own_alone(look, spec):
    status, _ = await look(msgspec.structs.replace(spec, groups=()), "cat /proc/1/status")
    assert {int(group) for group in fields(status)["Groups"].split()} <= {GID}


async def test_only_tmp_can_be_written_within_its_size_and_what_is_there_can_be_executed(look, spec):
    script = """
        for place in / /bin /www /run /run/invokerd /etc /proc/sys /sys; do
            if (echo x > $place/x) 2>/dev/null; then echo "wrote $place"; fi
        done
        printf '#!/bin/sh\\necho executed\\n' > /tmp/program; chmod +x /tmp/program; /tmp/program
        dd if=/dev/zero of=/tmp/big bs=1024k count=20 2>/dev/null; ls -ln /tmp/big
    """
    said, _ = await look(spec, script.replace("chmod", "/bin/busybox chmod"))
    lines = said.splitlines()
    assert lines[0] == "executed"
    size = int(lines[1].split()[4])
    assert 4 << 20 < size <= 5 << 20
    assert lines[1].split()[2:4] == [str(UID), str(GID)]
    assert len(lines) == 2


async def test_tmp_counts_as_memory_and_a_process_over_the_limit_is_killed(look, spec):
    spec = msgspec.structs.replace(spec, tmp_mib=200, memory_mib=24)
    said, handle = await look(spec, "dd if=/dev/zero of=/tmp/big bs=1024k count=100; echo ended with $?")
    assert "ended with 137" in said or handle.oom_kills() > 0
    assert handle.oom_kills() >= 1
    assert handle.memory().peak <= 24 << 20


async def test_memory_and_swap_have_one_limit(look, spec):
    said, _ = await look(
        spec,
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes 2>/dev/null"
        " || cat memory.max memory.swap.max",
    )
    limit, swap = said.split()
    assert int(limit) == 48 << 20
    assert int(swap) in {48 << 20, 0}


async def test_the_cpu_quota_holds_and_the_lost_time_is_seen(look, spec):
    said, handle = await look(
        spec,
        "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares 2>/dev/null || cat cpu.max cpu.weight",
    )
    quota, period, weight = said.split()
    assert int(quota) / int(period) == 0.5
    assert int(weight) == 512 or int(weight) < 100
    before, throttled = handle.cpu_us(), handle.throttled_us()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(30):  # on a busy machine it may get less than its quota, and then is not throttled
        while handle.throttled_us() == throttled:
            await look(spec, "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done", handle=handle)
    elapsed_us = (loop.time() - began) * 1e6
    assert handle.cpu_us() - before <= 0.5 * elapsed_us + 60_000


async def test_processes_files_and_cores_are_limited(look, spec):
    script = """
        ulimit -n; ulimit -c; ulimit -Hc
        i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done 2>&1 | head -n 1
        cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max
    """
    said, _ = await look(spec, script)
    lines = said.splitlines()
    assert lines[:3] == ["77", "0", "0"]
    assert any("fork" in line for line in lines[3:])
    assert lines[-1] == "50" or any("fork" in line for line in lines[-2:])


async def test_there_is_no_network_but_its_own_loopback(look, spec):
    said, _ = await look(spec, "ls /sys/class/net; cat /proc/net/route | head -n 5; ip route; echo end")
    lines = said.splitlines()
    assert lines[0] == "lo"
    assert not [line for line in lines[1:] if line.startswith(("eth", "default", "veth"))]
    assert os.readlink("/proc/self/ns/net") not in said  # noqa: PTH115


async def test_it_sees_no_processes_devices_or_ipc_of_the_host(look, spec):
    said, handle = await look(
        spec, "ls -d /proc/[0-9]* | head -n 30; ls /dev; for n in ipc pid mnt uts; do ls -l /proc/1/ns/$n; done"
    )
    processes = [line for line in said.splitlines() if line.startswith("/proc/")]
    assert len(processes) < 10
    for name in ("ipc", "pid", "mnt", "uts", "net"):
        inside, outside = (Path(f"/proc/{pid}/ns/{name}").readlink() for pid in (handle.descriptors.pid, "self"))
        assert inside != outside
    devices = set(said.split())
    assert not devices & {"kvm", "mem", "vda", "sda", "loop0", "fuse"}


async def test_the_environment_is_that_of_the_spec_and_says_where_the_log_pipe_is(look, spec):
    said, _ = await look(spec, "cat /proc/1/environ | tr '\\0' '\\n'".replace("tr ", "/bin/busybox tr "))
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    assert found["GREETING"] == "hello world"
    assert (found["HOME"], found["TMPDIR"], found["__OW_LOG_PIPE"]) == ("/tmp", "/tmp", "/run/invokerd/log")


async def test_the_log_pipe_can_be_written_and_nothing_can_be_put_beside_it_or_in_its_place(look, spec):
    script = """
        (echo x > /run/invokerd/other) 2>/dev/null && echo wrote
        /bin/busybox rm -f /run/invokerd/log 2>/dev/null && echo removed
        ls /run/invokerd 2>/dev/null
        echo line > /run/invokerd/log && echo ok
    """
    said, handle = await look(spec, script)
    assert said.split() == ["ok"]
    assert os.read(handle.descriptors.log, 100) == b"line\n"


async def test_a_mount_is_read_only_or_the_users_and_nobody_elses(look, spec, tmp_path):
    tmp_path.chmod(0o755)
    for name, mode, owner in (("site", 0o755, 0), ("mine", 0o700, UID), ("others", 0o700, UID + 1)):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "file").write_text(f"content of {name}\n")
        (directory / "file").chmod(0o600 if owner else 0o644)
        os.chown(directory / "file", owner, owner)
        os.chown(directory, owner, owner)
        directory.chmod(mode)
    mounts = tuple(
        Mount(source=str(tmp_path / name), target=f"/data/{name}", read_only=name == "site")
        for name in ("site", "mine", "others")
    )
    script = """
        cat /data/site/file /data/mine/file
        cat /data/others/file 2>/dev/null && echo leaked
        (echo x > /data/site/new) 2>/dev/null && echo wrote site
        echo from inside > /data/mine/new && echo wrote mine
    """
    said, _ = await look(msgspec.structs.replace(spec, mounts=mounts), script)
    assert said.splitlines() == ["content of site", "content of mine", "wrote mine"]
    made = (tmp_path / "mine" / "new").stat()
    assert (made.st_uid, made.st_gid) == (UID, GID)


@pytest.fixture
def shared_mount(tmp_path):
    """A directory that is a shared mount, as autofs and CVMFS need it."""
    site = tmp_path / "site"
    site.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(site)], check=False).returncode:
        pytest.skip("this process may not mount")
    subprocess.run(["mount", "--make-shared", str(site)], check=True)
    yield site
    subprocess.run(["umount", "-R", str(site)], check=True)


async def test_what_the_site_mounts_later_appears_in_a_running_container(look, spec, shared_mount):
    repository = shared_mount / "repository"
    repository.mkdir()
    spec = msgspec.structs.replace(spec, mounts=(Mount(source=str(shared_mount), target="/cvmfs"),))
    said, handle = await look(spec, "ls /cvmfs/repository; echo end")
    assert said.split() == ["end"]
    subprocess.run(["mount", "-t", "tmpfs", "none", str(repository)], check=True)
    (repository / "software").touch()
    said, _ = await look(spec, "ls /cvmfs/repository; echo end", handle=handle)
    assert said.split() == ["software", "end"]


async def test_a_foreign_image_gets_the_same_walls(look, spec, probe_images):
    foreign = msgspec.structs.replace(spec, image=probe_images["foreign"].image_id, logs=LogTransport.ATTACHED)
    status, _ = await look(foreign, "cat /proc/self/status; ls /run")
    found = fields(status)
    assert found["Uid"].split()[0] == str(UID)
    assert int(found["CapBnd"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    assert "invokerd" not in status.splitlines()[-1]


async def test_a_container_whose_log_pipe_was_replaced_on_the_host_is_not_adopted(backend, spec, tmp_path):
    """As after a restore of `state_dir` from a copy: it serves, but nobody would hear it."""
    old = await backend.create(ContainerId(f"invokerd-inside-{uuid.uuid4().hex[:12]}"), spec)
    old.close()
    (found,) = await backend.list_containers()
    (await backend.adopt(found)).close()
    (tmp_path / "containers" / old.container_id).rename(tmp_path / "aside")
    create_fifo(tmp_path / "containers", old.container_id, UID, GID)
    with pytest.raises(EngineError, match="log pipe"):
        await backend.adopt(found)
