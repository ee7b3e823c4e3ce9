"""The requests of a batch as the bytes that go to the socket: each by its number, in whichever process asks."""

from __future__ import annotations

import json
import random
import secrets
import uuid
from array import array
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.load.endpoint import head_of
from pytest_autotune.load.generator import Row
from pytest_autotune.load.lengths import quantile_of
from pytest_autotune.load.prompts import Kind, Prompts, trimmed

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Target, Workload
    from pytest_autotune.load.prompts import Pieces

QUERY_TOKENS = 32  # longest query of a made-up rerank request; at most a quarter of a pair
_STREAM = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
_CONTENT = {"completions": b'"prompt": ', "chat": b'"messages": [', "embeddings": b'"input": ', "rerank": b""}
_TURN = 2**40  # requests of a batch have numbers below
_MADE_UP = Row()


class Request(NamedTuple):
    """One request, ready to be written."""

    id: str  # its x-request-id
    payload: bytes  # the whole HTTP request
    prompt_tokens: int  # as intended; 0 for a text of unknown length
    output_tokens: int  # asked for at most; 0 when none are generated
    number: int
    turn: int = 0  # of a conversation
    pause_s: float = 0.0  # think time before it is sent
    streamed: bool = True  # False: answered by one JSON document


class _Draw(IntEnum):
    """What random numbers of a request are for; a turn takes the next sixteen."""

    PROMPT = 1000
    OUTPUT = 1001
    GROUP = 1002
    TURNS = 1003
    PLACE = 1004  # of a batch: one for all its requests
    QUERY = 1005


class Requests:
    """The requests of one batch, by random access: the same number is the same request in every process.

    Equal seeds give equal requests but for the ids, which carry the batch's `name`: engines refuse an id
    that an aborted request of an earlier batch still has. Prompts are distinct as `Prompts` says, but for
    what the workload shares: prefixes of groups, blocks of rows, texts of a dataset. Texts are taken in
    their order from a place that the seed says, so that short batches send different ones. When rows start
    again from the first, blocks are made anew, so that a replayed trace does not meet its own cache.

    A prompt goes as token ids where the target takes them and no text of others is part of it. As
    text it is so many common words, less what the server's template adds. A prompt that is no longer than
    its group's prefix keeps one token of its own. In a conversation every turn's message is as long
    as `prompt_tokens` says, and its prompt is that much longer than the last one and its answer.

    Of a rerank request `prompt_tokens` are the query and one document, which is what a model reads at once,
    or the document alone when the workload has `query_tokens`; of a row, the text is the query and the
    turns are the documents.

    Decoding is greedy (temperature 0), so that runs repeat and the sampler's settings are not part of
    what is compared. Building a made-up request costs one copy of memory, whatever its length.
    """

    def __init__(self, target: Target, workload: Workload, *, name: str = "") -> None:
        self.name = name or secrets.token_hex(4)
        self._target = target
        self._workload = workload
        self._generates = target.api in ("completions", "chat")
        self.conversational = self._generates and _has_turns(workload)  # follow needs the texts of answers
        self._as_ids = target.token_ids and target.api in ("completions", "embeddings") and not self.conversational
        self._prompts = Prompts(workload.seed, as_ids=self._as_ids)
        self._order = array("Q", range(len(workload.rows)))
        self._start = 0
        if not workload.times_s and any(row.text is not None or row.turns for row in workload.rows):
            self._start = int(quantile_of(workload.seed, 0, _Draw.PLACE) * len(workload.rows))
        if workload.shuffle:
            random.Random(workload.seed).shuffle(self._order)  # noqa: S311 -- an order is no secret
        self._head = head_of(target, streamed=self._generates)
        fixed = {"model": target.model, **(_STREAM if self._generates else {})}
        if self._generates and target.ignore_eos:
            fixed["ignore_eos"] = True
        self._fixed = json.dumps(fixed)[1:-1].encode() + b", " + _CONTENT[target.api]
        self._after = b"]}" if target.api == "chat" else b"}"

    def build(self, number: int) -> Request:
        """Return the first turn of the number-th request."""
        row, cycle = self._row(number)
        if self._target.api == "rerank":
            content, prompt_tokens = self._ranking(number, row)
        else:
            content, prompt_tokens = self._message(number, 0, row, cycle)
        return self._request(number, 0, content, prompt_tokens, self._output_tokens(number, 0, row))

    def follow(self, request: Request, reply: str) -> Request | None:
        """Return the next turn after the answer to a request; None after the last one.

        It carries the whole conversation so far: as messages, or as one text.
        """
        number, turn = request.number, request.turn + 1
        row, cycle = self._row(number)
        if not self.conversational or turn >= self._turns(number, row):
            return None
        start = request.payload.index(b"\r\n\r\n") + 4 + len(self._before(request.output_tokens))
        history = memoryview(request.payload)[start : -len(self._after)]
        message, added = self._message(number, turn, row, cycle)
        if self._target.api == "chat":
            said: Pieces = [history, b', {"role": "assistant", "content": ', _quoted(reply), b"}, ", *message]
        else:  # all texts in one pair of quotes
            said = [history[:-1], _quoted(reply)[1:-1], b"\\n" if row.turns else b" ", *message[1:]]
        known = request.prompt_tokens > 0 and added > 0
        prompt_tokens = request.prompt_tokens + request.output_tokens + added if known else 0
        return self._request(number, turn, said, prompt_tokens, self._output_tokens(number, turn, row))

    def _request(self, number: int, turn: int, content: Pieces, prompt_tokens: int, output_tokens: int) -> Request:
        identity = f"autotune-{self.name}-{number}-{turn}" if turn else f"autotune-{self.name}-{number}"
        if self._target.uuids:
            identity = str(uuid.uuid5(uuid.NAMESPACE_OID, identity))
        body = [self._before(output_tokens), *content, self._after]
        fields = f"x-request-id: {identity}\r\ncontent-length: {sum(map(len, body))}\r\n\r\n".encode()
        payload = b"".join((self._head, fields, *body))
        pause_s = self._workload.think_s if turn else 0.0
        return Request(identity, payload, prompt_tokens, output_tokens, number, turn, pause_s, self._generates)

    def _before(self, output_tokens: int) -> bytes:
        """Return the JSON body before the content."""
        if not self._generates:
            return b"{" + self._fixed
        if self._target.ignore_eos:
            return b'{"max_tokens": %d, "min_tokens": %d, ' % (output_tokens, output_tokens) + self._fixed
        return b'{"max_tokens": %d, ' % output_tokens + self._fixed

    def _message(self, number: int, turn: int, row: Row, cycle: int) -> tuple[Pieces, int]:
        """Return what the user says in a turn, as JSON, and its length in tokens if known, else 0."""
        text = row.turns[turn] if row.turns else row.text
        content: Pieces
        if text is not None:
            content, tokens = [b'"', _quoted(text)[1:-1], b'"'], row.prompt_tokens or 0 if turn == 0 else 0
        else:
            once = turn > 0 and self._target.api == "completions"  # a text's start is marked once
            template = 0 if once else self._target.template_tokens
            tokens = max(self._prompt_tokens(number, turn, row), template + 1)
            opening, closing = (b"[", b"]") if self._as_ids else (b'"', b'"')
            made_up = self._made_up(number, turn, tokens - template, row, cycle)
            content = [opening, *trimmed(made_up), closing]
        if self._target.api == "chat":
            content = [b'{"role": "user", "content": ', *content, b"}"]
        return content, tokens

    def _made_up(self, number: int, turn: int, tokens: int, row: Row, cycle: int) -> Pieces:
        """Return a prompt of so many tokens: what it shares with others, then its own."""
        pieces: Pieces = []
        own = tokens
        if row.blocks:
            for block in row.blocks:
                size = min(own, self._workload.block_tokens)
                pieces += self._prompts.piece(Kind.BLOCK, block + cycle * _TURN, size)
                own -= size
        elif turn == 0 and self._workload.prefix_tokens:
            group = int(self._quantile(number, 0, _Draw.GROUP) * self._workload.prefix_groups)
            shared = min(self._workload.prefix_tokens, tokens - 1)
            pieces += self._prompts.piece(Kind.PREFIX, group, shared)
            own -= shared
        return pieces + self._prompts.piece(Kind.OWN, number + turn * _TURN, own)

    def _ranking(self, number: int, row: Row) -> tuple[Pieces, int]:
        """Return query and documents of a rerank request, and the length of all its pairs."""
        tokens, asked_for = self._prompt_tokens(number, 0, row), self._workload.query_tokens
        if asked_for is None:
            tokens = max(tokens, self._target.template_tokens + 2)
            query = min(QUERY_TOKENS, max(1, (tokens - self._target.template_tokens) // 4))
        else:
            query = asked_for.at(self._quantile(number, 0, _Draw.QUERY))
            tokens += query + self._target.template_tokens
        pair = tokens - self._target.template_tokens
        documents = self._workload.documents
        texts: list[Pieces] = [[_quoted(text)[1:-1]] for text in row.turns] or [
            trimmed(self._prompts.piece(Kind.DOCUMENT, number * documents + place, pair - query))
            for place in range(documents)
        ]
        asked: Pieces = trimmed(self._prompts.piece(Kind.OWN, number, query))
        content: Pieces = [b'"query": "', *([_quoted(row.text)[1:-1]] if row.text is not None else asked)]
        content.append(b'", "documents": [')
        for place, text in enumerate(texts):
            content += [b', "' if place else b'"', *text, b'"']
        content.append(b"]")
        return content, 0 if row.turns or row.text is not None else tokens * len(texts)

    def _row(self, number: int) -> tuple[Row, int]:
        """Return the row of a request, and how often all rows were taken before."""
        if not self._order:
            return _MADE_UP, 0
        cycle, place = divmod(self._start + number, len(self._order))
        return self._workload.rows[self._order[place]], cycle

    def _turns(self, number: int, row: Row) -> int:
        if self._workload.rows:
            return len(row.turns)
        return self._workload.turns.at(self._quantile(number, 0, _Draw.TURNS))

    def _prompt_tokens(self, number: int, turn: int, row: Row) -> int:
        if row.prompt_tokens is not None:
            return row.prompt_tokens
        if row.blocks:
            return len(row.blocks) * self._workload.block_tokens
        return self._workload.prompt_tokens.at(self._quantile(number, turn, _Draw.PROMPT))

    def _output_tokens(self, number: int, turn: int, row: Row) -> int:
        if not self._generates:
            return 0
        if row.output_tokens is not None:
            return row.output_tokens
        return self._workload.output_tokens.at(self._quantile(number, turn, _Draw.OUTPUT))

    def _quantile(self, number: int, turn: int, draw: _Draw) -> float:
        return quantile_of(self._workload.seed, number, draw + 16 * turn)


def _has_turns(workload: Workload) -> bool:
    if workload.rows:
        return any(len(row.turns) > 1 for row in workload.rows)
    return workload.turns.at(1 - 2.0**-53) > 1


def _quoted(text: str) -> bytes:
    """Return a text as JSON in UTF-8; halves of surrogate pairs, which UTF-8 cannot hold, become question marks."""
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")
