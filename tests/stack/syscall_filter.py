# SPDX-License-Identifier: Apache-2.0
"""Becomes a command under the filter of system calls that a unit has, without systemd.

*In*: a unit with SystemCallFilter=, a command. *Out*: the command, for which other calls fail with EPERM. *Never*: a return.

    syscall_filter.py UNIT COMMAND ...
"""
import ctypes
import errno
import os
import pathlib
import subprocess
import sys

ALLOW = 0x7FFF0000
FAIL = 0x00050000 | errno.EPERM


def calls(group):
    """The calls of a group, also those of groups in it."""
    shown = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True).stdout
    names = set()
    for word in map(str.strip, shown.splitlines()[1:]):
        if word.startswith("@"):
            names |= calls(word)
        elif word and not word.startswith("#"):
            names.add(word)
    return names


def permitted(unit):
    """What the lines of the unit permit: groups, and after ~ groups that are taken away."""
    lines = [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith("SystemCallFilter=")]
    names = calls("@default")
    for line in lines:
        groups = set().union(*map(calls, line.removeprefix("~").split()))
        names = names - groups if line.startswith("~") else names | groups
    return names


def main():
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(FAIL))
    for name in permitted(pathlib.Path(sys.argv[1])):
        number = library.seccomp_syscall_resolve_name(name.encode())
        # Calls of other architectures have no number.
        if number >= 0:
            assert library.seccomp_rule_add(context, ALLOW, number, 0) == 0, name
    assert library.seccomp_load(context) == 0
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
