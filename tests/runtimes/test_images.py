"""Our images in real containers: what is inside, and that it works as an arbitrary user who may do nothing."""

import json
import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from engine_api import Engine, EngineFailed  # noqa: E402

pytestmark = pytest.mark.docker

A = "a" * 32
UID = 4242
SERVERS = ["python3", "nodejs20", "blackbox", "python3-science"]
MANIFEST = json.loads((ROOT / "invoker" / "runtimes.json").read_text())
KINDS = [kind for family in MANIFEST["runtimes"].values() for kind in family]
#: What an image says of itself, by family.
VERSION_COMMANDS = {
    "python": ["python3", "-c", "import platform; print(platform.python_version())"],
    "nodejs": ["node", "-p", "process.versions.node"],
}

#: A client of the contract that runs inside: a container without a network can be reached from nowhere else.
CLIENT = """
import http.client, json, sys, time
for path, value in json.load(sys.stdin):
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", 8080)
        try:
            connection.connect()
            break
        except ConnectionRefusedError:
            time.sleep(0.001)
    connection.request("POST", path, json.dumps(value))
    response = connection.getresponse()
    print(json.dumps([response.status, response.getheader("X-Invokerd-Logs"), json.load(response)]))
"""


@pytest.fixture(scope="session")
def engine(engine_url):
    return Engine(engine_url)


@pytest.fixture(scope="session", autouse=True)
def images(engine_url):
    subprocess.run([ROOT / "scripts" / "images", "--engine", engine_url], check=True, timeout=900)


class Container:
    """A container under the restrictions that the daemon sets."""

    def __init__(self, engine: Engine, image: str, directory: Path) -> None:
        self.engine = engine
        directory.chmod(0o711)
        os.mkfifo(directory / "log", 0o600)
        os.chown(directory / "log", UID, UID)
        self.fifo = os.open(directory / "log", os.O_RDWR | os.O_NONBLOCK)
        body = {
            "Image": f"invokerd/{image}:latest",
            "User": f"{UID}:{UID}",
            "Env": ["__OW_LOG_PIPE=/run/invokerd/log", "HOME=/tmp", "TMPDIR=/tmp"],
            "Labels": {"invokerd-test": "runtimes"},
            "HostConfig": {
                "NetworkMode": "none",
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": True,
                "Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,size=64m,mode=1777"},
                "Memory": 256 << 20,
                "PidsLimit": 128,
                "LogConfig": {"Type": "none", "Config": {}},
                "Mounts": [{"Type": "bind", "Source": str(directory), "Target": "/run/invokerd", "ReadOnly": True}],
            },
        }
        name = f"invokerd-test-runtimes-{uuid.uuid4().hex[:8]}"
        self.id = engine.request("POST", "/containers/create", query=[("name", name)], body=json.dumps(body).encode())["Id"]
        engine.request("POST", f"/containers/{self.id}/start")

    def inside(self, command: list[str], stdin: str = "") -> str:
        """Run a command in it; returns its standard output."""
        pid = self.engine.request("GET", f"/containers/{self.id}/json")["State"]["Pid"]
        entered = [
            "nsenter",
            f"--target={pid}",
            "--mount",
            "--net",
            "--pid",
            f"--setuid={UID}",
            f"--setgid={UID}",
            "--",
            *command,
        ]
        return subprocess.run(entered, input=stdin, capture_output=True, text=True, check=True, timeout=60).stdout

    def calls(self, *calls: tuple[str, object]) -> list[list]:
        """Send requests; answers are (status, log header, body)."""
        return [
            json.loads(line) for line in self.inside(["/usr/bin/env", "python3", "-c", CLIENT], json.dumps(calls)).splitlines()
        ]

    def act(self, code: str, value: object = None, **init: object) -> dict:
        """Initialise with code and run once; returns the result."""
        ready, done = self.calls(
            (
                "/init",
                {"value": {"name": "t", "main": "main", "code": textwrap.dedent(code), "env": {"__OW_ACTIVATION_ID": A}, **init}},
            ),
            ("/run", {"value": value or {}, "activation_id": A}),
        )
        assert ready[0] == 200, ready
        assert done[0] == 200, done
        return done[2]

    def log(self) -> str:
        return os.read(self.fifo, 1 << 20).decode()

    def remove(self) -> None:
        os.close(self.fifo)
        self.engine.request("DELETE", f"/containers/{self.id}", query=[("force", "1"), ("v", "1")])


@pytest.fixture
def container(engine, tmp_path):
    made = []

    def container(image: str) -> Container:
        made.append(Container(engine, image, tmp_path))
        return made[-1]

    yield container
    for each in made:
        each.remove()


def output_of(engine: Engine, image: str, command: list[str]) -> str:
    """Run one command in a fresh container of an image."""
    body = {
        "Image": image,
        "Entrypoint": command,
        "Labels": {"invokerd-test": "runtimes"},
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "json-file", "Config": {}}},
    }
    name = engine.request("POST", "/containers/create", body=json.dumps(body).encode())["Id"]
    try:
        engine.request("POST", f"/containers/{name}/start")
        status = engine.request("POST", f"/containers/{name}/wait")["StatusCode"]
        archive = b"".join(_frames(engine.request_bytes("GET", f"/containers/{name}/logs?stdout=1&stderr=1")))
        assert status == 0, archive
        return archive.decode().strip()
    finally:
        engine.request("DELETE", f"/containers/{name}", query=[("force", "1"), ("v", "1")])


def _frames(stream: bytes):
    while stream:
        length = int.from_bytes(stream[4:8], "big")
        yield stream[8 : 8 + length]
        stream = stream[8 + length :]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
def test_kind_says_the_version_that_is_inside(engine, kind):
    family, _, version = kind["kind"].partition(":")
    image = f"{kind['image']['prefix']}/{kind['image']['name']}:{kind['image']['tag']}"
    inside = output_of(engine, image, VERSION_COMMANDS[family]).split(".")
    assert inside[: len(version.split("."))] == version.split(".")


@pytest.mark.parametrize("image", SERVERS)
def test_image_says_what_it_speaks(engine, image):
    config = engine.request("GET", f"/images/invokerd/{image}:latest/json")["Config"]
    assert config["Labels"]["invokerd.protocol"] == "pipe"
    assert config["Labels"]["invokerd.keep-alive-s"] == "86400"
    assert not config.get("Healthcheck")
    assert "8080/tcp" in config["ExposedPorts"]


def test_second_build_makes_nothing(engine_url):
    result = subprocess.run(
        [ROOT / "scripts" / "images", "--engine", engine_url], capture_output=True, text=True, check=True, timeout=20
    )
    assert (result.stdout, result.stderr) == ("", "")


def test_unknown_image_and_dead_engine_are_told():
    command = [ROOT / "scripts" / "images"]
    unknown = subprocess.run([*command, "perl"], capture_output=True, text=True, check=False)
    dead = subprocess.run([*command, "--engine", "unix:///no/such.sock"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, dead.returncode) == (2, 1)
    assert "perl" in unknown.stderr
    assert "no engine answers at unix:///no/such.sock" in dead.stderr


INSIDE = """
    import os
    def main(args):
        def refused(action):
            try:
                action()
            except OSError as error:
                return error.errno
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        with open("/tmp/program", "w") as file:
            file.write("#!/bin/sh\\necho runs")
        os.chmod("/tmp/program", 0o755)
        return {
            "ids": [os.getuid(), os.getgid(), os.geteuid()],
            "capabilities": [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
            "no_new_privileges": status["NoNewPrivs"].strip(),
            "write": refused(lambda: open("/invokerd/x", "w")),
            "network": os.listdir("/sys/class/net"),
            "tmp": os.popen("/tmp/program").read(),
            "home": os.environ["HOME"],
        }
"""


def test_python_works_as_a_user_who_may_do_nothing(container):
    inside = container("python3").act(INSIDE)
    assert inside["ids"] == [UID, UID, UID]
    assert set(inside["capabilities"]) == {"0000000000000000"}
    assert inside["no_new_privileges"] == "1"
    assert inside["write"] == 30  # EROFS
    assert inside["network"] == ["lo"]
    assert inside["tmp"] == "runs\n"


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("python3", "def main(args):\n    print('hello')\n    return {'n': args['n']}\n"),
        ("nodejs20", "function main({ n }) { console.log('hello'); return { n }; }"),
        ("blackbox", "#!/bin/sh\necho hello\ncat"),
    ],
)
def test_call_and_its_frames(container, image, code):
    made = container(image)
    assert made.act(code, {"n": 5}) == {"n": 5}
    activation, seq, stream, _, text = made.log().split(" ", 4)
    assert (activation, seq, stream, text) == (A, "0", "o", "hello\n")


@pytest.mark.parametrize(
    ("image", "name", "code"),
    [
        ("python3", "__main__.py", "import helper\ndef main(args):\n    return {'zip': True}\n"),
        ("nodejs20", "index.js", "require('./helper'); exports.main = () => ({ zip: true });"),
        ("blackbox", "exec", "#!/bin/sh\ntest -f helper.py && echo '{\"zip\": true}'"),
    ],
)
def test_zip(container, zipped, image, name, code):
    assert container(image).act(zipped({name: code, "helper.py": "", "helper.js": ""}), binary=True) == {"zip": True}


ZOMBIES = {
    "python3": (
        "import os, time\ndef main(args):\n    os.system('(sleep 0.05 &) ; true')\n    time.sleep(0.3)\n"
        "    return {'z': os.popen('cat /proc/[0-9]*/stat').read().count(') Z ')}\n"
    ),
    "nodejs20": (
        "const { execSync } = require('child_process');\nfunction main() { execSync('(sleep 0.05 &) ; sleep 0.3');\n"
        "return { z: execSync('cat /proc/[0-9]*/stat').toString().split(') Z ').length - 1 }; }"
    ),
    "blackbox": '#!/bin/sh\n(sleep 0.05 &)\nsleep 0.3\necho "{\\"z\\": $(cat /proc/[0-9]*/stat | grep -c \') Z \')}"',
}


@pytest.mark.parametrize("image", ZOMBIES)
def test_orphans_are_reaped(container, image):
    assert container(image).act(ZOMBIES[image]) == {"z": 0}


def test_child_that_an_action_waits_for_keeps_its_exit_status(container):
    code = (
        "import subprocess\ndef main(args):\n    return {'codes': [subprocess.call(['sh', '-c', f'exit {n}']) for n in (0,7)]}\n"
    )
    assert container("python3").act(code) == {"codes": [0, 7]}


@pytest.mark.parametrize("image", ["python3", "nodejs20", "blackbox"])
def test_stop_ends_the_container_at_once(container, engine, image):
    made = container(image)
    made.calls(("/run", {}))
    engine.request("POST", f"/containers/{made.id}/kill", query=[("signal", "TERM")])
    assert engine.request("POST", f"/containers/{made.id}/wait", timeout_s=3)["StatusCode"] in {143, 137}


def test_container_ends_with_its_server(container, engine):
    made = container("python3")
    made.calls(("/init", {"value": {"code": "import os\ndef main(args):\n    os._exit(7)\n"}}))
    with pytest.raises(subprocess.CalledProcessError):
        made.calls(("/run", {"value": {}}))
    assert engine.request("POST", f"/containers/{made.id}/wait", timeout_s=3)["StatusCode"] == 7


def test_science_packages_compute(container):
    code = """
        import io
        import h5py, hdf5plugin, numpy, scipy.ndimage
        def main(args):
            frame = numpy.zeros((64, 64), numpy.int32)
            frame[10, 20] = frame[40, 41] = 9
            memory = io.BytesIO()
            with h5py.File(memory, "w") as file:
                file.create_dataset("frame", data=frame, **hdf5plugin.Bitshuffle())
            with h5py.File(memory) as file:
                count = scipy.ndimage.label(file["frame"][()] > 5)[1]
            return {"peaks": int(count)}
    """
    assert container("python3-science").act(code) == {"peaks": 2}


def test_modules_of_the_images_are_compiled(engine):
    script = "import glob, json; print(glob.glob('/invokerd/__pycache__/*'), glob.glob(json.decoder.__cached__))"
    command = ["python3", "-c", script]
    listed = output_of(engine, "invokerd/python3:latest", command)
    assert "invokerd_python" in listed
    assert "json/__pycache__/decoder" in listed


def test_engine_that_refuses_is_told_in_its_own_words(engine):
    with pytest.raises(EngineFailed, match="No such container"):
        engine.request("GET", "/containers/no-such/json")
