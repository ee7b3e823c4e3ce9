"""`tiers:` and `price:` from the user's side: one run, several bests, and none of them needs another server."""

import json
import re
import subprocess

import pytest

TIERS = """\
tiers:
  interactive: {in_flight.max: 4, e2e.p97: 60s}
  batch: {e2e.p99: 60s}
  impossible: {e2e.p99: 1us}
"""
PRICE = "price: {per_gpu_hour: 2.50, currency: USD}\n"


def best_of_last_run(project):
    last = max(project.path.glob(".autotune/2*"))
    return json.loads((last / "quick" / "best.json").read_text())


def test_one_run_finds_a_best_for_each_tier(project):
    # Only the limit on requests in flight binds, so that a slow machine finds the same.
    project.suite(project.suite().read_text().replace("ttft.p90: 40ms", "ttft.p90: 60s") + TIERS + PRICE)
    result = project.run("suites", "--autotune", "--autotune-junit=verdict.xml")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*: quick on sim *: 2 trials (2 compliant), 2 servers started*",
            "  costs are at 2.5 USD per GPU and hour",
            "  USD per million output tokens *",
            "  best for each tier by output throughput:",
            "  tier *tok/s  at  GPUs  configuration",
            "  slo * c8     1  max-num-seqs=64",
            "  interactive * c1     1  max-num-seqs=*",
            "       binds: at concurrency 8: in_flight.max: 8 > 4 (+100 %)",
            "  batch * c8     1  max-num-seqs=64",
            "       binds: nothing: a higher load was not measured",
            "  impossible         -   -     -  none complies, closest: max-num-seqs=*",
            "       binds: at concurrency *: e2e.p99: * > 0.001 ms*",
            "  written: */best.json",
            "  written: */best.sh",
            "  written: */best.interactive.sh",
            "  written: */best.batch.sh",
        ]
    )
    (directory,) = project.path.glob(".autotune/*/quick")
    assert {path.name for path in directory.glob("best*")} == {
        "best.json",
        "best.sh",
        "best.interactive.sh",
        "best.batch.sh",
    }
    best = best_of_last_run(project)
    interactive, batch, impossible = best["tiers"]
    assert (interactive["best"]["concurrency"], batch["best"]["concurrency"], impossible["best"]) == (1, 8, None)
    assert batch["best"]["configuration"] == best["best"]["configuration"] == {"max-num-seqs": 64}
    metrics = batch["best"]["metrics"]
    cost = metrics["cost_per_million_output_tokens"]
    assert cost * metrics["output_throughput"] * 3600 / 1e6 == pytest.approx(2.5)
    script = directory / "best.interactive.sh"
    chosen = interactive["best"]["configuration"]["max-num-seqs"]
    text = script.read_text()
    assert "# Best configuration for tier interactive of suite quick" in text
    assert re.search(rf"--max-num-seqs \\\n  {chosen}\n", text)
    assert '"$PORT"' in text
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    verdict = (project.path / "verdict.xml").read_text()
    assert '<property name="tier.interactive.concurrency" value="1"' in verdict
    assert '<property name="price" value="2.5 USD per GPU and hour"' in verdict


def test_another_tier_or_price_deploys_nothing(project):
    suite = project.suite()
    text = suite.read_text().replace("ttft.p90: 40ms", "ttft.p90: 60s") + "tiers: {chat: {in_flight.max: 8}}\n"
    suite.write_text(text)
    assert project.run("suites", "--autotune").ret == 0
    first = best_of_last_run(project)
    assert "cost_per_million_tokens" not in first["best"]["batches"][0]["metrics"]
    costs = []
    for price in ("price: 2.50\n", "price: 5\n"):
        tiers = "tiers: {chat: {in_flight.max: 7, e2e.p97: 60s}, also: {}}\n"
        changed = text.replace("tiers: {chat: {in_flight.max: 8}}\n", tiers + price)
        suite.write_text(changed.replace("maximize output_throughput", "minimize cost_per_million_output_tokens"))
        result = project.run("suites", "--autotune-rejudge")
        assert result.ret == 0, result.stdout.str()
        result.stdout.fnmatch_lines(["*2 recorded before, 0 servers started*", "  chat * c1 *", "  also * c8 *"])
        best = best_of_last_run(project)
        assert [tier["best"]["concurrency"] for tier in best["tiers"]] == [1, 8]
        assert best["measured"]["price"]["per_gpu_hour"] == float(price.split()[1])
        costs.append(best["best"]["score"])
    assert costs[1] == pytest.approx(2 * costs[0])
    # A search that goes on ranks what it has by the price of today as well, and deploys nothing for it.
    result = project.run("suites", "--autotune")
    result.stdout.fnmatch_lines(["*2 recorded before, 0 servers started*"])
    assert best_of_last_run(project)["best"]["score"] == costs[1]


def test_a_tier_can_have_a_best_where_the_suite_has_none(project):
    text = project.suite().read_text().replace("ttft.p90: 40ms", "ttft.p90: 1us")
    project.suite(text + "tiers: {batch: {e2e.p99: 60s}}\n")
    result = project.run("suites", "--autotune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["  slo * none complies", "  batch * c8 *max-num-seqs=64", "  written: */best.batch.sh"]
    )
    best = best_of_last_run(project)
    assert (best["best"], best["tiers"][0]["best"]["level"]) == (None, "c8")


def test_loads_that_a_search_chose_for_slo_may_be_too_few_for_a_tier(project):
    text = project.suite().read_text().replace("concurrency: [1, 8]", "concurrency: {search: [1, 8]}")
    text = text.replace("ttft.p90: 40ms", "in_flight.max: 2").replace("max-num-seqs: [2, 64]", "max-num-seqs: [64]")
    project.suite(text + "tiers: {chat: {e2e.p99: 60s}}\n")
    result = project.run("suites", "--autotune")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["  slo * c2 *", "  chat *", "       binds: nothing: a higher load was not measured, loads are chosen for slo"]
    )
