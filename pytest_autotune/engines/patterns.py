"""What model servers, their libraries and the kernel write when a server fails: one table for each kind of failure.

The corpus in ``tests/data/server_logs`` names the report that each of them was read in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_autotune.engines.engine import Memory


def _any(*alternatives: str) -> re.Pattern[str]:
    """Match one of them; case counts, which makes the search of a long log several times as fast."""
    return re.compile("|".join(alternatives))


# What loggers put before a message.
PREFIX = re.compile(
    r"^(?:[\w.-]+-\d+ +\| )?"  # docker compose: "vllm-1  | "
    # vLLM: "(EngineCore pid=7) ", "(VllmWorker rank=1 pid=8) "; Ray: "(RayWorkerWrapper pid=1, ip=...) "
    r"(?:\([\w-]+(?: rank=\d+)? pid=\d+[^)]*\)\s?)*"
    # vLLM: "ERROR 11-22 20:05:24 [core.py:1510] "; before 0.8: "ERROR 11-18 18:07:28 engine.py:366] "
    r"(?:(?P<level>[A-Z]{4,8}) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[?[\w./]+:\d+\] ?)?"
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^]]*\] )?"  # SGLang: "[2025-03-29 18:12:40 TP0] "
    # Text generation inference: the time, the level, perhaps "shard-manager: ", and the launcher's name.
    r"(?:\d{4}-\d\d-\d\dT[\d:.]+Z +(?P<tgi>[A-Z]+) (?:[\w-]+: )?text_generation_launcher: )?"
    r"(?:\[[\d/]+-[\d:]+\] \[TRT-LLM\] (?:\[RANK \d+\] )?\[(?P<trt>[A-Z])\] )?"  # TensorRT-LLM
    r"(?:\d+\.\d\d\.\d{3}\.\d{3} (?P<llama>[A-Z]) )?"  # llama.cpp since 2026: "0.00.174.294 E "
)
HARMLESS = {"DEBUG", "INFO", "WARNING", "WARN", "D", "I", "W"}
STARTED = re.compile(
    r"Application startup complete|The server is fired up|server is listening on|listening on http://|slot launch_slot_"
)

# Each names what the memory was for; the first that matches counts. The last are of any use: `FRAMES` tell more.
MEMORY: tuple[tuple[Memory | None, re.Pattern[str]], ...] = (
    ("container", _any(r"Memory cgroup out of memory", r"CONSTRAINT_MEMCG", r"OOMKilled")),
    (
        "KV cache",
        _any(
            r"No available memory for the cache blocks",
            r"larger than the available KV cache memory",
            r"larger than the maximum number of tokens that can be stored in (?:the )?KV cache",
            r"is less than requested memory for kv",
            r"Cannot auto-fit max_model_len",
            r"Not enough memory\. Please try to (?:increase|decrease) --mem-fraction-static",
            r"failed to allocate buffer for kv cache",
            r"component could not be created: KV cache",
        ),
    ),
    ("weights", _any(r"alloc_tensor_range: failed to allocate", r"error loading model: unable to allocate")),
    (
        "activations",
        _any(
            r"CUDA out of memory occurred when warming up sampler",
            r"Capture cuda graph failed: CUDA out of memory",
            r"Not enough memory to handle \d+ prefill tokens",
            r"Unable to warmup model: .*out of memory",
            r"failed to allocate compute buffers",
            r"component could not be created: Additional executor resources",
        ),
    ),
    (
        "host",
        _any(
            r"(?:not enough|can't allocate) memory: you tried to allocate",
            r"^(?:\w+\.)*MemoryError\b",
            r"\[Errno 12\]|Cannot allocate memory",
            r"Out of memory: Killed process|oom-kill",
            r"killed due to the node running low on memory",
            r"requires more system memory",
            r"Available memory on node.* is less than desired CPU memory utilization",
        ),
    ),
    (
        None,
        _any(
            r"OutOfMemoryError",
            r"\b(?:CUDA|Cuda|HIP|XPU|ROCm)\b.{0,80}[Oo]ut of memory|CUDA_ERROR_OUT_OF_MEMORY",
            r"cudaMalloc failed: out of memory",
            r"Free memory on device.* is less than desired GPU memory utilization",
            r"due to insufficient GPU memory",
        ),
    ),
)
OUT_OF_MEMORY = _any(*(pattern.pattern for _, pattern in MEMORY))

# The innermost frame of a traceback that is one of these says what the memory was for.
FRAMES: tuple[tuple[Memory, re.Pattern[str]], ...] = (
    (
        "weights",
        re.compile(r", in (?:load_model|load_weights|create_weights|process_weights_after_loading|get_model)$"),
    ),
    (
        "KV cache",
        re.compile(
            r", in (?:_?allocate_kv_cache\w*|initialize_kv_cache|initialize_cache|init_memory_pool|_create_buffers)$"
        ),
    ),
    (
        "activations",
        re.compile(
            r", in (?:profile_run|determine_num_available_blocks|capture_model|_?dummy_run|_dummy_sampler_run"
            r"|compile_or_warm_up_model|_run_cuda_graph_warmup|init_cuda_graphs|warmup|execute_model|compute_logprobs)$"
        ),
    ),
)
CROWDED = _any(  # what is free, or the host's memory: another start at another time may find more
    r"Free memory on device|Available memory on node",
    r"(?:not enough|can't allocate) memory: you tried to allocate",
    r"\bMemoryError\b|\[Errno 12\]|Cannot allocate memory",
    r"Out of memory: Killed process|oom-kill|OOMKilled",
    r"killed due to the node running low on memory|requires more system memory",
)

PORT = _any(
    r"[Aa]ddress already in use|\bEADDRINUSE\b|[Aa]ddress in use",
    r"couldn't bind (?:HTTP|to) server socket",
    r"bind: Only one usage of each socket address",
)
RETRIED = re.compile(r"thrown while requesting|Retrying in \d|retrying in \d")  # the server has not given up yet
INFRASTRUCTURE = _any(
    r"\b(?:429 Client|5\d\d Server) Error\b",
    r"[Cc]onnection reset by peer|Connection aborted|IncompleteRead|RemoteDisconnected",
    r"Read timed out|ConnectTimeout|TLS handshake timeout|dial tcp .*i/o timeout",
    r"Max retries exceeded with url|max retries exceeded: ",
    r"Temporary failure in name resolution|Name or service not known",
    r"No space left on device|Not enough free disk space",
    r"insufficient shared memory|Error while creating shared memory segment|Fatal Python error: Bus error",
    r"The memory capacity is unbalanced\. Some GPUs may be occupied",
)
MODEL = _any(
    r"gated repo|Repository Not Found",
    r"(?:Gated|RepositoryNotFound|RevisionNotFound|LocalEntryNotFound|EntryNotFound)(?:Repo)?Error",
    r"OfflineModeIsEnabled|HFValidationError|Repo id must be ",
    r"is not a local folder and is not a valid model identifier",
    r"Invalid repository ID or local directory",
    r"does not appear to have a file named|couldn't connect to .*(?:load|files)",
    r"Can't load the configuration of",
    r"Cannot find any model weights|No such file or directory: .*(?:config\.json|safetensors|tokenizer)",
    r"Model architectures .*(?:not supported|failed to be inspected)|Error no file named",
    r"[Uu]nknown model architecture|[Uu]nsupported model architecture|model architecture \w+ is not supported",
    r"requires you to execute the configuration file|contains custom code which must be executed",
    r"Error while deserializing header|model is corrupted or incomplete|invalid magic",
    r"failed to (?:open|read) GGUF file|gguf_init_from_\w+: failed to|Model path does not exist: ",
    r"RuntimeError: weight [\w.]+ does not exist",
)
DRIVER = _any(
    r"NVIDIA driver on your system is too old|Found no NVIDIA driver",
    r"CUDA driver version is insufficient|unsupported display driver / cuda driver combination",
    r"No CUDA GPUs are available|no CUDA-capable device|Failed to infer device type",
    r"GPUs with compute capability below",
    r"lib(?:cuda|cudart|nvrtc|nccl|cublas)\.so\S*: cannot open shared object file",
    r"\b(?:CUDA|Cuda) error\b|Triton Error \[CUDA\]|\bcudaError[A-Z]\w+|\bhipError[A-Z]\w+|CUBLAS_STATUS_(?!SUCCESS)",
    r"CUDA runtime error in ",
    r"NCCL error|\bnccl(?:System|UnhandledCuda|Internal|Remote)Error\b",
    r"NVRM: Xid|GPU has fallen off the bus",
)
BAD_ARGUMENT = _any(
    r"^error: (?:unexpected|invalid|unknown|unrecognized) argument",
    r"^error while handling argument",
    r"Quantization scheme is not supported for",
    r"quantized V cache requires flash_attn|V cache quantization requires flash_attn|n_seq_max must be <= \d",
)
VALIDATION = re.compile(r"^\d+ validation errors? for \w+$")  # a pydantic report that is printed, not raised
USAGE = re.compile(r"^[\w./-]+: error: (?P<text>.+)$")
EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]: )?(?P<type>(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*(?:Error|Exception|Interrupt)|Exception))\b"
    r"(?::\s*(?P<text>.*))?$"
)
REFUSED = {  # exceptions by which engines refuse what they were asked for
    "ValueError",
    "NotImplementedError",
    "AssertionError",
    "ArgumentError",
    "ArgumentTypeError",
    "SettingsError",
}
CONSEQUENCE = re.compile(  # said by one process of what happened to another
    r"Engine core initialization failed|EngineDeadError|EngineCore encountered an issue|Executor failed\."
    r"|WorkerProc initialization failed|Worker failed with error|please check the stack trace above"
    r"|Engine loop is not running|Initialization failed\. Please see the error messages above|KeyboardInterrupt"
    r"|CancelledError|ChildFailedError|Executor worker returned error"
)
CHILD = re.compile(
    r"(?:died|exited|terminated).*?[Ee]xit ?code[:= ]+-(?P<code>\d{1,3})\b"
    r"|signaled to shutdown with signal (?P<number>\d{1,3})\b"
    r"|(?:signal: |Fatal Python error: )"
    r"(?P<name>[Ss]egmentation fault|[Ii]llegal instruction|[Aa]borted|killed|terminated)"
    r"|(?P<dumped>[Ss]egmentation fault|[Ii]llegal instruction|[Aa]borted) \(core dumped\)",
)
SIGNALS = {
    "segmentation fault": "SIGSEGV",
    "illegal instruction": "SIGILL",
    "aborted": "SIGABRT",
    "killed": "SIGKILL",
    "terminated": "SIGTERM",
}
