"""What is asked: seeded random words that no cache has seen; knows no server, model or clock."""

from __future__ import annotations

import random
from collections.abc import Iterator

from portable.bench.options import BenchOptions

Message = dict[str, str]

SHORT, LONG, SYSTEM, SHARED_USER, RESTART = 20, 450, 500, 10, 990

_TEXT = """
the of and to in is that for it as was with be by on not he his but at are this have from or had
they which one you were all her she there would their we him been has when who will no more if out
so up said what about than into them can only other time new some could these two may first then
do any like my now over such our man me even most made after also did many off before must well
back through years where much your way down should because long each just state those people too
how little good world make very year still see own work men day get here old life both between
being under never know same last another while us might great go come since against right came
take used himself few house use place during high without again home around small however found
"""
_WORDS = _TEXT.split()

# Random words alone make some models stop after one line.
_TASK = "Write a long story with these words:"


class Workload:
    """The conversations of one run. Same options: same words.

    `run` is drawn anew each time. It starts every prompt, because a server that has read a text
    before answers from its cache. Within a level of `shared` and of `restart` the system prompt is
    the same for all; the next level has another.
    """

    def __init__(self, options: BenchOptions, run: int) -> None:
        self._options = options
        self._run = run % 1_000_000

    def warm_up(self) -> list[Message]:
        return [self._user(0, 0, SHORT)]

    def level(self, number: int, clients: int) -> Iterator[list[Message]]:
        """The requests of a level; `number` counts levels from 1."""
        for index in range(self._options.requests_at(clients)):
            yield self._messages(number, index)

    def _messages(self, level: int, index: int) -> list[Message]:
        kind = self._options.prompt
        if kind in ("shared", "restart"):
            return [self._system(level), self._user(level, index, SHARED_USER)]
        long = kind == "long" or (kind == "mixed" and index % 2 == 1)
        return [self._user(level, index, LONG if long else SHORT)]

    def _system(self, level: int) -> Message:
        count = SYSTEM if self._options.prompt == "shared" else RESTART
        words = self._words(f"{level}-system", count)
        return {"role": "system", "content": f"{self._run:06}{level:02}: {words}"}

    def _user(self, level: int, index: int, count: int) -> Message:
        # Always as many digits: the prompt's number of tokens does not move with them.
        number = f"{self._run:06}{level:02}{index:06}"
        text = f"{number}. {_TASK} {self._words(f'{level}-{index}', count)}"
        return {"role": "user", "content": text}

    def _words(self, which: str, count: int) -> str:
        rng = random.Random(f"{self._options.seed}-{which}")
        return " ".join(rng.choices(_WORDS, k=count))
