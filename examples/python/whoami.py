"""Who an action is and what it can reach: the user's own ids, and the data mount if the site grants one.

{} -> {"uid": 2001, "gid": 2001, "groups": [], "mount": {"path": "/data", "visible": true, "writable": false}, ...}
"""

import os


def main(args):
    """Report ids, capabilities and the state of a mount (`mount`, default /data)."""
    mount = args.get("mount", "/data")
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    probe = os.path.join(mount, ".write-probe")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
        refusal = None
    except OSError as error:
        refusal = error.strerror
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": sorted(os.getgroups()),
        "capabilities": status.get("CapEff", "").strip(),
        "no_new_privileges": status.get("NoNewPrivs", "").strip() == "1",
        "mount": {"path": mount, "visible": os.path.isdir(mount), "writable": refusal is None, "refusal": refusal},
    }
