"""The table of `make peers`: groups, ratios, who is compared with whom, and what failed."""

import json

import pytest
from synthetic_run import Tables, cost, failed

from reports.load import load
from reports.peers import main, mechanism, render
from reports.text import DASH


def row(method, mode, speedup, peak, **params):
    made = cost(method, 4096, mode, method_params=json.dumps(params))
    return made | {
        "latency_ms": 100.0 / speedup,
        "speedup": speedup,
        "speedup_low": 0.8 * speedup,
        "speedup_high": 1.25 * speedup,
        "peak_mib": peak,
    }


def table(tmp_path, rows):
    tables = Tables()
    tables.rows["efficiency"] = rows
    return tables.write(tmp_path / "peers")


def rows():
    return [
        row("longformer", "forward", 8.0, 10.0, window=256, global_tokens=0),
        row("longformer", "train", 5.0, 40.0, window=256, global_tokens=0),
        row("hf_longformer", "forward", 2.0, 170.0, window=256),
        row("lucidrains_local", "forward", 4.0, 90.0, window=256),
        failed(row("lucidrains_local", "train", 1.0, 1.0, window=256), "oom", "needs 9 GiB"),
        row("reformer", "forward", 2.0, 50.0, chunk=64, rounds=4),
        row("reformer", "forward", 9.0, 20.0, chunk=64, rounds=1),
        row("sdpa", "forward", 1.0, 8.0),
        failed(row("xformers", "forward", 1.0, 1.0), "unsupported", "needs the package xformers"),
        failed(row("xformers", "train", 1.0, 1.0), "unsupported", "needs the package xformers"),
    ]


def test_groups_ratios_and_the_best_of_the_others(tmp_path):
    lines = render(load([table(tmp_path, rows())])).splitlines()
    text = "\n".join(lines)
    assert lines[0].startswith("seq_len 4,096, 8 x 64, batch 1, float32, cpu, 2 threads")
    assert lines[1] == "SDPA: forward 100 ms, train 100 ms"
    groups = [line for line in lines if line in ("window, window 256", "exact") or line.startswith("reformer, ")]
    assert groups == [
        "exact",
        "reformer, chunk 64, rounds 1",
        "reformer, chunk 64, rounds 4",
        "window, window 256",
    ]
    ours = next(line for line in lines if line.startswith("  longformer")).split("  ")
    shown = [part.strip() for part in ours if part.strip()]
    # 1/8 of SDPA against 1/4 of the best third party; nothing to compare with in training
    assert shown == ["longformer", "0.125 [0.100, 0.156]", "0.200 [0.160, 0.250]", "10.0", "40.0", "0.500", DASH]
    assert text.index("  longformer") < text.index("  lucidrains_local") < text.index("  hf_longformer")


def test_what_failed_stays_with_its_reason_and_equal_ones_are_said_once(tmp_path):
    text = render(load([table(tmp_path, rows())]))
    assert "  train of lucidrains_local: oom: needs 9 GiB\n" in text
    assert text.count("needs the package xformers") == 1
    assert "  forward and train of xformers: unsupported: needs the package xformers\n" in text


def test_mechanisms():
    assert mechanism("hf_bigbird", '{"block": 64, "random_blocks": 3}') == "bigbird, block 64, random_blocks 3"
    assert mechanism("fla", "{}") == mechanism("linear", "{}") == "linear"
    assert mechanism("fla", "{}", True) == "linear, causal"
    assert mechanism("flash", "{}") == mechanism("flash_attn", "{}") == "exact"


def test_the_command_prints_it_or_says_what_is_missing(tmp_path, capsys):
    assert main([str(table(tmp_path, rows()))]) == 0
    assert "hf_longformer" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
