"""A plugin for the run of the notebooks: after the last cell, every panel that was shown stands at its defaults.

A reader who runs all cells sees what the text above a panel describes. `tools/check.py` loads it beside nbval.
"""

import pytest

MOVED = """
def _moved():
    from ntkbook.panel import Panel
    found = {name: value for name, value in get_ipython().user_ns.items() if isinstance(value, Panel)}
    return sorted(
        f"{name} = {panel!r}"
        for name, panel in found.items()
        if not name.startswith("_") and panel._view is not None and panel.state() != panel.spec.defaults
    )
print("moved:", _moved())
"""


def moved_panels(kernel, timeout=60):
    """What the notebook's kernel prints about panels that are shown and have been moved."""
    asked = kernel.execute_cell_input(MOVED, allow_stdin=False)
    lines = []
    while True:
        message = kernel.get_message(stream="iopub", timeout=timeout)
        if message["parent_header"].get("msg_id") != asked:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            lines.append(content["text"])
        elif message["msg_type"] == "error":
            lines.append(f"moved: {content['ename']}: {content['evalue']}")
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            return "".join(lines).strip()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    kernel = getattr(item.parent, "kernel", None)
    told = "moved: []"
    if kernel is not None and getattr(nextitem, "parent", None) is not item.parent:
        told = moved_panels(kernel)
    result = yield
    if told != "moved: []":
        raise AssertionError(f"Expected shown panels at their defaults after the last cell, got {told}")
    return result
