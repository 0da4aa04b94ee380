"""Runs the checks inside of the virtual machine, as its PID 1.

What comes of each is a JSON object in a line of its own on a serial port. The plan is /checks/plan.json, which
`cargo xtask kernels` has written; the kernel's command line says which part of it is run ("checks=tests" or
"checks=settings"). The machine is switched off at the end, whatever happens.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time

PLAN = "/checks/plan.json"
# LINUX_REBOOT_CMD_POWER_OFF (linux/reboot.h).
POWER_OFF = 0x4321FEDC

MOUNTS = [
    ("tmpfs", "/dev/shm"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tracefs", "/sys/kernel/tracing"),
    ("securityfs", "/sys/kernel/security"),
]


def words_of_kernel():
    return dict(word.split("=", 1) for word in open("/proc/cmdline").read().split() if "=" in word)


# The port that the virtual machine writes to a file.
REPORT = "/dev/" + words_of_kernel()["report"]


def report(**words):
    with open(REPORT, "w") as port:
        port.write(json.dumps(words) + "\n")


def run(command, limit, **options):
    """Exit code (None when it took longer than `limit` seconds), stdout and stderr in one, and seconds."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, **options)
    code = None
    try:
        output, _ = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            output = b"(what it started holds its output open)"
    return code, output.decode(errors="replace"), time.monotonic() - began


def why_of(output):
    """The message of the panic that ended a test, without its place in the source."""
    found = re.search(r"panicked at [^\n]*\n(.*?)(?:\nnote: |\nstack backtrace|\n\n|\Z)", output, re.S)
    return (found.group(1) if found else output[-600:]).strip()[:1500]


def test_row(row):
    """Every test of a binary, each in a process of its own."""
    binary = row["path"]
    _, listed, _ = run([binary, "--list", "--format", "terse"], 60)
    names = [line[:-len(": test")] for line in listed.splitlines() if line.endswith(": test")]
    _, ignored, _ = run([binary, "--list", "--format", "terse", "--ignored"], 60)
    ignored = {line[:-len(": test")] for line in ignored.splitlines()}
    names = [name for name in names if name not in ignored and not any(part in name for part in row["without"])]
    for name in names:
        code, output, seconds = run(
            [binary, "--exact", name, "--nocapture", "--test-threads=1"], row["seconds"], cwd=row["folder"])
        said = {}
        if code != 0:
            said["said"] = why_of(output) if code is not None else f"did not end within {row['seconds']} s"
        report(kind="test", row=row["title"], test=name, passed=code == 0, seconds=round(seconds, 1), **said)


def set_up():
    for kind, folder in MOUNTS:
        os.makedirs(folder, exist_ok=True)
        subprocess.call(["mount", "-t", kind, kind, folder])
    subprocess.call(["/bin/busybox", "ifconfig", "lo", "up"])
    subprocess.call(["/bin/busybox", "hostname", "guest"])
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LANG="C.UTF-8", **json.load(open(PLAN))["environment"])
    os.chdir("/root")


def checks():
    set_up()
    plan = json.load(open(PLAN))
    words = words_of_kernel()
    fragscope = plan["fragscope"]
    code, output, _ = run([fragscope, "doctor"], 60)
    report(kind="doctor", release=os.uname().release, code=code, output=output)
    only = words.get("only", "").replace("_", " ")
    if words.get("checks") == "tests":
        for row in plan["tests"]:
            if only in row["title"]:
                test_row(row)
    else:
        sys.path.insert(0, "/checks")
        import settings
        settings.run_all(fragscope, words, run, report)


def main():
    # Orphans of the tests become children of PID 1: what runs the checks is another process, so that all can be reaped.
    child = os.fork()
    if child == 0:
        try:
            checks()
            report(kind="end")
        except BaseException as error:
            report(kind="broken", said=repr(error))
        os._exit(0)
    while True:
        try:
            ended, _ = os.wait()
        except ChildProcessError:
            break
        if ended == child:
            break
    log = subprocess.run(["dmesg", "--level", "emerg,alert,crit,err,warn"], stdout=subprocess.PIPE, text=True).stdout
    report(kind="log", output=log[-4000:])
    os.sync()
    ctypes.CDLL(None).reboot(POWER_OFF)


main()
