"""The processes of a run, which `torchrun` starts: what they share, and how they end together."""

from __future__ import annotations

import os
import socket
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from recycleseg.limits import cores
from recycleseg.rows import Rows
from recycleseg.watchdog import Watchdog

Made = TypeVar("Made")

# One process may prepare data for days while the others wait; a watchdog sees who is dead.
_PATIENCE = timedelta(days=30)
# How long the processes of all machines have to start.
MEETING = timedelta(minutes=10)
# A restarted run finds here whether the one before has opened its folder.
_OPENED = "opened"


class LostProcess(ValueError):
    """Another process of the run has ended, so that nothing can be shared with it."""


class ToldElsewhere(Exception):
    """This process ends by its cause, after another one that has told the reason."""


class Processes:
    """All processes of a run, as one of them sees them; alone if nothing else is said.

    A method that gives or waits for something of all must be called by all in the same order.

    Args:
        rank: number of this process.
        size: how many there are.
        local_rank: number of this process on its machine.
        local_size: how many there are on this machine.
        watchdog: notices when another process is dead.
        store: what all processes see, also after a restart.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        local_size: int = 1,
        watchdog: Watchdog | None = None,
        store: dist.Store | None = None,
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self._watchdog, self._store = watchdog, store

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def rows(self, batch_size: int) -> Rows:
        """The rows of a batch that this process has.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        if batch_size < self.size:
            raise ValueError(
                f"optim.batch_size: expected at least {self.size}, one row for each process, got "
                f"{batch_size}"
            )
        return Rows.of_process(self.rank, self.size, batch_size)

    def check_device(self, device: torch.device) -> None:
        """Check that no two processes use the same GPU, as NCCL wants.

        Raises:
            ValueError: two do.
        """
        if not self.several:
            return
        uuid = ""
        if device.type == "cuda":
            uuid = str(torch.cuda.get_device_properties(device).uuid)
        users = Counter(self.gather((socket.gethostname(), uuid)))
        if uuid and users[socket.gethostname(), uuid] > 1:
            raise ValueError(
                "runtime.device: expected auto and a GPU for each process, got "
                f"{torch.cuda.device_count()} GPUs for {self.local_size} processes of "
                f"{socket.gethostname()}, of which several have {device}"
            )

    def sum_in_place(self, x: Tensor) -> None:
        """Replace x by the sum over all processes; the host does not wait for a GPU."""
        if self.several:
            with self._together():
                dist.all_reduce(x)

    def start_sum(self, x: Tensor) -> Callable[[], None]:
        """Begin `sum_in_place`; the result is there once the returned function was called."""
        if not self.several:
            return lambda: None
        with self._together():
            work = dist.all_reduce(x, async_op=True)

        def wait() -> None:
            with self._together():
                work.wait()

        return wait

    def of_batch(self, x: Tensor, rows: Rows) -> Tensor:
        """The values (B,) of the whole batch from those of each process's rows."""
        if not self.several:
            return x
        values = x.new_zeros(rows.batch)
        values[rows.slice] = x
        self.sum_in_place(values)
        return values

    def largest(self, value: int) -> int:
        """The largest value of any process."""
        if not self.several:
            return value
        values = torch.tensor(value)
        with self._together():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return bool(self.largest(flag))

    def meet(self) -> None:
        """Wait until all are here."""
        self.largest(0)

    def share(self, make: Callable[[], Made]) -> Made:
        """What the main process makes, for all."""
        made = [make() if self.is_main else None]
        if self.several:
            with self._together():
                dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def gather(self, own: Made) -> list[Made]:
        """What every process has, in the order of their ranks."""
        if not self.several:
            return [own]
        gathered: list[Made | None] = [None] * self.size
        with self._together():
            dist.all_gather_object(gathered, own)
        return gathered  # type: ignore[return-value]

    def in_turns(self, make: Callable[[], Made]) -> Made:
        """Call a function that fills a cache: first in one process, then once on each machine."""
        if not self.several:
            return make()
        own_turn = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        for turn in range(3):
            if turn == own_turn:
                made = make()
            self.meet()
        return made

    def share_of(self, items: Sequence[Made]) -> Sequence[Made]:
        """The items that are this process's work."""
        return items[self.rank :: self.size]

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the tensors of the main one, in place."""
        if self.several:
            with self._together():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def step(self) -> AbstractContextManager[None]:
        """The block is a step of the training; see `Watchdog.step`."""
        return nullcontext() if self._watchdog is None else self._watchdog.step()

    def note_opened(self) -> None:
        """Note that the run has begun, for those that start after a fault."""
        if self._store is not None:
            self._store.set(_OPENED, "")

    @property
    def goes_on(self) -> bool:
        """Whether these processes were started again after a fault in a run that had begun."""
        return self._store is not None and self._store.check([_OPENED])

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Wait for the others, however long they take."""
        try:
            if self._watchdog is None:
                yield
            else:
                with self._watchdog.waiting():
                    yield
        except RuntimeError as error:  # of gloo and NCCL, if a connection ends
            raise LostProcess(
                "another process of this run has ended without a word; was it killed, or is its "
                "machine down? The checkpoints are kept: go on with --resume"
            ) from error


ALONE = Processes()


@contextmanager
def joined(command: str) -> Iterator[Processes]:
    """Join the other processes that torchrun, or whoever sets its variables, has started.

    An error in one process ends all of them, and only the first that fails tells its error.

    Args:
        command: name of the command, for messages.

    Raises:
        ValueError: a variable is missing or wrong, or the others do not come.
        ToldElsewhere: in a process that fails after another one.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield ALONE
        return
    rank = _number("RANK")
    local_rank, local_size = _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size)
    address, port = _text("MASTER_ADDR"), _number("MASTER_PORT")
    has_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    # Neither another command of the same torchrun nor a process from before a restart is met.
    this = f"recycleseg/{zlib.crc32(repr(sys.argv).encode()):08x}"
    attempt = f"{this}/{_number('TORCHELASTIC_RESTART_COUNT', 0)}"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        # Of two connections, because one blocks while it waits for a key.
        store, meeting = (
            dist.TCPStore(
                address, port, is_master=is_master, timeout=MEETING, wait_for_workers=False
            )
            for is_master in (has_store, False)
        )
        group_store = dist.PrefixStore(f"{attempt}/group", meeting)
        dist.init_process_group(
            backend, store=group_store, rank=rank, world_size=size, timeout=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"MASTER_ADDR, MASTER_PORT: expected {size} processes that meet at {address}:{port}, "
            f"got: {' '.join(str(error).split())[:200]}"
        ) from error
    seen_by_all = dist.PrefixStore(attempt, store)
    watchdog = Watchdog(seen_by_all, rank, size, command, has_store=has_store)
    own_store = dist.PrefixStore(this, store)
    processes = Processes(rank, size, local_rank, local_size, watchdog, own_store)
    try:
        with watchdog:
            _share_cores(processes)
            yield processes
            processes.meet()  # nobody leaves while others need the store
        dist.destroy_process_group()
    except SystemExit:  # of --help
        raise
    except BaseException as error:
        is_first = watchdog.is_first_to_end()
        if backend == "gloo":  # NCCL would wait for the work of those that have ended
            dist.destroy_process_group()
        if not is_first:
            raise ToldElsewhere from error
        raise


def _share_cores(processes: Processes) -> None:
    """Threads for this process, where others use the same cores and the user has said nothing."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    mine = (socket.gethostname(), affinity)
    sharing = processes.gather(mine).count(mine)
    # torchrun sets 1, which is right only if there are as many processes as cores.
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, cores() // sharing))


def _text(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ValueError(
            f"{name}: expected in the environment, because WORLD_SIZE is "
            f"{os.environ['WORLD_SIZE']}; torchrun sets it"
        )
    return value


def _number(name: str, default: int | None = None) -> int:
    value = os.environ.get(name, "") if default is not None else _text(name)
    if not value and default is not None:
        return default
    if not value.isdecimal():
        raise ValueError(f"{name}: expected a whole number in the environment, got {value!r}")
    return int(value)
