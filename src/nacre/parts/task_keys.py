"""A key for each task: the newest one is trained, the earlier ones are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from nacre.adapters.site import put_beside, take_from_beside
from nacre.models.fit import Form, check_fit, count_of
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup, stop_training


@final
class TaskKeys:
    """The keys v_i, an `Owner` of the group `keys`.

    Attributes:
        host: Whose model holds the newest one, beside what it calls.
        rate: The keys' learning rate, in multiples of the task's.
        past: Earlier tasks' keys, [t - 1, d] in float32; None before the first task.
        newest: The newest one [d].
    """

    def __init__(self, host: Host, rate: float = 1.0) -> None:
        """Begin without keys.

        Args:
            host: Whose model holds them.
            rate: Their learning rate, in multiples of the task's.
        """
        self.host = host
        self.rate = rate
        self.past: Tensor | None = None
        self.newest: nn.Parameter | None = None

    def open(self, start: Tensor) -> None:
        """Freeze the newest key and train another, which begins as `start` [d]."""
        self._hold(
            torch.cat([self.keys(), start.to(self.host.device)[None]]) if self.newest is not None else start[None]
        )
        assert self.newest is not None
        self.newest.requires_grad_(True)

    def keys(self) -> Tensor:
        """All keys, oldest first [t, d]; gradients reach the newest."""
        assert self.past is not None
        assert self.newest is not None
        return torch.cat([self.past, self.newest.unsqueeze(0)])

    def parameter_groups(self) -> list[ParameterGroup]:
        """See `Owner`."""
        return [] if self.newest is None else [ParameterGroup("keys", (self.newest,), self.rate)]

    def tensors(self) -> dict[str, Tensor]:
        """See `Owner`."""
        return {} if self.newest is None else {"keys": self.keys().detach()}

    def values(self) -> dict[str, Any]:
        """See `Owner`."""
        return {} if self.newest is None else {"keys": len(self.keys()), "width": len(self.newest)}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """See `Owner`."""
        keys, width = count_of("routing", values, "keys"), count_of("routing", values, "width")
        check_fit("routing", tensors, {"keys": Form((keys, width), torch.float32)} if keys else {})
        if keys:
            self._hold(tensors["keys"])
        else:
            self.remove()

    def freeze(self) -> None:
        """See `Owner`."""
        stop_training(self.parameter_groups())

    def remove(self) -> None:
        """See `Owner`."""
        take_from_beside(self.host.model)
        self.past, self.newest = None, None

    def _hold(self, keys: Tensor) -> None:
        keys = keys.detach().to(self.host.device, torch.float32)
        self.past, self.newest = keys[:-1].clone(), nn.Parameter(keys[-1].clone(), requires_grad=False)
        put_beside(self.host.model, nn.ParameterList([self.newest]))
