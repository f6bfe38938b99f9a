"""The count of what was tried for each promise, printed as a table at the end."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

TRIED: Counter[str] = Counter()
PROMISES: dict[str, str] = {}
LOST: Counter[str] = Counter()


@pytest.fixture(scope="session")
def thorough(pytestconfig: pytest.Config) -> bool:
    """Whether `--thorough` asks for as many cases as docs/reliability.md promises."""
    return pytestconfig.getoption("--thorough")


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[[int], None]:
    """Returns what counts cases that held; a test that counts none is one case."""
    return lambda cases=1: TRIED.update({request.node.nodeid: cases})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.when == "call" and not report.skipped:
        # The first line of the test's module is the promise.
        PROMISES[item.nodeid] = (item.module.__doc__ or "").strip().splitlines()[0]
        TRIED[item.nodeid] += 0 if TRIED[item.nodeid] else 1
    if report.failed:
        LOST[item.nodeid] += 1
    return report


def pytest_configure(config: pytest.Config) -> None:
    # The same cases everywhere: a case that fails once fails again. Slow machines are no failures.
    common = {"deadline": None, "derandomize": True, "database": None, "print_blob": False}
    ignored = [hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("short", max_examples=30, suppress_health_check=ignored, **common)
    hypothesis.settings.register_profile("thorough", max_examples=400, suppress_health_check=ignored, **common)
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else "short")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not TRIED:
        return
    terminalreporter.section("what was tried")
    for promise in dict.fromkeys(PROMISES.values()):
        tests = [test for test, of in PROMISES.items() if of == promise]
        lost = sum(LOST[test] for test in tests)
        terminalreporter.write_line(
            f"{sum(TRIED[test] for test in tests):>6} cases in {len(tests):>2} tests, "
            f"{f'{lost} BROKEN' if lost else 'nothing lost'}: {promise}"
        )
