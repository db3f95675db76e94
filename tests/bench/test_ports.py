import socket
import subprocess
import sys

from bench import ports
from bench.ports import reserve_port


def test_a_port_is_free_and_below_those_of_outgoing_connections():
    port = reserve_port()
    assert ports.FIRST <= port <= ports.LAST
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_no_process_is_given_a_port_that_another_has():
    mine = reserve_port()
    script = (
        "import sys; from bench import ports; ports.random.sample = lambda *_: [int(sys.argv[1]), int(sys.argv[2])]; "
        "print(ports.reserve_port())"
    )
    other = next(port for port in range(mine + 1, ports.LAST) if _is_free(port))
    told = subprocess.run([sys.executable, "-c", script, str(mine), str(other)], capture_output=True, text=True, check=True)
    assert int(told.stdout) == other


def test_a_port_on_which_somebody_listens_is_passed_over(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken, free = listening.getsockname()[1], reserve_port()
        monkeypatch.setattr(ports.random, "sample", lambda *_: [taken, free + 1, free + 2, free + 3])
        assert reserve_port() != taken


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
