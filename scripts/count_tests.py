"""Adds up the test results in a folder, for `scripts/test`: the JUnit reports (*.xml) of pytest and
nextest, and the output (*.log) of `cargo test`. Ends with the line `N passed, N failed`; exits with
1 where a test failed, or where a runner ran none: a suite that has gone missing is no success."""

import pathlib
import re
import sys
import xml.etree.ElementTree

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)


def count(report: pathlib.Path) -> tuple[int, int, int]:
    """How many tests passed, failed and were skipped."""
    if report.suffix == ".log":
        results = RESULT.findall(report.read_text())
        return tuple(sum(int(result[column]) for result in results) for column in range(3))
    passed = failed = skipped = 0
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main() -> int:
    """Counts, prints, and tells whether all is well."""
    counts = {path.name: count(path) for path in sorted(pathlib.Path(sys.argv[1]).iterdir())}
    # There may be no examples in the documentation, but there are tests in Python and in Rust.
    for name, (passed, failed, skipped) in counts.items():
        if passed or failed or skipped:
            print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped")
    empty = [suite for suite in ("python", "rust")
             if not any(sum(n[:2]) for name, n in counts.items() if name.startswith(suite))]
    for suite in empty:
        print(f"no {suite} test ran", file=sys.stderr)
    passed, failed = (sum(n[column] for n in counts.values()) for column in range(2))
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or empty else 0


if __name__ == "__main__":
    sys.exit(main())
