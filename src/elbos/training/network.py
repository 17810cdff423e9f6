"""User-defined networks, passed in Python or built by a function in the user's file.

A run directory holds the weights of the network and its name, but no code, and nothing that is read
from a directory runs code: whoever loads the run gives the network again.
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from elbos.base.errors import flat
from elbos.base.formats import pack
from elbos.base.user_code import as_script, code_path, load_function, naming_line


@dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """Reference to a user-defined network in a configuration.

    The name is FILE.py:FUNCTION, or the class of a network given in Python. A function runs only if
    it `is_trusted`: the user named it in this process.
    """

    name: str
    is_trusted: bool = field(default=False, init=False, compare=False, repr=False)

    @classmethod
    def from_file(cls, function: str) -> "OwnNetwork":
        """Return a reference to the network in a user's Python file, which may be run."""
        network = cls(name=function)
        object.__setattr__(network, "is_trusted", True)
        return network

    def build(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        if not self.is_trusted:
            raise ValueError(
                f"The network {self.name} is user-defined and not stored: give it as network= in "
                "Python, or as --network.function FILE.py:FUNCTION."
            )
        with as_script(self.name):
            function = load_function(self.name, ("shape", "num_classes"), verb="train")
            with naming_line(self.name, code_path(self.name).resolve()):
                network = function(shape, num_classes)
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"{self.name} returns a {type(network).__name__}: return a torch.nn.Module."
            )
        require_storable_state(network)
        return network


def require_storable_state(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"{name} is {parameter.dtype}, too coarse for small steps: give float32 weights; "
                "precision='bf16' computes with them in bfloat16."
            )
    try:
        pack(network.state_dict())
        copy.deepcopy(network).requires_grad_(False).cpu()  # averages do so; TorchScript fails
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"The weights of {type(network).__name__} cannot be stored ({flat(error)[:200]}): its "
            "state_dict may hold only real or complex64 tensors that share no memory."
        ) from error
