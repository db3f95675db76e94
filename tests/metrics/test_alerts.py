import re
import shutil
import subprocess
from pathlib import Path

import pytest

from metrics.catalogue import BY_NAME

ALERTS = Path(__file__).parents[2] / "docs/prometheus-alerts.yml"


def test_alerts_name_only_metrics_that_there_are() -> None:
    named = {name.removesuffix("_bucket") for name in re.findall(r"\binvokerd_\w+", ALERTS.read_text())}
    assert len(named) >= 8
    assert named <= BY_NAME.keys()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
