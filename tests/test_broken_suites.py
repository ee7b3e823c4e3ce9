"""Every mistake in a suite file gives one line that names file, line, value, what is allowed and the remedy."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import SuiteError
from pytest_autotune.suite_file import load_suite

HEAD = "name: chat\nengine: sim\nmodel: llama\n"

CONDITION = "parameters:\n  method: [none, ngram]\n  k: {{choice: [2, 4], when: {}}}\n"

METRICS = (
    "(allowed: ttft, tpot, itl, e2e with one of mean, std, min, max, p0 ... p100, as in ttft.p90; "
    "ttft_sent, e2e_sent, client likewise; in_flight.mean and in_flight.max; "
    "output_throughput, total_throughput, input_throughput, request_throughput, goodput, each also with _per_gpu; "
    "cost_per_million_output_tokens, cost_per_million_tokens; error_rate, delivered, requests, failed)"
)

BROKEN = [
    pytest.param("", "chat.yaml: the file is empty; write at least name:, engine: and parameters:", id="empty file"),
    pytest.param(
        "# nothing here\n",
        "chat.yaml: the file is empty; write at least name:, engine: and parameters:",
        id="only a comment",
    ),
    pytest.param(
        "- name: chat\n",
        'chat.yaml:1: [{"name": "chat"}] is not a mapping of keys to values; write e.g. \'name: chat\'',
        id="a list at top level",
    ),
    pytest.param(
        "chat\n",
        "chat.yaml:1: 'chat' is not a mapping of keys to values; write e.g. 'name: chat'",
        id="text at top level",
    ),
    pytest.param(
        "name: chat\nload:\n\tduration: 30s\n",
        "chat.yaml:3: not valid YAML: a tab in the indentation; use spaces",
        id="tab in the indentation",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2}\n",
        "chat.yaml:4: not valid YAML: expected ',' or ']', but got '}'",
        id="unclosed bracket",
    ),
    pytest.param(
        "name: 'chat\nengine: sim\n",
        "chat.yaml:1: not valid YAML: the quote that opens here is never closed",
        id="unclosed quote",
    ),
    pytest.param(
        "name: chat\ndescription: fast: and good\n",
        "chat.yaml:2: not valid YAML: mapping values are not allowed here (a ': ' inside text? then put the text in quotes)",
        id="colon inside text",
    ),
    pytest.param(
        HEAD + "---\nname: other\n",
        "chat.yaml:4: not valid YAML: a second document starts here; write one suite per file",
        id="two documents",
    ),
    pytest.param(
        HEAD + "load: {duration: 30s}\nslo: {}\nload: {duration: 10s}\n",
        "chat.yaml:6: key 'load' is written twice, first in line 4",
        id="duplicate key",
    ),
    pytest.param(
        HEAD + "slo:\n  ttft.p90: 1s\n  tpot.mean: 1s\n  ttft.p90: 2s\n",
        "chat.yaml:7: slo: key 'ttft.p90' is written twice, first in line 5",
        id="duplicate key inside",
    ),
    pytest.param(
        HEAD + "fixed: {x: !!python/object/apply:os.system [id]}\n",
        "chat.yaml:4: unknown tag '!!python/object/apply:os.system'; suites are plain data, remove it",
        id="python object",
    ),
    pytest.param(
        HEAD + "fixed: {x: !env HOME}\n",
        "chat.yaml:4: unknown tag '!env'; suites are plain data, remove it",
        id="custom tag",
    ),
    pytest.param(
        HEAD + "fixed: *base\n", "chat.yaml:4: not valid YAML: found undefined alias 'base'", id="undefined alias"
    ),
    pytest.param(HEAD + "fixed: &x {y: *x}\n", "chat.yaml:4: an alias leads back to itself", id="alias to itself"),
    pytest.param(
        HEAD + "fixed: {1: 2}\n", "chat.yaml:4: key 1 must be text; put it in quotes: '1'", id="key that is a number"
    ),
    pytest.param(HEAD + "fixed: {x: .inf}\n", "chat.yaml:4: '.inf' is not a finite number", id="infinity"),
    pytest.param(
        HEAD + "parameters: {x: [1, .nan]}\n", "chat.yaml:4: '.nan' is not a finite number", id="not a number"
    ),
    pytest.param(
        HEAD + "fixed: {<<: 3}\n",
        "chat.yaml:4: '<<' takes over a mapping, e.g. '<<: *base'",
        id="value in place of merge",
    ),
    pytest.param(
        HEAD + "paramters: {tp: [1, 2]}\n",
        "chat.yaml:4: paramters: unknown key (did you mean 'parameters'?)",
        id="unknown key",
    ),
    pytest.param(
        HEAD + "zzz: 1\n",
        "chat.yaml:4: zzz: unknown key; allowed: name, engine, model, deploy, docker, description, fixed, env, engine_python, command, dialect, url, model_name, load, search, timeouts, gpus, cores, parameters, constraints, forbidden, slo, tiers, objective, price, accuracy, gate",
        id="unknown key unlike any",
    ),
    pytest.param(
        HEAD + "load: {concurency: 4}\n",
        "chat.yaml:4: load.concurency: unknown key (did you mean 'concurrency'?)",
        id="unknown key in load",
    ),
    pytest.param(
        HEAD + "load: {duration_s: 30}\n",
        "chat.yaml:4: load.duration_s: unknown key (did you mean 'duration'?)",
        id="python name of a key",
    ),
    pytest.param(
        HEAD + "slo:\nload:\n",
        "chat.yaml:4: slo: has no value; remove the key or give it one (and 1 more problem)",
        id="key without a value",
    ),
    pytest.param("engine: sim\nmodel: llama\n", "chat.yaml:1: missing key 'name'", id="missing name"),
    pytest.param(
        "model: llama\n", "chat.yaml:1: missing key 'name' (and 1 more problem)", id="missing name and engine"
    ),
    pytest.param(
        HEAD + "load: 30s\n", "chat.yaml:4: load: '30s' is not a mapping of keys to values", id="load is not a mapping"
    ),
    pytest.param(
        "name: chat/fast\nengine: sim\nmodel: llama\n",
        "chat.yaml:1: name: 'chat/fast' cannot name files; use letters, digits, '-', '_' and '.', beginning with a letter or digit",
        id="name with a slash",
    ),
    pytest.param(
        "name: 7\nengine: sim\nmodel: llama\n",
        "chat.yaml:1: name: 7 is not text; put it in quotes",
        id="name is a number",
    ),
    pytest.param(
        "name: chat\nengine: vLLM\nmodel: llama\n",
        "chat.yaml:2: engine: 'vLLM' is not an identifier (did you mean 'vllm'?); use small letters, digits, '-' and '_'",
        id="engine with capitals",
    ),
    pytest.param(
        "name: chat\nengine: vllm\n",
        "chat.yaml:2: engine: 'vllm' needs model: a name or path, e.g. meta-llama/Llama-3.1-8B-Instruct",
        id="vllm without model",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  parallelism:\n    - tp2\n    - {tp: 2}\n",
        "chat.yaml:7: parameters.parallelism[1]: {\"tp\": 2} is 'tp2' in another spelling; remove one of the two",
        id="parallelism in two spellings",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  parallelism: [tp2, tp2]\n",
        "chat.yaml:5: parameters.parallelism[1]: 'tp2' is listed twice",
        id="parallelism twice",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  parallelism: {choice: [4]}\n",
        "chat.yaml:5: parameters.parallelism.choice[0]: 4 is no parallelism; write e.g. tp4, tp2-pp2, tp4-ep or {tp: 4, dp: 2}; null is the engine's default",
        id="parallelism is a number",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  parallelism: {int: [1, 8]}\n",
        'chat.yaml:5: parameters.parallelism: {"int": [1, 8]} is a range; list the values',
        id="parallelism is a range",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nfixed:\n  parallelism: {tpp: 2}\n",
        "chat.yaml:5: fixed.parallelism.tpp: unknown key (did you mean 'tp'?); allowed: tp, pp, dp, adp, cp, dcp, ep",
        id="parallelism with a typo",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  quantization: [default, null]\n",
        "chat.yaml:5: parameters.quantization[1]: null is 'default' in another spelling; remove one of the two",
        id="default in two spellings",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  quantization:\n    - {weights: fp8, kv_cache: fp9}\n",
        "chat.yaml:6: parameters.quantization[0].kv_cache: 'fp9' is not one of bf16, fp16, fp32, fp8, fp8_e5m2, int8, int4, nvfp4 (did you mean 'fp8'?); leave it out for the engine's default",
        id="quantization with a typo",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  parallelism: [tp2, tp4]\nforbidden:\n  - {parallelism: [{tp: 2}, {tp: 8}]}\n",
        'chat.yaml:7: forbidden[0].parallelism: \'tp8\' is never tried; write one of ["tp2", "tp4"]',
        id="forbidden parallelism",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\nparameters:\n  parallelism: [tp2, tp4]\nsearch: {strategy: bayes, seeds: [{parallelism: tp3x}]}\n",
        "chat.yaml:6: search.seeds[0].parallelism: 'tp3x' is no parallelism: 'tp3x' is not one of its parts; write e.g. tp4, tp2-pp2, tp4-ep or {tp: 4, dp: 2}; null is the engine's default",
        id="seed with a typo",
    ),
    pytest.param(
        'name: chat\nengine: command\ncommand: [serve, "{port}", "{flags}"]\nfixed: {parallelism: {tp: 2}}\n',
        'chat.yaml:4: fixed.parallelism: {"tp": 2} becomes flags of an engine, and those of a command are not known; add dialect: with the engine whose flags it has: vllm, sglang, llamacpp, trtllm, tgi',
        id="structured value without a dialect",
    ),
    pytest.param(
        'name: chat\nengine: command\ncommand: [serve, "{port}", "{flags}"]\ndialect: vlm\n',
        "chat.yaml:4: dialect: 'vlm' is not one of vllm, sglang, llamacpp, trtllm, tgi (did you mean 'vllm'?)",
        id="unknown dialect",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: llama\ndialect: vllm\n",
        "chat.yaml:4: dialect: 'sim' has its own flags; remove it or write engine: command",
        id="dialect of an engine",
    ),
    pytest.param(
        "name: chat\nengine: sim\n",
        "chat.yaml:2: engine: 'sim' needs model: a name or path, e.g. meta-llama/Llama-3.1-8B-Instruct",
        id="sim without model",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: ''\n",
        "chat.yaml:3: model: '' is empty; remove the key or give it a value",
        id="model is empty",
    ),
    pytest.param(
        HEAD + "parameters:\n  tp: 4\n",
        "chat.yaml:5: parameters.tp: 4 is one value, not a list; move it to fixed: to set it without tuning it",
        id="scalar parameter",
    ),
    pytest.param(
        HEAD + "parameters:\n  tp:\n",
        "chat.yaml:5: parameters.tp: has no values; write a list of values, {int: [low, high]}, {float: [low, high]} or {choice: [...]}",
        id="parameter without values",
    ),
    pytest.param(
        HEAD + "parameters: {tp: []}\n",
        "chat.yaml:4: parameters.tp: an empty list leaves nothing to try; list values or remove the parameter",
        id="empty list of values",
    ),
    pytest.param(
        HEAD + "parameters:\n  tp:\n    - 1\n    - 2\n    - 1\n",
        "chat.yaml:8: parameters.tp[2]: 1 is listed twice",
        id="duplicate choice",
    ),
    pytest.param(
        HEAD + "parameters: {--tp: [1, 2]}\n",
        "chat.yaml:4: parameters.--tp: '--tp' has leading dashes; write 'tp'",
        id="parameter name with dashes",
    ),
    pytest.param(
        HEAD + "parameters: {max seqs: [1, 2]}\n",
        "chat.yaml:4: parameters.max seqs: 'max seqs' is not the name of a setting; use letters, digits, '-', '_' and '.'",
        id="parameter name with a space",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nfixed: {tp: 1}\n",
        "chat.yaml:5: fixed.tp: 'tp' stands in parameters as 'tp' already; remove one of the two",
        id="parameter also fixed",
    ),
    pytest.param(
        HEAD + "parameters: {max-num-seqs: [1, 2]}\nfixed: {max_num_seqs: 1}\n",
        "chat.yaml:5: fixed.max_num_seqs: 'max_num_seqs' stands in parameters as 'max-num-seqs' already; remove one of the two",
        id="parameter also fixed with underscores",
    ),
    pytest.param(
        HEAD + "fixed: {port: 8000}\n",
        "chat.yaml:4: fixed.port: 'port' is chosen for each server; remove it",
        id="parameter that we set",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 2, 3]}}\n",
        "chat.yaml:4: parameters.seqs.int: [1, 2, 3] is not a range; write two whole numbers: [low, high]",
        id="range of three",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 8k]}}\n",
        "chat.yaml:4: parameters.seqs.int: '8k' is not a whole number; write two whole numbers: [low, high]",
        id="range of text",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 2.5]}}\n",
        "chat.yaml:4: parameters.seqs.int: 2.5 is not a whole number; write two whole numbers: [low, high]",
        id="whole range with a fraction",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [512, 64]}}\n",
        "chat.yaml:4: parameters.seqs.int: low 512 is above high 64; write [64, 512]",
        id="low above high",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [0, 64], log: true, grid: 4}}\n",
        "chat.yaml:4: parameters.seqs.int: a logarithmic range starts above 0, not at 0",
        id="log from zero",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 64], log: true, step: 2}}\n",
        "chat.yaml:4: parameters.seqs.log: a logarithmic range has no step; write grid: N instead of step:",
        id="log with a step",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 64], grid: 3, step: 2}}\n",
        "chat.yaml:4: parameters.seqs.step: give either grid: or step:, not both",
        id="grid and step",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 64], grid: 1}}\n",
        "chat.yaml:4: parameters.seqs.grid: 1 is too small; write a whole number of at least 2",
        id="grid of one",
    ),
    pytest.param(
        HEAD + "parameters: {util: {float: [0.8, 0.9], step: 0}}\n",
        "chat.yaml:4: parameters.util.step: 0 is not a step; write a number above 0",
        id="step of zero",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 64], step: -1}}\n",
        "chat.yaml:4: parameters.seqs.step: -1 is too small; write a whole number of at least 1",
        id="negative step",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 64], levels: 4}}\n",
        "chat.yaml:4: parameters.seqs.levels: unknown key; allowed: int, log, grid, step, when",
        id="unknown key in a range",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {choices: [1, 64]}}\n",
        "chat.yaml:4: parameters.seqs: {\"choices\": [1, 64]} is neither a list nor a range (did you mean 'choice'?); write a list of values, {int: [low, high]}, {float: [low, high]} or {choice: [...]}",
        id="unknown form",
    ),
    pytest.param(
        HEAD + "parameters: {util: {float: [0.8, 0.9]}}\n",
        "chat.yaml:4: parameters.util: 'util' has no grid; give grid: N or step:",
        id="float without a grid",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [64, 512]}}\n",
        "chat.yaml:4: parameters.seqs: 'seqs' has 449 values, too many for a grid; give grid: N or step:",
        id="wide integer without a grid",
    ),
    pytest.param(
        HEAD + "parameters:\n" + "".join(f"  p{i}: {{int: [1, 10]}}\n" for i in range(6)),
        "chat.yaml:4: parameters: 1000000 combinations are more than a grid may have (100000); list fewer values or write search: {strategy: auto}",
        id="too large a grid",
    ),
    pytest.param(
        HEAD + "parameters: {max-num-seqs: [1, 2]}\nconstraints:\n  - max-num-seqs > 0\n  - max-num-seq < 9\n",
        "chat.yaml:7: constraints[1]: unknown name 'max-num-seq' (did you mean 'max-num-seqs'?)",
        id="typo in a constraint",
    ),
    pytest.param(
        HEAD + "parameters: {max-num-seqs: [1, 2]}\nconstraints: [max_num_seqs > 0]\n",
        "chat.yaml:5: constraints[0]: unknown name 'max_num_seqs' (did you mean 'max-num-seqs'?)",
        id="underscores in a constraint",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nconstraints: ['tp >']\n",
        "chat.yaml:5: constraints[0]: a value is missing at the end",
        id="constraint cut short",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nconstraints: ['tp = 1']\n",
        "chat.yaml:5: constraints[0]: cannot read '=' (did you mean '=='?)",
        id="assignment in a constraint",
    ),
    pytest.param(
        HEAD + 'parameters: {tp: [1, 2]}\nconstraints: [\'__import__("os").system("id")\']\n',
        "chat.yaml:5: constraints[0]: cannot read '.system(\"id\")'",
        id="python in a constraint",
    ),
    pytest.param(
        HEAD + "parameters: {mode: [a, b]}\nconstraints: [mode < 3]\n",
        "chat.yaml:5: constraints[0]: constraint 'mode < 3': 'a' is not a number",
        id="constraint of the wrong type",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nconstraints: [tp + 1]\n",
        "chat.yaml:5: constraints[0]: constraint 'tp + 1': 2 is not true or false",
        id="constraint without a condition",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2], pp: [1, 2]}\nconstraints:\n  - tp <= pp\n  - tp * pp > 8\n",
        "chat.yaml:7: constraints[1]: 'tp * pp > 8' excludes all 4 configurations; relax it",
        id="constraint that excludes everything",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nconstraints: [tp > 1, tp < 2]\n",
        "chat.yaml:5: constraints: together they exclude all 2 configurations; relax one",
        id="constraints that exclude everything together",
    ),
    pytest.param(
        HEAD + "constraints: tp > 1\n",
        "chat.yaml:4: constraints: 'tp > 1' is not a list; write ['tp > 1']",
        id="constraint that is no list",
    ),
    pytest.param(
        HEAD + "constraints: [{a: 1}]\n",
        'chat.yaml:4: constraints[0]: {"a": 1} is not a condition; put it in quotes',
        id="constraint that is a mapping",
    ),
    pytest.param(
        HEAD + CONDITION.format("true"),
        "chat.yaml:6: parameters.k.when: true is not a condition; write text in quotes, e.g. \"a == 'b'\"",
        id="condition that is no text",
    ),
    pytest.param(
        HEAD + CONDITION.format("[method]"),
        'chat.yaml:6: parameters.k.when: ["method"] is not a condition; write text in quotes, e.g. "a == \'b\'"',
        id="condition that is a list",
    ),
    pytest.param(
        HEAD + CONDITION.format("''"),
        "chat.yaml:6: parameters.k.when: an empty constraint says nothing; write a condition, e.g. 'a >= b'",
        id="empty condition",
    ),
    pytest.param(
        HEAD + CONDITION.format("method =="),
        "chat.yaml:6: parameters.k.when: a value is missing at the end",
        id="condition cut short",
    ),
    pytest.param(
        HEAD + CONDITION.format("method == ngram"),
        "chat.yaml:6: parameters.k.when: unknown name 'ngram'; write a parameter or a fixed setting, or put a value in quotes: 'ngram'",
        id="value without quotes in a condition",
    ),
    pytest.param(
        HEAD + CONDITION.format("methd == 'ngram'"),
        "chat.yaml:6: parameters.k.when: unknown name 'methd' (did you mean 'method'?)",
        id="typo in a condition",
    ),
    pytest.param(
        HEAD + CONDITION.format("k > 2"),
        "chat.yaml:6: parameters.k.when: 'k' cannot depend on itself; name other parameters or fixed settings",
        id="condition of itself",
    ),
    pytest.param(
        HEAD + CONDITION.format("method > 2"),
        "chat.yaml:6: parameters.k.when: constraint 'method > 2': 'none' is not a number",
        id="condition of the wrong type",
    ),
    pytest.param(
        HEAD + CONDITION.format("method"),
        "chat.yaml:6: parameters.k.when: constraint 'method': 'none' is not true or false",
        id="condition that is none",
    ),
    pytest.param(
        HEAD + CONDITION.format("method == 'none', wenn: 1"),
        "chat.yaml:6: parameters.k.wenn: unknown key (did you mean 'when'?)",
        id="typo of a condition's key",
    ),
    pytest.param(
        HEAD + "parameters:\n  c: [1]\n  a: {choice: [1], when: b > c}\n  b: {choice: [2], when: a > 1}\n",
        "chat.yaml:6: parameters.a.when: the conditions of 'a', 'b' depend on each other, so that none could ever exist; remove one",
        id="conditions in a circle",
    ),
    pytest.param(
        HEAD + "parameters:\n  n: {int: [1, 9]}\n  k: {int: [1, 4], when: 8 / (n - 2) > 1}\n",
        "chat.yaml:6: parameters.k.when: constraint '8 / (n - 2) > 1': division by zero",
        id="condition that divides by zero within a range",
    ),
    pytest.param(
        HEAD + "parameters: {a: {int: [1, 9999]}, b: {float: [0, 1], when: a}}\nsearch: {strategy: tpe}\n",
        "chat.yaml:4: parameters.b.when: constraint 'a': 1 is not true or false",
        id="condition of the wrong type in an adaptive search",
    ),
    pytest.param(
        "name: c\nengine: command\ncommand: [serve, '{port}', '-k={k}', '{flags}']\nparameters: {m: [1, 2], k: {int: [1, 2], when: m > 1}}\n",
        "chat.yaml:3: command[2]: {k} has no value where the parameter's condition does not hold; pass it by {flags}",
        id="conditional parameter as a placeholder",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: {tp: 1}\n",
        'chat.yaml:5: forbidden: {"tp": 1} is not a list; write [{"tp": 1}]',
        id="forbidden that is no list",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: tp\n",
        "chat.yaml:5: forbidden: 'tp' is not a list of combinations; write e.g. [{a: 1, b: [2, 4]}]",
        id="forbidden that is text",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [tp]\n",
        "chat.yaml:5: forbidden[0]: 'tp' is not a combination of settings; write e.g. {a: 1, b: [2, 4]}",
        id="forbidden combination that is text",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{}]\n",
        "chat.yaml:5: forbidden[0]: an empty combination forbids everything; name settings with their values, or remove it",
        id="empty combination",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{tp: []}]\n",
        "chat.yaml:5: forbidden[0].tp: an empty list forbids nothing; list values or remove the name",
        id="combination without values",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{eagre: true}]\n",
        "chat.yaml:5: forbidden[0].eagre: unknown name (did you mean 'eager'?); write a parameter or a fixed setting",
        id="typo in a combination",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{tp: 1}, {tp: 4}]\n",
        "chat.yaml:5: forbidden[1].tp: 4 is never tried; write one of [1, 2]",
        id="forbidden value that is not listed",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{eager: 1}]\n",
        "chat.yaml:5: forbidden[0].eager: 1 is never tried; write one of [true, false]",
        id="forbidden number in place of true",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{sizes: [1, 2]}]\n",
        "chat.yaml:5: forbidden[0].sizes: 1 is never tried; to forbid the list itself, write [[1, 2]] (and 1 more problem)",
        id="forbidden list",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{seqs: 100}]\n",
        "chat.yaml:5: forbidden[0].seqs: 100 is never tried; write a value from 64 to 512, 4 grid points",
        id="forbidden value between grid points",
    ),
    pytest.param(
        HEAD
        + "parameters: {tp: [1, 2], eager: [true, false], sizes: [[1, 2], [4]], seqs: {int: [64, 512], log: true, grid: 4}, u: {float: [0.8, 0.9], step: 0.05}}\nforbidden: [{u: 0.87}]\n",
        "chat.yaml:5: forbidden[0].u: 0.87 is never tried; write a value from 0.8 to 0.9 in steps of 0.05",
        id="forbidden value between steps",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nforbidden: [{tp: [1, 2]}]\n",
        'chat.yaml:5: forbidden[0]: {"tp": [1, 2]} excludes all 2 configurations; relax it',
        id="combination that excludes everything",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nforbidden: [{tp: 1}, {tp: 2}]\n",
        "chat.yaml:5: forbidden: together they exclude all 2 configurations; relax one",
        id="combinations that exclude everything together",
    ),
    pytest.param(
        HEAD + "parameters: {tp: [1, 2]}\nconstraints: [tp > 1]\nforbidden: [{tp: 2}]\n",
        "chat.yaml:5: constraints: together constraints and forbidden exclude all 2 configurations; relax one",
        id="constraints and combinations that exclude everything together",
    ),
    pytest.param(
        HEAD + "load:\n  concurrency: [1, 0]\n",
        "chat.yaml:5: load.concurrency[1]: 0 is too small; write a whole number of at least 1",
        id="concurrency of zero",
    ),
    pytest.param(
        HEAD + "load: {concurrency: [1, 4, 4]}\n",
        "chat.yaml:4: load.concurrency[2]: concurrency 4 is listed twice",
        id="repeated concurrency",
    ),
    pytest.param(
        HEAD + "load: {concurrency: []}\n",
        "chat.yaml:4: load.concurrency: an empty list is no load; list at least one concurrency, e.g. [1, 4, 16]",
        id="no concurrency",
    ),
    pytest.param(
        HEAD + "load: {concurrency: ['8']}\n",
        "chat.yaml:4: load.concurrency[0]: '8' is text (did you mean 8, without quotes?); write a whole number of at least 1",
        id="concurrency as text",
    ),
    pytest.param(
        HEAD + "load: {duration: 30}\n",
        "chat.yaml:4: load.duration: 30 has no unit; write '30s' or '30ms'",
        id="duration without a unit",
    ),
    pytest.param(
        HEAD + "load: {duration: 0}\n",
        "chat.yaml:4: load.duration: 0 must be longer than 0; write e.g. 500ms, 30s, 2m",
        id="duration of zero",
    ),
    pytest.param(
        HEAD + "load: {warmup: -5s}\n",
        "chat.yaml:4: load.warmup: '-5s' is negative; write a number with a unit, e.g. 500ms, 30s, 2m",
        id="negative warm-up",
    ),
    pytest.param(
        HEAD + "load: {prompt_tokens: 4k}\n",
        "chat.yaml:4: load.prompt_tokens: '4k' is ambiguous; write 4000 or 4096",
        id="tokens with a suffix",
    ),
    pytest.param(
        HEAD + "load: {output_tokens: 1.5}\n",
        "chat.yaml:4: load.output_tokens: 1.5 is not a whole number; write a whole number of at least 1",
        id="fraction of a token",
    ),
    pytest.param(
        HEAD + "load: {api: chats}\n",
        "chat.yaml:4: load.api: 'chats' is not one of completions, chat, embeddings, rerank (did you mean 'chat'?)",
        id="unknown api",
    ),
    pytest.param(
        HEAD + "slo:\n  ttft.p90: 50 parsecs\n",
        "chat.yaml:5: slo.ttft.p90: '50 parsecs' is not a duration; write a number with a unit, e.g. 500ms, 30s, 2m",
        id="not a duration",
    ),
    pytest.param(
        HEAD + "slo: {confidence: 0.3}\n",
        "chat.yaml:4: slo.confidence: 0.3 is no confidence between 50% and 99.99%; write e.g. 95%",
        id="confidence below a half",
    ),
    pytest.param(
        HEAD + "slo: {confidence: 95%, tpot.max: 50ms, ttft.p99: {max: 1s, hard_fail: false}}\n",
        "chat.yaml:4: slo.confidence: no hard limit is on a percentile or mean, to which it would apply; remove it or add ttft.p95: 500ms",
        id="confidence of nothing",
    ),
    pytest.param(
        HEAD + "slo:\n  confidence: 95%\n  spread: 60%\n  tpot.mean: 50ms\n",
        "chat.yaml:6: slo.spread: '60%' is no spread below 50%; write e.g. 1%",
        id="spread of more than a half",
    ),
    pytest.param(
        HEAD + "slo: {confidence: 95%, spread: -1%, tpot.mean: 50ms}\n",
        "chat.yaml:4: slo.spread: '-1%' is negative; write a percentage, e.g. 1%, or a share of one, e.g. 0.01",
        id="negative spread",
    ),
    pytest.param(
        HEAD + "slo: {spread: 1%, tpot.mean: 50ms}\n",
        "chat.yaml:4: slo.spread: only means something with confidence: in slo:; remove it or write e.g. confidence: 95%",
        id="spread without confidence",
    ),
    pytest.param(
        HEAD + "tiers:\n  chat:\n    ttft.p99: 1s\n    spread: 1%\n",
        "chat.yaml:7: tiers.chat.spread: counts for every tier; write it in slo:",
        id="spread of a tier",
    ),
    pytest.param(
        HEAD + "slo: {confidence: 1}\n",
        "chat.yaml:4: slo.confidence: 1 is not a share below 1 (did you mean '1%'?); write a percentage, e.g. 1%, or a share of one, e.g. 0.01",
        id="confidence of all",
    ),
    pytest.param(
        HEAD + "slo: {ttft.p90: 50 sec}\n",
        "chat.yaml:4: slo.ttft.p90: '50 sec' is not a duration (did you mean '50s'?); write a number with a unit, e.g. 500ms, 30s, 2m",
        id="nearest duration",
    ),
    pytest.param(
        HEAD + "slo: {ttft.p90: 500}\n",
        "chat.yaml:4: slo.ttft.p90: 500 has no unit; write '500s' or '500ms'",
        id="limit without a unit",
    ),
    pytest.param(
        HEAD + "slo: {ttft: 500ms}\n",
        "chat.yaml:4: slo.ttft: 'ttft' is a distribution; add a statistic: ttft.p90, ttft.p99 or ttft.mean",
        id="metric without a statistic",
    ),
    pytest.param(
        HEAD + "slo: {ttft.p101: 500ms}\n",
        "chat.yaml:4: slo.ttft.p101: 'ttft.p101' is not a metric; did you mean 'ttft.p90'? " + METRICS,
        id="unknown statistic",
    ),
    pytest.param(
        HEAD + "slo: {output_thruput: 100}\n",
        "chat.yaml:4: slo.output_thruput: 'output_thruput' is not a metric; did you mean 'output_throughput'? "
        + METRICS,
        id="unknown metric",
    ),
    pytest.param(
        HEAD + "slo: {goodput.p90: 100}\n",
        "chat.yaml:4: slo.goodput.p90: 'goodput.p90' is not a metric; did you mean 'goodput'? " + METRICS,
        id="throughput with a statistic",
    ),
    pytest.param(
        HEAD + "slo: {e2e.p99: 0s}\n",
        "chat.yaml:4: slo.e2e.p99: '0s' cannot be kept by any server; write a duration above 0, e.g. 500ms",
        id="limit of zero",
    ),
    pytest.param(
        HEAD + "slo: {output_throughput: -1}\n",
        "chat.yaml:4: slo.output_throughput: -1 is not above 0",
        id="negative limit",
    ),
    pytest.param(
        HEAD + "slo: {output_throughput: 100 tok/s}\n",
        "chat.yaml:4: slo.output_throughput: '100 tok/s' is not a number; rates are numbers per second without a unit, e.g. 100",
        id="throughput with a unit",
    ),
    pytest.param(
        HEAD + "slo: {error_rate: 1}\n",
        "chat.yaml:4: slo.error_rate: 1 is not a share below 1 (did you mean '1%'?); write a percentage, e.g. 1%, or a share of one, e.g. 0.01",
        id="ambiguous error rate",
    ),
    pytest.param(
        HEAD + "slo: {error_rate: 120%}\n",
        "chat.yaml:4: slo.error_rate: '120%' is more than 100%; write a percentage, e.g. 1%, or a share of one, e.g. 0.01",
        id="error rate beyond all",
    ),
    pytest.param(
        HEAD + "slo: {ttft.p90: {max: 1s, min: 1ms}}\n",
        "chat.yaml:4: slo.ttft.p90: a limit has either max or min; write {max: ...}",
        id="limit with two sides",
    ),
    pytest.param(
        HEAD + "slo:\n  ttft.p90: {weight: 2}\n",
        "chat.yaml:5: slo.ttft.p90: a limit has either max or min; write {max: ...}",
        id="limit without a side",
    ),
    pytest.param(
        HEAD + "slo: {ttft.p90: {max: 1s, hardfail: true}}\n",
        "chat.yaml:4: slo.ttft.p90.hardfail: unknown key (did you mean 'hard_fail'?)",
        id="unknown key in a limit",
    ),
    pytest.param(
        HEAD + "slo:\n  ttft.p90:\n    max: 1s\n    hard_fail: false\n    fail_ratio: 0.2\n",
        "chat.yaml:8: slo.ttft.p90.fail_ratio: says how far a hard limit may be missed, so it means nothing with hard_fail: false; remove one of them",
        id="fail ratio of a soft limit",
    ),
    pytest.param(
        HEAD + "slo: {ttft.p90: {max: 1s, hard_fail: 'yes'}}\n",
        "chat.yaml:4: slo.ttft.p90.hard_fail: 'yes' is not true or false",
        id="hard_fail is text",
    ),
    pytest.param(
        HEAD + "slo: {ttft.p90: {max: 1s, weight: 0}}\n",
        "chat.yaml:4: slo.ttft.p90.weight: 0 is not above 0",
        id="weight of zero",
    ),
    pytest.param(
        HEAD + "slo: {steepness: 0}\n", "chat.yaml:4: slo.steepness: 0 is not above 0", id="steepness of zero"
    ),
    pytest.param(
        HEAD + "objective: output_throughput\n",
        "chat.yaml:4: objective: 'output_throughput' is not an objective (did you mean 'maximize output_throughput'?); write 'maximize METRIC' or 'minimize METRIC'",
        id="objective without a direction",
    ),
    pytest.param(
        HEAD + "objective:\n  - maximize output_throughput\n  - maximize ttft.p90\n",
        "chat.yaml:6: objective[1]: 'maximize ttft.p90' wants a worse server (did you mean 'minimize ttft.p90'?)",
        id="second objective that wants a worse server",
    ),
    pytest.param(
        HEAD + "objective: [minimize ttft.p90, minimize ttft.p90]\n",
        "chat.yaml:4: objective[1]: 'minimize ttft.p90' is there twice; remove one",
        id="objective given twice",
    ),
    pytest.param(
        HEAD + "objective: []\n",
        "chat.yaml:4: objective: an empty list has no objective; write e.g. 'maximize output_throughput'",
        id="no objective in a list",
    ),
    pytest.param(
        HEAD + "objective: maximise output_throughput\n",
        "chat.yaml:4: objective: 'maximise' is not a direction (did you mean 'maximize'?); write maximize or minimize",
        id="misspelled direction",
    ),
    pytest.param(
        HEAD + "objective: maximize ttft.p90\n",
        "chat.yaml:4: objective: 'maximize ttft.p90' wants a worse server (did you mean 'minimize ttft.p90'?)",
        id="objective that wants a worse server",
    ),
    pytest.param(
        HEAD + "objective: minimize ttft\n",
        "chat.yaml:4: objective: 'ttft' is a distribution; add a statistic: ttft.p90, ttft.p99 or ttft.mean",
        id="objective without a statistic",
    ),
    pytest.param(
        HEAD + "objective: {maximize: goodput}\n",
        "chat.yaml:4: objective: {\"maximize\": \"goodput\"} is not an objective; write 'maximize METRIC' or 'minimize METRIC'",
        id="objective as a mapping",
    ),
    pytest.param(
        HEAD + "search: {strategy: tpee}\n",
        "chat.yaml:4: search.strategy: 'tpee' is not one of grid, random, tpe, gp, bayes, auto (did you mean 'tpe'?)",
        id="unknown strategy",
    ),
    pytest.param(
        HEAD + "search: {trials: 0}\n",
        "chat.yaml:4: search.trials: 0 is too small; write a whole number of at least 1",
        id="no trials",
    ),
    pytest.param(
        HEAD + "search: tpe\n", "chat.yaml:4: search: 'tpe' is not a mapping of keys to values", id="strategy as text"
    ),
    pytest.param(
        HEAD + "search: {screen: 60%}\n",
        "chat.yaml:4: search.screen: '60%' is not from 5% to 50%; write e.g. 20%",
        id="most of a batch to screen",
    ),
    pytest.param(
        HEAD + "search: {screen: 20}\n",
        "chat.yaml:4: search.screen: 20 is not a share below 1 (did you mean '20%'?); "
        "write a percentage, e.g. 1%, or a share of one, e.g. 0.01",
        id="screen without a unit",
    ),
    pytest.param(
        HEAD + "load: {concurrency: {search: [1, 8]}}\nsearch: {screen: 20%}\n",
        "chat.yaml:5: search.screen: a search for the capacity rejects by itself what cannot win; remove it",
        id="screen and a search for the capacity",
    ),
    pytest.param(
        HEAD + "load: {burst: 50}\nsearch: {screen: 20%}\n",
        "chat.yaml:5: search.screen: burst is no load of which a part tells the rest; remove it",
        id="screen of a burst",
    ),
    pytest.param(
        HEAD + "load: {generator: guidellm}\nsearch: {screen: 20%}\n",
        "chat.yaml:5: search.screen: guidellm cannot be watched while it runs; remove it",
        id="screen with another generator",
    ),
    pytest.param(
        HEAD + "search: {screen: 20%}\nobjective: [maximize goodput, minimize e2e.p90]\n",
        "chat.yaml:4: search.screen: what is worse in the first objective may be best in another; "
        "remove it, or the others",
        id="screen with several objectives",
    ),
    pytest.param(
        HEAD + "search: {defaults: 'no'}\n",
        "chat.yaml:4: search.defaults: 'no' is not true or false",
        id="defaults is text",
    ),
    pytest.param(
        HEAD + "timeouts: {stop: 0}\n",
        "chat.yaml:4: timeouts.stop: 0 must be longer than 0; write e.g. 500ms, 30s, 2m",
        id="timeout of zero",
    ),
    pytest.param(
        "name: chat\nengine: command\n",
        "chat.yaml:2: engine: 'command' needs command: how to start the server, e.g. [serve, --port, '{port}']",
        id="command without command",
    ),
    pytest.param(
        "name: chat\nengine: command\ncommand: [serve, --port, '{prot}', --at, '{port}']\n",
        "chat.yaml:3: command[2]: unknown placeholder {prot} (did you mean '{port}'?); allowed: {port}, {host}, {model}, {model_name}, {python}, {flags}",
        id="unknown placeholder",
    ),
    pytest.param(
        "name: chat\nengine: command\ncommand: [serve, --port, {port}]\n",
        "chat.yaml:3: command[2]: {port} without quotes is a YAML mapping; write '{port}'",
        id="placeholder without quotes",
    ),
    pytest.param(
        "name: chat\nengine: command\ncommand: serve --fast\n",
        "chat.yaml:3: command: has no {port}, so the server would not listen where it is expected",
        id="command without port",
    ),
    pytest.param(
        "name: chat\nengine: command\ncommand: serve '--port {port}\n",
        'chat.yaml:3: command: "serve \'--port {port}" cannot be split into arguments: no closing quotation',
        id="command with an open quote",
    ),
    pytest.param(
        "name: chat\nengine: command\nparameters: {tp: [1, 2]}\ncommand: serve --port {port}\n",
        "chat.yaml:4: command: has neither {tp} nor {flags}, so that setting would have no effect",
        id="parameter without effect",
    ),
    pytest.param(
        "name: chat\nengine: command\ncommand: serve {model} --port {port}\n",
        "chat.yaml:3: command: has {model}, but the suite has no model:",
        id="model placeholder without model",
    ),
    pytest.param(
        HEAD + "command: serve --port {port}\n",
        "chat.yaml:4: command: 'sim' makes its own command; remove it or write engine: command",
        id="command of another engine",
    ),
    pytest.param(
        "name: chat\nengine: endpoint\n",
        "chat.yaml:2: engine: an endpoint needs url: its base URL, e.g. http://127.0.0.1:8000",
        id="endpoint without url",
    ),
    pytest.param(
        "name: chat\nengine: endpoint\nurl: http://localhost:8000\nparameters: {tp: [1, 2]}\n",
        "chat.yaml:4: parameters: an endpoint's settings cannot be changed; remove the key",
        id="endpoint with parameters",
    ),
    pytest.param(
        "name: chat\nengine: endpoint\nurl: http://localhost:8000\ncores: 2\n",
        "chat.yaml:4: cores: an endpoint's server is not started here, and keeps its cores; remove the key",
        id="endpoint with cores",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: m\ndeploy: docker\n",
        "chat.yaml:4: deploy: 'docker' needs docker: {image: ...}: the image, e.g. vllm/vllm-openai:v0.11.0",
        id="container without an image",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: m\ndocker: {image: a}\n",
        "chat.yaml:4: docker: only for deploy: docker; remove it, or write deploy: docker",
        id="image without a container",
    ),
    pytest.param(
        "name: chat\nengine: sim\ndeploy: docker\ndocker: {image: a, memory: 0}\n",
        "chat.yaml:4: docker.memory: 0 must be more than 0; write e.g. 512MiB, 16GiB",
        id="container without memory",
    ),
    pytest.param(
        "name: chat\nengine: sim\nmodel: m\ndeploy: docker\ncores: 1\ndocker: {image: a, run: {cpuset-cpus: 0-3}}\n",
        "chat.yaml:6: docker.run.cpuset-cpus: cores: says on which cores each server runs; remove one of them",
        id="cores of a container told twice",
    ),
    pytest.param(
        "name: chat\nengine: sim\ndeploy: docker\ndocker: {image: a, run: {name: mine}}\n",
        "chat.yaml:4: docker.run.name: not to be set here: set by the deployment, which finds, watches and removes the container by it",
        id="container with a name",
    ),
    pytest.param(
        "name: chat\nengine: sim\ndeploy: docker\ndocker: {image: a, run: {memory: 1GiB}}\n",
        "chat.yaml:4: docker.run.memory: not to be set here: write docker: {memory: ...}",
        id="container option that has a key",
    ),
    pytest.param(
        "name: chat\nengine: sim\ndeploy: docker\ndocker: {image: a, run: {cap-ad: [SYS_NICE]}}\n",
        "chat.yaml:4: docker.run.cap-ad: unknown key (did you mean 'cap-add'?)",
        id="container option that is none",
    ),
    pytest.param(
        "name: chat\nengine: sim\ndeploy: docker\ndocker: {image: a, run: {cap-add: SYS_NICE}}\n",
        "chat.yaml:4: docker.run.cap-add: 'SYS_NICE' is not a list of texts, e.g. [SYS_NICE]",
        id="container option that is no list",
    ),
    pytest.param(
        "name: chat\nengine: sim\ndeploy: docker\ndocker: {image: a, run: {ulimit: [memlock]}}\n",
        "chat.yaml:4: docker.run.ulimit: 'memlock' is no limit; write name=soft or name=soft:hard, e.g. memlock=-1",
        id="limit that is none",
    ),
    pytest.param(
        "name: chat\nengine: sim\ndeploy: docker\ndocker: {image: a, volumes: 7}\n",
        "chat.yaml:4: docker.volumes: 7 is not a list of texts",
        id="volumes that are none",
    ),
    pytest.param(
        "name: chat\nengine: endpoint\ndeploy: local\nurl: http://localhost:8000\n",
        "chat.yaml:3: deploy: 'local' starts servers, but engine: endpoint is already running",
        id="endpoint that is deployed",
    ),
    pytest.param(
        HEAD + "url: http://localhost:8000\n",
        "chat.yaml:4: url: only an endpoint has a url; remove it or write engine: endpoint",
        id="url of no endpoint",
    ),
    pytest.param(
        "name: chat\nengine: endpoint\nurl: localhost:8000\n",
        "chat.yaml:3: url: 'localhost:8000' is not a URL; write the base URL of the server, e.g. http://127.0.0.1:8000",
        id="url without a scheme",
    ),
    pytest.param(
        "name: chat\nengine: endpoint\nurl: http://me:pw@localhost:8000\n",
        "chat.yaml:3: url: a URL with a user, a query or a fragment is not a base URL; write the base URL of the server, e.g. http://127.0.0.1:8000",
        id="url with a password",
    ),
    pytest.param(
        HEAD + "env: {DEBUG: true}\n",
        "chat.yaml:4: env.DEBUG: true is not text; put it in quotes",
        id="env that YAML may change",
    ),
    pytest.param(
        HEAD + "env: {my-var: x}\n",
        "chat.yaml:4: env.my-var: 'my-var' is not the name of an environment variable",
        id="env with a strange name",
    ),
    pytest.param(
        HEAD + "gpus: -1\n",
        "chat.yaml:4: gpus: -1 is too small; write a whole number of at least 0",
        id="negative gpus",
    ),
    pytest.param(
        HEAD + "gpus: '2'\n",
        "chat.yaml:4: gpus: '2' is text (did you mean 2, without quotes?); write a whole number of at least 0",
        id="gpus as text",
    ),
    pytest.param(
        HEAD + "gpus: atuo\n",
        "chat.yaml:4: gpus: 'atuo' is not a number of GPUs, auto, none, a list of GPUs, or a mapping, e.g. {per_server: 2, pool: [0, 1]} (did you mean 'auto'?)",
        id="gpus: misspelled word",
    ),
    pytest.param(
        HEAD + "gpus: []\n",
        "chat.yaml:4: gpus: an empty list has no GPU; write none, or list some, e.g. [0, 1]",
        id="gpus: empty list",
    ),
    pytest.param(
        HEAD + "gpus: [0, cuda1, 0]\n",
        "chat.yaml:4: gpus[1]: 'cuda1' is not a GPU; write its index as nvidia-smi shows it, or its UUID (GPU-...) (and 1 more problem)",
        id="gpus: no GPU",
    ),
    pytest.param(
        HEAD + "gpus: [0, 0]\n",
        "chat.yaml:4: gpus[1]: GPU 0 is listed twice",
        id="gpus: twice the same",
    ),
    pytest.param(
        HEAD + "gpus: {}\n",
        "chat.yaml:4: gpus: an empty mapping says nothing; remove the key",
        id="gpus: empty mapping",
    ),
    pytest.param(
        HEAD + "gpus: {per_sever: 2}\n",
        "chat.yaml:4: gpus.per_sever: unknown key (did you mean 'per_server'?)",
        id="gpus: unknown key",
    ),
    pytest.param(
        HEAD + "gpus: {pool: some}\n",
        "chat.yaml:4: gpus.pool: 'some' is not auto, none, or a list of GPUs, e.g. [0, 1]",
        id="gpus: unknown pool",
    ),
    pytest.param(
        HEAD + "gpus: {pool: [0], pretend: 8}\n",
        "chat.yaml:4: gpus.pretend: pretended GPUs are all that there are; remove it, or pool",
        id="gpus: pretended and real",
    ),
    pytest.param(
        HEAD + "gpus:\n  pretend: 8000\n",
        "chat.yaml:5: gpus.pretend: 8000 is too many to pretend; write 1024 at most",
        id="gpus: too many pretended",
    ),
    pytest.param(
        HEAD + "gpus: {memory: 20}\n",
        "chat.yaml:4: gpus.memory: 20 is not a share below 1 (did you mean '20%'?); write a percentage, e.g. 1%, or a share of one, e.g. 0.01, or a size, e.g. 20GiB",
        id="gpus: memory without a unit",
    ),
    pytest.param(
        HEAD + "gpus: {utilization: 150%, wait: 30}\n",
        "chat.yaml:4: gpus.utilization: '150%' is more than 100%; write a percentage, e.g. 1%, or a share of one, e.g. 0.01 (and 1 more problem)",
        id="gpus: more than all",
    ),
    pytest.param(
        HEAD + "load:\n  duration: 30\n  warmup: 5\n",
        "chat.yaml:5: load.duration: 30 has no unit; write '30s' or '30ms' (and 1 more problem)",
        id="two problems",
    ),
    pytest.param(
        HEAD + "slo: {ttft: 1s}\nload: {duration: 30, warmup: 5}\ngpus: x\n",
        "chat.yaml:4: slo.ttft: 'ttft' is a distribution; add a statistic: ttft.p90, ttft.p99 or ttft.mean (and 3 more problems)",
        id="many problems, first by line",
    ),
    pytest.param(
        HEAD + "description: 5\n",
        "chat.yaml:4: description: 5 is not text; put it in quotes",
        id="description is a number",
    ),
    pytest.param(
        "name: chat\nengine: endpoint\nurl: http://[::1\n",
        "chat.yaml:3: url: 'http://[::1' is not a URL; write the base URL of the server, e.g. http://127.0.0.1:8000",
        id="url with an open bracket",
    ),
    pytest.param(
        "name: chat\nengine: command\ncommand: [serve, true, '{port}']\n",
        "chat.yaml:3: command[1]: true is not an argument; put it in quotes",
        id="argument that YAML may change",
    ),
    pytest.param(
        'name: chat\nengine: command\ncommand: ["a\\0b", "{port}"]\n',
        "chat.yaml:3: command[0]: 'a\\x00b' has a NUL character, which no argument can have",
        id="NUL in an argument",
    ),
    pytest.param(
        HEAD + 'env: {A: "\\0"}\n',
        "chat.yaml:4: env.A: the value has a NUL character, which no variable can have",
        id="NUL in the environment",
    ),
    pytest.param(
        HEAD + "parameters: {tp: {choice: 4}}\n",
        "chat.yaml:4: parameters.tp.choice: 4 is not a list of values",
        id="choice of one value",
    ),
    pytest.param(
        HEAD + "parameters: {seqs: {int: [1, 64], grid: 10001}}\n",
        "chat.yaml:4: parameters.seqs.grid: 10001 grid points are more than 10000; use fewer",
        id="too many grid points",
    ),
    pytest.param(
        HEAD + f"gpus: {'9' * 200}\n",
        f"chat.yaml:4: '{'9' * 60}'... is not a number; if it is text, put it in quotes",
        id="number of 200 digits",
    ),
    pytest.param(
        HEAD + "command: 5\n",
        "chat.yaml:4: command: 5 is not a command; write a list of arguments or one line of text",
        id="command is a number",
    ),
    pytest.param(
        HEAD + 'description: "\\U00110000"\n',
        "chat.yaml: not valid YAML: chr() arg not in range(0x110000)",
        id="character beyond Unicode",
    ),
    pytest.param(
        "name: chat\nengine: command\ncommand: [serve, --port, '{port}', '--all={flags}']\n",
        "chat.yaml:3: command[3]: {flags} becomes any number of arguments; it cannot be a part of '--all={flags}'",
        id="flags inside an argument",
    ),
    pytest.param(
        HEAD + "slo: {failed: 1.5}\n",
        "chat.yaml:4: slo.failed: 1.5 is not a whole number; write a whole number of at least 0",
        id="fraction of a failure",
    ),
    pytest.param(
        HEAD + "accuracy: off\n",
        "chat.yaml:4: accuracy: 'off' is no accuracy; write none, a share such as 95%, or {prompts: prompts.jsonl, least: 95%}",
        id="accuracy off",
    ),
    pytest.param(
        HEAD + "accuracy: false\n",
        "chat.yaml:4: accuracy: false is no accuracy; write none, a share such as 95%, or {prompts: prompts.jsonl, least: 95%}",
        id="accuracy false",
    ),
    pytest.param(
        HEAD + "accuracy: 0%\n",
        "chat.yaml:4: accuracy: '0%' is not above 0% and at most 100%; write e.g. 95%, or accuracy: none",
        id="accuracy of nothing",
    ),
    pytest.param(
        HEAD + "accuracy:\n  prompts: a.jsonl\n  lest: 95%\n",
        "chat.yaml:6: accuracy.lest: unknown key (did you mean 'least'?)",
        id="unknown key of accuracy",
    ),
    pytest.param(
        HEAD + "accuracy:\n  prompts: [a.jsonl]\n",
        'chat.yaml:5: accuracy.prompts: ["a.jsonl"] is not the name of a file; write e.g. prompts.jsonl',
        id="prompts in a list",
    ),
    pytest.param(
        HEAD + "accuracy: {max_tokens: 100000}\n",
        "chat.yaml:4: accuracy.max_tokens: 100000 is more than 4096, which is no short answer; write e.g. 32",
        id="long answers",
    ),
    pytest.param(
        HEAD + "tiers: {chat: {ttft.p99: 500}}\n",
        "chat.yaml:4: tiers.chat.ttft.p99: 500 has no unit; write '500s' or '500ms'",
        id="limit of a tier without a unit",
    ),
    pytest.param(
        HEAD + "tiers:\n  chat: {ttft.p99: 1s}\n  a/b: {ttft.p99: 1s}\n",
        "chat.yaml:6: tiers.a/b: 'a/b' cannot name files; use letters, digits, '-', '_' and '.', beginning with a letter or digit",
        id="tier that cannot name files",
    ),
    pytest.param(
        HEAD + "tiers: {slo: {ttft.p99: 1s}}\n",
        "chat.yaml:4: tiers.slo: is what slo: is called among the tiers; choose another name",
        id="tier called slo",
    ),
    pytest.param(
        HEAD + "tiers: [interactive]\n",
        'chat.yaml:4: tiers: ["interactive"] is not a mapping of keys to values',
        id="tiers as a list",
    ),
    pytest.param(
        HEAD + "tiers:\n  chat:\n",
        "chat.yaml:5: tiers.chat: has no value; remove the key or give it one",
        id="tier without limits",
    ),
    pytest.param(
        HEAD + "tiers:\n  chat:\n    ttft.p99: 1s\n    confidence: 95%\n",
        "chat.yaml:7: tiers.chat.confidence: counts for every tier; write it in slo:",
        id="confidence of a tier",
    ),
    pytest.param(
        HEAD + "load: {api: embeddings}\ntiers: {chat: {ttft.p99: 1s}}\n",
        "chat.yaml:5: tiers.chat.ttft.p99: api: embeddings generates no tokens; use e2e, request_throughput or input_throughput",
        id="tier on tokens that are not generated",
    ),
    pytest.param(
        HEAD + "slo:\n  cost_per_million_output_tokens: 0.5\n",
        "chat.yaml:5: slo.cost_per_million_output_tokens: 'cost_per_million_output_tokens' needs the price of a GPU; add what one costs per hour, e.g. price: 2.50",
        id="limit on a cost without a price",
    ),
    pytest.param(
        HEAD + "tiers: {chat: {cost_per_million_tokens: 0.5}}\n",
        "chat.yaml:4: tiers.chat.cost_per_million_tokens: 'cost_per_million_tokens' needs the price of a GPU; add what one costs per hour, e.g. price: 2.50",
        id="tier with a cost without a price",
    ),
    pytest.param(
        HEAD + "objective:\n  - maximize output_throughput\n  - minimize cost_per_million_tokens\n",
        "chat.yaml:6: objective[1]: 'cost_per_million_tokens' needs the price of a GPU; add what one costs per hour, e.g. price: 2.50",
        id="objective of a cost without a price",
    ),
    pytest.param(
        HEAD + "price: 1\nobjective: maximize cost_per_million_tokens\n",
        "chat.yaml:5: objective: 'maximize cost_per_million_tokens' wants a worse server (did you mean 'minimize cost_per_million_tokens'?)",
        id="the most cost",
    ),
    pytest.param(
        HEAD + "price: 1\nslo: {cost_per_million_tokens: 5 USD}\n",
        "chat.yaml:5: slo.cost_per_million_tokens: '5 USD' is not a number; costs are numbers in the currency of the price without a unit, e.g. 0.5",
        id="cost with a currency",
    ),
    pytest.param(
        HEAD + "price: 2.50 USD\n",
        "chat.yaml:4: price: '2.50 USD' is not a number; write a number, and its currency as {per_gpu_hour: 2.50, currency: USD}",
        id="price with a currency",
    ),
    pytest.param(HEAD + "price: 0\n", "chat.yaml:4: price: 0 is not above 0", id="price of nothing"),
    pytest.param(
        HEAD + "price: {currency: USD}\n",
        "chat.yaml:4: price: missing key 'per_gpu_hour': what one GPU costs for one hour, e.g. {per_gpu_hour: 2.50}",
        id="currency without a price",
    ),
    pytest.param(
        HEAD + "price:\n  per_gpu_hour: 2.50\n  currency: US Dollar\n",
        "chat.yaml:6: price.currency: 'US Dollar' is not a currency; write a word of at most 12 characters, e.g. USD",
        id="currency of two words",
    ),
    pytest.param(
        HEAD + "price: {per_gpu_hour: 2.50, curency: USD}\n",
        "chat.yaml:4: price.curency: unknown key (did you mean 'currency'?)",
        id="unknown key of a price",
    ),
]

GOOD = """\
name: chat
engine: vllm
model: meta-llama/Llama-3.1-8B-Instruct
parameters:
  tensor-parallel-size: [1, 2, 4]
  max-num-seqs: {int: [64, 512], log: true, grid: 4}
  gpu-memory-utilization: {float: [0.85, 0.95], step: 0.05}
constraints: ["max-num-batched-tokens >= max-num-seqs"]
fixed: &base {max-model-len: 4096}
env: {HF_TOKEN: hf_secret}
load: {prompt_tokens: 512, output_tokens: 128, concurrency: [1, 4], duration: 30s, warmup: 5s}
slo:
  ttft.p90: 500ms
  e2e.p99: {max: 10s, hard_fail: true, fail_ratio: 0.2, weight: 2}
  error_rate: 1%
  output_throughput: {min: 100}
objective: maximize output_throughput_per_gpu
search: {strategy: grid}
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(content, path="chat.yaml"):
    file = Path(path)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_suite(file)


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_broken_suite_is_refused_with_one_line(text, message):
    with pytest.raises(SuiteError) as caught:
        load(text)
    assert str(caught.value) == message


def test_file_that_is_not_utf8_is_refused():
    with pytest.raises(SuiteError) as caught:
        load(b"name: chat\nmodel: \xff\n")
    assert str(caught.value) == "chat.yaml:2: is not UTF-8 text: byte 0xff; save it as UTF-8"


def test_control_character_is_refused():
    with pytest.raises(SuiteError) as caught:
        load(HEAD + "description: '\x07'\n")
    assert str(caught.value) == "chat.yaml:4: not valid YAML: character '\\x07'"


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(SuiteError) as caught:
        load(HEAD + 'description: "\\ud800"\n')
    assert str(caught.value) == "chat.yaml:4: text with half of a surrogate pair, which is no character"


def test_aliases_that_explode_are_refused():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    with pytest.raises(SuiteError) as caught:
        load(bomb)
    assert str(caught.value) == "chat.yaml:1: more than 100000 values"


def test_deep_nesting_is_refused():
    with pytest.raises(SuiteError) as caught:
        load(HEAD + "fixed: {x: " + "[" * 2000)
    assert str(caught.value) == "chat.yaml:4: not valid YAML: nested deeper than 50 levels"


def test_huge_file_is_refused():
    with pytest.raises(SuiteError) as caught:
        load(HEAD + "# " + "x" * 1_000_000)
    assert str(caught.value) == "chat.yaml: is larger than 1000000 bytes, so it is hardly a suite"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("nowhere.yaml", "nowhere.yaml: no such file", id="missing"),
        pytest.param(".", ".: is a directory, not a suite file", id="directory"),
        pytest.param("/dev/null", "/dev/null: is not a regular file", id="device"),
    ],
)
def test_what_is_no_file_is_refused(path, message):
    with pytest.raises(SuiteError) as caught:
        load_suite(Path(path))
    assert str(caught.value) == message


def test_error_carries_problem_path_and_line_apart():
    with pytest.raises(SuiteError) as caught:
        load(HEAD + "gpus: few\n")
    assert caught.value.line == 4
    assert caught.value.path == Path("chat.yaml")
    assert (
        caught.value.problem
        == "gpus: 'few' is not a number of GPUs, auto, none, a list of GPUs, or a mapping, e.g. {per_server: 2, pool: [0, 1]}"
    )


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        pytest.param(
            "max-num-batched-token >= tp",
            "constraints[0]: unknown name 'max-num-batched-token' (did you mean 'max-num-batched-tokens'?); "
            "write a parameter, a fixed setting or an engine flag",
            id="typo of a flag",
        ),
        pytest.param(
            "zzz >= tp",
            "constraints[0]: unknown name 'zzz'; write a parameter, a fixed setting or an engine flag",
            id="nothing like it",
        ),
    ],
)
def test_constraint_on_a_name_that_the_engine_does_not_know_is_refused(constraint, message):
    Path("chat.yaml").write_text(f"{HEAD}parameters: {{tp: [1, 2]}}\nconstraints: [{constraint}]\n")
    with pytest.raises(SuiteError) as caught:
        load_suite(Path("chat.yaml"), known_flags={"max-num-batched-tokens"})
    assert str(caught.value) == f"chat.yaml:5: {message}"


def loads_or_is_refused(content):
    """Load a suite; anything but success or one line of `SuiteError` fails the test."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "chat.yaml"
        file.write_bytes(content)
        try:
            suite = load_suite(file)
        except SuiteError as error:
            refusal = str(error)
        else:
            json.dumps(suite.document(), allow_nan=False)
            assert len(suite.measurement_key()) == 64
            return
    assert "\n" not in refusal
    assert refusal.startswith(str(file))


# Files and a busy machine: no deadline. The fixture only changes the directory, once is enough.
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = GOOD.splitlines()
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(
            ["30s", "0s", "1%", "{port}", "tp", "grid", "endpoint", "command", "a > b", "maximize goodput", "int"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["int", "float", "choice", "log", "grid", "step", "when", "max", "min"]),
                st.text(max_size=3),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
KEYS = [
    "name",
    "engine",
    "model",
    "deploy",
    "docker",
    "description",
    "fixed",
    "env",
    "engine_python",
    "command",
    "dialect",
    "url",
    "model_name",
]
KEYS += [
    "gpus",
    "cores",
    "load",
    "objective",
    "search",
    "timeouts",
    "parameters",
    "constraints",
    "forbidden",
    "slo",
    "accuracy",
]


@FUZZ
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_garbage_raises_only_suite_errors(content):
    loads_or_is_refused(content)


@FUZZ
@given(st.text(alphabet="ab:-,[]{}&*!|>'\"%@`?#~ \n\t<=.0", max_size=60))
@example("? ? -")
@example("- !<\n")
@example('"\\U00110000"')
@example('"\\UFFFFFFFF"')
@example("%YAML 1.0\n---\na: 1")
@example("%YAML 1.1\n---\na: 1:30\n")
def test_malformed_yaml_raises_only_suite_errors(text):
    loads_or_is_refused(text.encode())


@FUZZ
@given(
    st.sampled_from(range(len(GOOD))), st.integers(0, 12), st.text(alphabet="ab:-,[]{}&*!|>'\"%. \n\t09s", max_size=6)
)
def test_mutilated_suite_raises_only_suite_errors(position, removed, inserted):
    loads_or_is_refused((GOOD[:position] + inserted + GOOD[position + removed :]).encode())


@FUZZ
@given(st.permutations(LINES), st.integers(1, len(LINES)))
def test_shuffled_suite_raises_only_suite_errors(lines, kept):
    loads_or_is_refused("\n".join(lines[:kept]).encode())


@FUZZ
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_values_of_any_shape_under_real_keys_raise_only_suite_errors(changes):
    suite = {"name": "chat", "engine": "sim", "model": "llama", **changes}
    loads_or_is_refused(json.dumps(suite).replace("NaN", ".nan").replace("Infinity", ".inf").encode())


@FUZZ
@given(st.sampled_from(["load", "search", "timeouts", "slo", "parameters", "env"]), st.data())
def test_values_of_any_shape_inside_blocks_raise_only_suite_errors(block, data):
    keys = {
        "load": [
            "prompt_tokens",
            "concurrency",
            "duration",
            "warmup",
            "settle",
            "max_requests",
            "request_timeout",
            "api",
            "seed",
        ],
        "search": ["strategy", "trials", "seed", "defaults", "seeds", "earlier", "prior"],
        "timeouts": ["start", "ready", "batch", "accuracy", "alive", "stop"],
        "slo": ["ttft.p90", "ttft", "error_rate", "goodput", "steepness", "itl.p0"],
        "parameters": ["a", "b-c"],
        "env": ["A", "B"],
    }[block]
    content = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=3))
    suite = {"name": "chat", "engine": "sim", "model": "llama", block: content}
    loads_or_is_refused(json.dumps(suite).replace("NaN", ".nan").replace("Infinity", ".inf").encode())
