"""Several processes that work together, as torchrun starts them, but forked: torch is there."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # once for all of them
import torch.distributed as dist

HANGING = 1_800  # seconds: no load makes a test that long


def in_processes(num: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in each of `num` processes; all have to end well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_work, args=(rank, num, port, function, arguments))
        for rank in range(num)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANGING)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * num


def _work(
    rank: int, num: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    # torch makes a forked pool of threads again at its first use, which two threads at once break
    torch.set_num_threads(torch.get_num_threads())
    try:
        function(*arguments)
        if dist.is_initialized():
            dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
