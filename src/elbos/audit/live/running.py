r"""Audit of a training script that runs unchanged, as `coverage run` runs a program.

The script's network is the outermost module that is called, with gradients on, on data plus
recorded noise: it is looked for where a module is entered, so that neither a wrapper that is given
clean data nor a layer inside of the network is mistaken for it. The clean data are the argument of
`torch.randn_like`, or else the earliest operand in the shape of a normal draw that explains the
network's input. When enough samples are recorded, an exception that scripts do not catch ends them.
"""

import math
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elbos.audit.calls.arguments import tensors
from elbos.audit.live.components import components
from elbos.audit.live.record import LiveRecorder, Recording
from elbos.audit.live.steps import MIN_SAMPLES
from elbos.audit.result import Audit
from elbos.base import files
from elbos.base.progress import LOGGER
from elbos.base.user_code import described

_NUM_QUIET = 20  # backward passes after which a script that records nothing is told so
_MAX_OPERANDS = 6  # per shape of a normal draw, in the order of their use
_NORMAL = (torch.randn, torch.normal, Tensor.normal_)  # torch.randn_like names its data


class _Enough(BaseException):
    """Raised inside of the script when enough samples are recorded."""


def run_script(
    script: Path,
    flags: list[str],
    *,
    num_samples: int,
    num_steps: int | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Audit:
    """Run a script until enough samples or steps of its loss are recorded, and audit them.

    Raises:
        OSError: If the file cannot be read.
        ValueError: In one line, if too few samples were recorded, because the script ended, failed
            or was interrupted, or its loss is no squared error in normal noise.
    """
    files.read(script)  # raises an error that says why it cannot be read
    recording = _ScriptRecording(num_samples, num_steps, advance)
    sys.argv = [str(script), *flags]
    sys.path.insert(0, str(script.resolve().parent))
    safe_path = os.environ.pop("PYTHONSAFEPATH", None)  # the script may start processes of its own
    try:
        with recording.observing():
            runpy.run_path(str(script), run_name="__main__")
    except (_Enough, KeyboardInterrupt):
        pass
    except SystemExit as stop:
        if stop.code and recording.num_samples < MIN_SAMPLES:
            raise  # the script has said why, as argparse does
    except Exception as error:
        failure = f"{script} failed: {described(error, script)}"
        if recording.num_samples < MIN_SAMPLES:
            raise ValueError(failure) from error
        LOGGER.warning("%s", failure)
    finally:
        if safe_path is not None:
            os.environ["PYTHONSAFEPATH"] = safe_path
    return recording.audit(title=script.name)


class _ScriptRecording(Recording):
    def __init__(
        self, num_samples: int, num_steps: int | None, advance: Callable[[int], object]
    ) -> None:
        super().__init__()
        self.reason = "no module was called with gradients on data plus a normal draw"
        self._recorder: _ScriptRecorder = _ScriptRecorder(self._test)
        self._max_samples, self._advance = num_samples, advance
        self._max_steps = num_steps or math.inf
        self._num_shown = 0
        self._is_inside = False

    def _test(self, loss: Tensor) -> None:
        super()._test(loss)
        if self._num_backward == _NUM_QUIET and not self.num_samples:
            LOGGER.warning(
                "%s",
                f"Nothing was recorded in {_NUM_QUIET} backward passes: {self.reason}. The script "
                "goes on; Ctrl-C ends it. Where data or noise are changed before the network, or "
                "it is a layer of Keras, write the loss as a function for elbos audit.",
            )

    @contextmanager
    def observing(self) -> Iterator[None]:
        call = nn.Module.__call__

        def observed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or self._is_inside or not torch.is_grad_enabled():
                return call(module, *args, **kwargs)
            num = self.num_samples
            if num > self._num_shown:
                self._advance(num - self._num_shown)
                self._num_shown = num
            if num >= self._max_samples or len(self._steps) >= self._max_steps:
                raise _Enough
            if not self._is_network(module, args, kwargs):
                return call(module, *args, **kwargs)
            self._is_inside = True
            try:
                output = call(module, *args, **kwargs)
            finally:
                self._is_inside = False
            self._called(module, args, kwargs, output)
            return output

        nn.Module.__call__ = observed  # type: ignore[method-assign]
        try:
            with self._recorder.recording():
                yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]

    def _is_network(self, module: nn.Module, args: Any, kwargs: Any) -> bool:
        if self._network is not None and module is not self._network:
            return False
        recorder = self._recorder
        with torch._C.DisableTorchFunction():
            inputs, normals = list(tensors([args, kwargs])), recorder.draws.normals
            operands = [[x] for xs in recorder.operands.values() for x in xs]
            for data in [list(recorder.likes), *operands] if normals else []:
                explained = components(inputs, data, normals)
                if explained is not None:
                    self.data(explained.x)
                    return True
        if self._network is not None:
            recorder.forget()
            self._skip("the network's input is not the data, scaled, plus a normal draw")
        return False


class _ScriptRecorder(LiveRecorder):
    """Recorder of operands in the shape of a normal draw, one of which may be the data; draws into
    parameters are initial weights, and ignored.
    """

    def __init__(self, before_backward: Callable[[Tensor], None]) -> None:
        super().__init__(before_backward)
        self.operands: dict[torch.Size, list[Tensor]] = {}

    def forget(self) -> None:
        self.operands = {}
        super().forget()

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and isinstance(args[0], nn.Parameter):
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            for x in args if self.operands else ():
                if isinstance(x, Tensor) and x.is_floating_point() and not x.requires_grad:
                    same = self.operands.get(x.shape)
                    if same is not None and len(same) < _MAX_OPERANDS:
                        same.append(x.detach().clone())
        result = super().__torch_function__(func, types, args, kwargs)
        if func in _NORMAL and result.ndim > 1:
            self.operands[result.shape] = []  # those of an earlier draw are of an earlier step
        return result
