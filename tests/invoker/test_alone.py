import subprocess
import sys
import uuid

import pytest

from invoker.alone import NodeInUse, alone_in_cgroup, alone_on_node


def test_a_name_of_a_node_is_held_while_the_block_runs_and_then_free_again(tmp_path) -> None:
    url = f"unix://{tmp_path}/docker.sock"
    for _ in range(2):
        with alone_on_node("n1", url):
            with pytest.raises(NodeInUse, match=r"another daemon serves node 'n1'.*a name of its own"), alone_on_node("n1", url):
                pass
            with alone_on_node("n2", url), alone_on_node("n1", url + "2"):
                pass


def test_the_name_is_free_when_its_holder_was_killed(tmp_path) -> None:
    url = f"unix://{tmp_path}/docker.sock"
    code = f"from invoker.alone import alone_on_node\nwith alone_on_node('n1', {url!r}): print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(NodeInUse), alone_on_node("n1", url):
            pass
        holder.kill()
    with alone_on_node("n1", url):
        pass


def test_a_cgroup_of_containers_is_held_by_one_daemon() -> None:
    name = f"functions_{uuid.uuid4().hex[:8]}"
    for _ in range(2):
        with (
            alone_in_cgroup(name),
            pytest.raises(NodeInUse, match=rf"cgroup '{name}'.*`pool\.cgroup_parent`"),
            alone_in_cgroup(name),
        ):
            pass
        with alone_in_cgroup(name), alone_in_cgroup(name + "2"):
            pass
