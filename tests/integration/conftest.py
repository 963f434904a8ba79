"""What the modules share: a report of the children's output with every failure."""

from typing import Any

import pytest

from tests.support.demo_process import CHILDREN


@pytest.fixture(autouse=True)
def children_of_this_test() -> None:
    """Forget the children that ended before; those that run on belong to the module."""
    CHILDREN[:] = [child for child in CHILDREN if child.process.poll() is None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Attach what the children printed to a failure."""
    report = yield
    if report.failed:
        for child in CHILDREN:
            report.sections.append((f"child {child.pid}", child.report()))
    return report
