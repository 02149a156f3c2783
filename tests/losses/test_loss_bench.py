"""The benchmark of the losses runs, checks what it times, and says which bars it misses."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "loss_cpu.py"


def test_a_quick_run_prints_a_table_and_writes_its_results(tmp_path):
    file = tmp_path / "results" / "loss_cpu.json"
    ran = subprocess.run(
        [sys.executable, BENCH, "--quick", "--json", file], capture_output=True, text=True, check=True, timeout=240
    )
    assert "logits bfloat16 T=64 V=2000" in ran.stdout
    about = json.loads(file.read_text())
    assert about["threads"] == 1
    assert [result["case"]["kind"] for result in about["results"]] == ["logits", "linear"]
    for result in about["results"]:
        assert set(result["milliseconds"]) == {"cross_entropy", "hard", "k12", "k50"}
        assert all(time > 0 for time in result["milliseconds"].values())
        bars = about["bars"][result["case"]["kind"]]
        assert result["missed"] == [name for name, bar in bars.items() if result["ratios"][name] > bar]
