"""Run an audit, then kill copies of it at random moments and resume them; called as a script by the stories.

Python's imports take longer than the audit, so they are done once: each audit runs in a fork of this process,
which never computes anything itself.
"""

import importlib
import os
import random
import shutil
import signal
import sys
import time

from genmem_cli.main import main

for name in ("genmem.pipeline", "plotly.graph_objects", "sklearn.cluster", "sklearn.datasets", "torch._dynamo"):
    importlib.import_module(name)


def start(*arguments):
    """Run a command line in a fork; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    sys.argv = ["genmem", *arguments]
    sys.stdout = sys.stderr = open("log", "a")
    try:
        main()
    except SystemExit as end:
        os._exit(end.code or 0)
    except BaseException:
        os._exit(99)
    os._exit(0)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ended(pid, *expected):
    code = wait(pid)
    if code not in expected:
        raise SystemExit(f"an audit ended with {code}\n{open('log').read()[-3000:]}")
    return code


def kill_and_resume(times, arguments):
    """Return how many of `times` processes were still at work when they were killed: every fifth a whole audit."""
    ended(start("plan", "digits", "--out", "plan", *arguments), 0)

    def begin(out, whole):
        if not os.path.exists(out):
            shutil.copytree("plan", out)
        command = ["audit", "digits", "--out", out, *arguments] if whole else ["refit", out]
        return start(*command, "--lanes", "3")

    def finish(out, whole):
        ended(begin(out, whole), 0)
        if not whole:
            ended(start("score", out), 0)

    seconds, killed, moments = {}, 0, random.Random(0)
    for whole in (False, True):
        began = time.time()
        finish("audit" if whole else "refit", whole)
        seconds[whole] = time.time() - began
    for trial in range(times):
        out, whole = f"cut{trial}", trial % 5 == 0
        pid = begin(out, whole)
        time.sleep(moments.uniform(0, 1) * seconds[whole])
        os.kill(pid, signal.SIGKILL)
        if ended(pid, 0, -signal.SIGKILL) == 0:
            seconds[whole] *= 0.7  # it was done: the machine is less busy than when the time was taken
        else:
            killed += 1
        finish(out, whole)
    return killed


if __name__ == "__main__":
    print(kill_and_resume(int(sys.argv[1]), sys.argv[2:]))
