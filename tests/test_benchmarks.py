"""The GPU check goes on after a stage fails, and its figures are those of the network."""

import itertools
import json
import subprocess
import sys

from app import ROOT


def test_a_stage_that_fails_stops_no_other(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick"]
    command += ["--reference", tmp_path / "absent.pt", "--output", tmp_path / "gpu.json"]
    done = subprocess.run(
        [*map(str, command), "--stages", "speed", "device", "parity"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout.endswith("gpu.json; failed: speed\n")
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert "absent.pt" in results["speed"]["error"]
    version = (ROOT / "version").read_text().strip()
    assert results["device"]["app"] == f"swift_bids {version}"
    for network, case in itertools.product(
        ("SwiFT", "NeuroSTORM"), ("tiny", "tiny_windowed", "full")
    ):
        assert 0 < results["parity"][f"{network} {case} float32"] <= 1e-5
        assert 1e-3 < results["parity"][f"{network} {case} bf16"] < 5e-2
