"""Several processes that share every step of one training, each with its own device: data-parallel training.

A member computes its share of a step's rows; the gradients are added up, so all members move the same weights alike.
Which rows are whose changes speed, never the result (but for the order in which numbers are added).

A training with `processes` above 1 starts its own members: the engine that the supervisor started is the first, and a
request to stop reaches the others through it, at the same step. Under `torchrun` the members are there already, and on
a Ray cluster their process group too.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from finetune_site.lib.channel import EXIT_CANCELLED, EXIT_DONE, EXIT_INPUT, InputError, write_json

PATIENCE = timedelta(minutes=30)  # the first member may write answers while the others wait
SENTENCE_SECONDS = 30


@dataclass(frozen=True)
class Team:
    """The members of a training; alone, every method gives back what it was given.

    `local_rank` and `local_size` count those on this machine, who share its devices and cores.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """True for the member that writes files and tells events."""
        return self.rank == 0

    def share(self, members: list[Any]) -> list[Any]:
        """This member's part of a list that all members have in the same order."""
        return members[self.rank :: self.size]

    def agree(self, first: bool) -> bool:
        """What the first member says, on all members."""
        if self.size == 1:
            return first
        said = torch.tensor([float(first)])
        distributed.broadcast(said, 0)
        return bool(said.item())

    def wait(self) -> None:
        """Until every member has come here."""
        self.add(torch.zeros(1))

    def add(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over all members, on each of them."""
        if self.size > 1:
            distributed.all_reduce(numbers)
        return numbers

    def gather(self, thing: Any) -> list[Any]:
        """Every member's thing, on each of them."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, thing)
        return found

    def once(self, path: Path, make: Callable[[], Any]) -> Any:
        """What the JSON file holds; where it is missing all members make it and the first writes it."""
        if not self.agree(path.exists()):
            made = make()
            if self.is_first:
                write_json(path, made)
            self.wait()
        return json.loads(path.read_text(encoding="utf-8"))

    def add_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every gradient by the sum over all members; one message for all of them."""
        if self.size == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        whole = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(whole)
        for parameter, part in zip(parameters, whole.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


ALONE = Team()


@contextlib.contextmanager
def assembled(processes: int, spec_path: str) -> Iterator[Team]:
    """The team of this process while the context lasts. `spec_path` is what further members are started on."""
    if "WORLD_SIZE" in os.environ:  # a member that the first one, torchrun or Ray Train started
        with _joined() as team:
            yield team
        return
    if processes == 1:
        yield Team()
        return
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise InputError(f"processes is {processes}, but this machine has {torch.cuda.device_count()} devices.")
    place = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "GLOO_SOCKET_IFNAME": "lo",  # else it asks for the host's name, which need not be known
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    others = [_start_member(rank, place, spec_path) for rank in range(1, processes)]
    threading.Thread(target=_watch, args=(others,), daemon=True, name="members").start()
    os.environ.update(place | {"RANK": "0", "LOCAL_RANK": "0"})
    try:
        with _joined() as team:
            yield team
    finally:
        for other in others:
            if other.stdin:
                other.stdin.close()


@contextlib.contextmanager
def _joined() -> Iterator[Team]:
    """The process group that the environment describes; one that is there already is left as it is."""
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    team = Team(rank, size, local_rank, local_size)
    if distributed.is_initialized():
        yield team
        return
    distributed.init_process_group(backend(torch.cuda.is_available()), rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield team
    finally:
        distributed.destroy_process_group()


def backend(has_cuda: bool) -> str:
    """How members talk: what they agree on lies in main memory, gradients may lie on CUDA devices."""
    return "cpu:gloo,cuda:nccl" if has_cuda else "gloo"


def _start_member(rank: int, place: dict[str, str], spec_path: str) -> "subprocess.Popen[bytes]":
    """Its standard input ends when we do: no member outlives the first."""
    return subprocess.Popen(
        [sys.executable, "-m", "training_app.engine", spec_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
    )


def _watch(others: "list[subprocess.Popen[bytes]]") -> None:
    """A member that dies would leave the rest waiting for it: end at once, and the site starts the run again."""
    for other in others:
        threading.Thread(target=_end_with, args=(other,), daemon=True).start()


def _end_with(other: "subprocess.Popen[bytes]") -> None:
    code = other.wait()
    if code == EXIT_INPUT:
        time.sleep(SENTENCE_SECONDS)  # what it refuses we refuse too, and we say why
    if code not in (EXIT_DONE, EXIT_CANCELLED):
        print(f"a member of the team ended with code {code}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_further_member() -> bool:
    """True in a process that was started to help: it writes no file and tells no event."""
    return os.environ.get("RANK", "0") != "0"
