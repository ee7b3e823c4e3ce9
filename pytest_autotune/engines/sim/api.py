"""The OpenAI API: what a request asks for, and what its answer looks like."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pytest_autotune.engines.sim.text import tokenize

DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions, as OpenAI's and vLLM's


class ApiError(Exception):
    """A request that cannot be served; becomes an OpenAI error object."""

    def __init__(self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    @property
    def payload(self) -> bytes:
        """The answer's body."""
        return dump({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}})


def dump(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are checked against."""

    model: str
    max_model_len: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked request for text."""

    chat: bool
    prompts: tuple[list[int], ...]  # one sequence each; repeated for n > 1
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    distinct: int  # prompts before repetition


def read_ask(body: bytes | bytearray, *, chat: bool, limits: Limits) -> Ask:
    """Read the body of a request; raise `ApiError` for one that cannot be served."""
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body is not a JSON object")
    model = fields.get("model")
    if model is not None and model != limits.model:
        raise ApiError(404, f"The model `{model}` does not exist.", kind="NotFoundError", param="model")
    prompts = [_chat_prompt(fields, limits)] if chat else _prompts(fields, limits)
    repeat = _whole(fields, "n", 1, low=1) or 1
    options = fields.get("stream_options") or {}
    longest = max(len(prompt) for prompt in prompts)
    default = limits.max_model_len - longest if chat else DEFAULT_COMPLETION_TOKENS
    max_tokens = _whole(fields, "max_completion_tokens", None) or _whole(fields, "max_tokens", None) or max(default, 1)
    if longest + max_tokens > limits.max_model_len:
        raise ApiError(
            400,
            f"This model's maximum context length is {limits.max_model_len} tokens. However, you requested "
            f"{longest + max_tokens} tokens ({longest} in the {'messages' if chat else 'prompt'}, {max_tokens} in the "
            "completion). Please reduce the length of the messages or completion.",
        )
    min_tokens = _whole(fields, "min_tokens", 0, low=0) or 0
    if min_tokens > max_tokens:
        raise ApiError(400, f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")
    return Ask(
        chat=chat,
        prompts=tuple(prompt.copy() for prompt in prompts for _ in range(repeat)),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(fields.get("ignore_eos")),
        stream=bool(fields.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        distinct=len(prompts),
    )


def _whole(fields: dict[str, Any], name: str, default: int | None, *, low: int = 1) -> int | None:
    value = fields.get(name, default)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ApiError(400, f"{name} must be a whole number of at least {low}, got {value!r}.", param=name)
    return value


def _prompts(fields: dict[str, Any], limits: Limits) -> list[list[int]]:
    prompt = fields.get("prompt")
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ApiError(400, "prompt must be a text, token ids, or a list of either.", param="prompt")
    return [_prompt(one, limits) for one in prompt]


def _prompt(prompt: Any, limits: Limits) -> list[int]:
    if isinstance(prompt, str):
        tokens = tokenize(prompt, limits.vocabulary)
    elif isinstance(prompt, list) and all(type(token) is int for token in prompt):
        tokens = prompt
        if tokens and not 0 <= min(tokens) <= max(tokens) < limits.vocabulary:
            raise ApiError(400, f"Token id {max(tokens)} is out of vocabulary ({limits.vocabulary}).", param="prompt")
    else:
        raise ApiError(400, "prompt must be a text, token ids, or a list of either.", param="prompt")
    if not tokens:
        raise ApiError(400, "The prompt is empty.", param="prompt")
    return tokens


def _chat_prompt(fields: dict[str, Any], limits: Limits) -> list[int]:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a non-empty list.", param="messages")
    text = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, "every message needs a role and a content.", param="messages")
        content = message.get("content") or ""
        if isinstance(content, list):  # parts
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        text.append(f"<{message['role']}> {content}")
    return tokenize("\n".join([*text, "<assistant>"]), limits.vocabulary)


class Answer:
    """Builds the events and the body of one answer. Everything but the text is put together beforehand."""

    def __init__(self, ask: Ask, *, identity: str, model: str, created: int) -> None:
        self._ask = ask
        kind = ("chat.completion" if ask.chat else "text_completion") + (".chunk" if ask.chat and ask.stream else "")
        self._envelope = {"id": identity, "object": kind, "created": created, "model": model}
        head = dump(self._envelope)[:-1]
        repeat = len(ask.prompts) // ask.distinct
        self._prompt_tokens = sum(map(len, ask.prompts[::repeat]))  # repeated prompts count once; they grow later
        self._heads = [head + b',"choices":[{"index":%d,' % index for index in range(len(ask.prompts))]

    def token(self, index: int, text: str, *, first: bool, reason: str | None) -> bytes:
        """Return the event for one token of one choice; `text` needs no escaping in JSON."""
        end = b'"finish_reason":"%b"}]}' % reason.encode() if reason else b'"finish_reason":null}]}'
        if not self._ask.chat:
            return b'%b"text":"%b","logprobs":null,%b' % (self._heads[index], text.encode(), end)
        role = b'"role":"assistant",' if first else b""
        return b'%b"delta":{%b"content":"%b"},"logprobs":null,%b' % (self._heads[index], role, text.encode(), end)

    def usage(self, generated: int) -> dict[str, int]:
        """Return OpenAI's usage object."""
        prompt = self._prompt_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}

    def usage_event(self, counts: dict[str, int]) -> bytes:
        """Return the last event of a stream that was asked to tell the usage."""
        return dump({**self._envelope, "choices": [], "usage": counts})

    def body(self, texts: list[tuple[str, str]], counts: dict[str, int]) -> bytes:
        """Return the body of an answer that is not streamed, from (text, finish reason) of each choice."""
        choices: list[dict[str, Any]] = []
        for index, (text, reason) in enumerate(texts):
            content = {"message": {"role": "assistant", "content": text}} if self._ask.chat else {"text": text}
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": reason})
        return dump({**self._envelope, "choices": choices, "usage": counts})
