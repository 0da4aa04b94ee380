"""What a kernel's settings take away, and what fragscope says: the same snapshot and the same session under each.

Runs in the virtual machine, as root.
"""

import json
import os
import subprocess
import time

WORKER = """
import time
kept = []
print('ready', flush=True)
while True:
    kept.append([bytes(600 + n % 3000) for n in range(500)])
    if len(kept) > 40:
        del kept[::2]
    time.sleep(0.02)
"""
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
SYSCTL = "/proc/sys/kernel/"


def write(path, value):
    """Sets a setting of the kernel's; says why not."""
    try:
        with open(path, "w") as file:
            file.write(value)
        return None
    except OSError as error:
        return f"{path}: {error.strerror}"


def read(path):
    try:
        return open(path).read().strip()
    except OSError as error:
        return error.strerror


class Target:
    """A Python that allocates and frees, run by root or nobody."""

    def __init__(self, user):
        self.process = subprocess.Popen(
            user + ["/usr/bin/python3", "-c", WORKER], stdout=subprocess.PIPE, cwd="/")
        self.process.stdout.readline()
        time.sleep(0.5)

    def __enter__(self):
        return str(self.process.pid)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


# What is said of no setting: the table's head, and how a session goes.
PROGRESS = ("time UTC", "verdict:", "wrote ", "probes are being attached", "nothing keeps a second fragscope")


def sentences(output):
    """What was said, without the table of a session."""
    lines = [line.strip() for line in output.splitlines()]
    lines = [line for line in lines if line and not line[0].isdigit() and not line.startswith(PROGRESS)]
    return "\n".join(lines)[:2000]


def loaded(path):
    try:
        return json.load(open(path))
    except (OSError, ValueError):
        return None


def looked_at(fragscope, user, run):
    """A snapshot and a session of a target, by `user`."""
    folder = "/tmp/looked-at"
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o777)
    for name in os.listdir(folder):
        os.remove(f"{folder}/{name}")
    with Target(user) as pid:
        one, session = f"{folder}/one.json", f"{folder}/session.json"
        code, output, _ = run(user + [fragscope, "snapshot", "--pid", pid, "-o", one], 120, cwd="/")
        sample = loaded(one)
        came = {"snapshot_code": code, "snapshot_said": sentences(output) if code else ""}
        if sample:
            came["rss"] = sample["rss_bytes"]
            came["live"] = sum(heap["live_bytes"] or 0 for heap in sample["heaps"] or [])
            came["stopped"] = sample["completeness"]["stopped"]
        command = [fragscope, "attach", "--headless", "--duration", "25s", "--growth-sites", "--no-predict", "--no-objects"]
        code, output, _ = run(user + command + ["--pid", pid, "-o", session], 180, cwd="/")
        came.update(session_code=code, session_said=sentences(output))
        last = loaded(session)
    if last:
        activity = last["activity"]
        came["counted"] = activity and activity["allocs"]
        came["notices"] = last["notices"]
        came["gaps"] = last["completeness"]["gaps"]
        came["probes"] = last["completeness"]["probes"]
        sites = last["sites"] or []
        came["sites"] = len(sites)
        came["python"] = sum(1 for site in sites if any(frame["kind"] == "python" for frame in site["stack"]))
        came["sampling"] = last["site_sampling"]
    return came


def run_all(fragscope, words, run, report):
    def tried(name, user=()):
        came = looked_at(fragscope, list(user), run)
        _, doctor, _ = run(list(user) + [fragscope, "doctor"], 60, cwd="/")
        report(kind="setting", name=name, doctor=doctor, **came)

    lockdown = words.get("lockdown")
    if lockdown:
        tried(f"lockdown={lockdown}")
        return
    tried("as root")
    tried("as another user, own process", NOBODY)
    before = read(SYSCTL + "perf_event_paranoid")
    failed = write(SYSCTL + "perf_event_paranoid", "3")
    tried("kernel.perf_event_paranoid=3" + (f" ({failed})" if failed else ""))
    write(SYSCTL + "perf_event_paranoid", before)
    failed = write(SYSCTL + "unprivileged_bpf_disabled", "1")
    tried("kernel.unprivileged_bpf_disabled=1" + (f" ({failed})" if failed else ""))
    subprocess.call(["mount", "-t", "tmpfs", "tmpfs", "/sys/kernel/btf"])
    tried("no /sys/kernel/btf")
    subprocess.call(["umount", "/sys/kernel/btf"])
    # The last, as it cannot be taken back.
    failed = write(SYSCTL + "yama/ptrace_scope", "3")
    tried("kernel.yama.ptrace_scope=3" + (f" ({failed})" if failed else ""))
