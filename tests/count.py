#!/usr/bin/env python3
"""Counts the test cases of CTest's JUnit reports: count.py REPORT... prints "passed failed skipped".

A suite counts as many cases as its own summary line says (Unity's, pytest's), any other test as one. A test that CTest calls
failed counts at least one failure whatever it printed: it may have crashed after its summary, or leaked.
"""
import re
import sys
import xml.etree.ElementTree as ElementTree

UNITY = re.compile(r"^(\d+) Tests (\d+) Failures (\d+) Ignored", re.MULTILINE)
PYTEST = re.compile(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", re.MULTILINE)


def count(case):
    """(passed, failed, skipped) of one <testcase>."""
    status = case.get("status")
    if status == "run":
        outcome = (1, 0, 0)
    elif status in ("notrun", "disabled"):
        # A skip says so; a program that could not be started or a missing fixture is a failure.
        skipped = case.find("skipped") is not None and case.find("skipped").get("message", "").startswith(("SKIP", "Disabled"))
        outcome = (0, 0, 1) if skipped else (0, 1, 0)
    else:
        outcome = (0, 1, 0)
    output = case.findtext("system-out") or ""
    if unity := UNITY.findall(output):
        tests, failures, ignored = (sum(int(line[i]) for line in unity) for i in range(3))
        inner = (tests - failures - ignored, failures, ignored)
    elif pytest := PYTEST.findall(output):
        words = dict(reversed(part.split(" ", 1)) for part in pytest[-1].split(", "))
        number = lambda *names: sum(int(words.get(name, 0)) for name in names)
        inner = (number("passed"), number("failed", "error", "errors"), number("skipped", "xfailed"))
    else:
        return outcome
    passed, failed, skipped = inner
    if outcome[1] and not failed:
        failed = 1
    if outcome[2]:  # skipped as a whole
        return (0, failed, max(skipped, 1))
    return (passed, failed, skipped)


totals = [0, 0, 0]
for report in sys.argv[1:]:
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        totals = [total + n for total, n in zip(totals, count(case))]
print(*totals)
