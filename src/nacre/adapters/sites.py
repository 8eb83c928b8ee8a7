"""Adapters that live at sites: placing, growing, saving and removing, whatever a site computes."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, final

from torch import Tensor, nn

from nacre.adapters.adapter import FeatureMap, PlacedAdapter
from nacre.adapters.site import Site, pristine_tensors, put_back, put_sites, take_away
from nacre.adapters.slots_on_disk import ALL_AT_ONCE, SlotsOfSite, SlotsOnDisk
from nacre.errors import ModelError
from nacre.functional.segments import Segments
from nacre.models.fit import check_fit, check_forms, count_of
from nacre.models.owner import ParameterGroup
from nacre.models.roles import roles_of
from nacre.seeds import derive

S = TypeVar("S", bound=Site)


class PlacedSites(PlacedAdapter, ABC, Generic[S]):
    """All sites of an adapter in one host.

    Attributes:
        sites: The sites by the names of the linear maps that they replace.
        rates: Learning rates of parameter groups, in multiples of the task's, where they are not 1.
    """

    def __init__(
        self,
        model: nn.Module,
        linears: Mapping[str, nn.Module],
        wrap: Callable[[nn.Module], S],
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """Put the sites into the host.

        Args:
            model: The host.
            linears: Its linear maps that get a site, by name.
            wrap: Makes a site of a linear map.
            rates: Learning rates of parameter groups, in multiples of the task's, where they are not 1.
        """
        super().__init__(model)
        self.rates = dict(rates or {})
        self.sites: dict[str, S] = put_sites(model, linears, wrap)

    @final
    def grow(self) -> bool:
        self.tasks += 1
        opened = [site.grow() for site in self.sites.values()]  # each of them, whatever the others say
        return all(opened)

    @final
    def fresh(self, seed: int) -> None:
        for name, site in self.sites.items():
            site.fresh(derive(seed, name))

    @final
    def parameter_groups(self) -> list[ParameterGroup]:
        if self.tasks == 0:
            return []
        by_site = [site.parameters_by_group() for site in self.sites.values()]
        return [
            ParameterGroup(group, tuple(parameters[group] for parameters in by_site), self.rates.get(group, 1.0))
            for group in by_site[0]
        ]

    @final
    def feature_maps(self) -> list[FeatureMap]:
        if self.tasks == 0:
            return []
        by_site = [site.feature_maps(name, roles_of(self.model, name)) for name, site in self.sites.items()]
        return [feature_map for maps in by_site for feature_map in maps]

    @final
    def tensors(self) -> dict[str, Tensor]:
        if self.tasks == 0:
            return {}
        return {
            f"{name}.{kind}": tensor
            for name, site in self.sites.items()
            for kind, tensor in site.public_tensors().items()
        }

    @final
    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.load_beside(tensors, values, None)

    @final
    def load_beside(
        self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], on_disk: SlotsOnDisk | None
    ) -> None:
        """The same where earlier tasks' stacks are not among the tensors, but stay on disk.

        Args:
            tensors: The others, by public name.
            values: Those that say what the tensors are.
            on_disk: The stacks; None: there are none.

        Raises:
            CheckpointError: They do not fit this host and adapter.
        """
        tasks = count_of("adapter", values, "slots")
        by_site = {name: site.forms(tasks) for name, site in self.sites.items()} if tasks else {}
        forms = {f"{name}.{kind}": form for name, own in by_site.items() for kind, form in own.items()}
        left = {} if on_disk is None else on_disk.forms
        check_fit("adapter", tensors, {name: form for name, form in forms.items() if name not in left})
        check_forms("adapter", left, {name: forms.get(name) for name in left})
        self.tasks, self.on_disk = tasks, on_disk
        if self.tasks == 0:
            for site in self.sites.values():
                site.close()
            return
        for name, site in self.sites.items():
            own = {kind: tensors.get(f"{name}.{kind}", form.empty) for kind, form in by_site[name].items()}
            site.load_public(own)
            if on_disk is not None:
                site.leave_on_disk(SlotsOfSite(on_disk, name, tasks - 1))
        self.freeze()

    @final
    @contextmanager
    def brought(self, rows: Segments | Tensor | None) -> Iterator[None]:
        """While open, the slots that answer are in memory.

        Args:
            rows: How rows are answered (`routed.rows_of`).

        Raises:
            ModelError: All slots answer, and they stay on disk.
        """
        if self.on_disk is None or rows is None:
            yield
            return
        if not isinstance(rows, Segments):
            raise ModelError(ALL_AT_ONCE)
        earlier = [slot for slot in rows.counts if slot < self.tasks - 1]
        with self.on_disk.brought(earlier, next(self.model.parameters()).device):
            yield

    @final
    def freeze(self) -> None:
        if self.tasks:
            for site in self.sites.values():
                site.freeze()

    @final
    @contextmanager
    def bypassed(self) -> Iterator[None]:
        before = [(site, site.is_bypassed) for site in self.sites.values()]
        for site in self.sites.values():
            site.is_bypassed = True
        try:
            yield
        finally:
            for site, was_bypassed in before:
                site.is_bypassed = was_bypassed

    @final
    @contextmanager
    def aside(self) -> Iterator[None]:
        take_away(self.model, self.sites)
        try:
            yield
        finally:
            put_back(self.model, self.sites)

    @final
    def virtual_tokens(self, number: int) -> tuple[int, ...]:
        return ()

    @final
    def pristine(self) -> dict[str, Tensor]:
        return pristine_tensors(self.model, self.sites)

    @final
    def take_out(self) -> None:
        take_away(self.model, self.sites)
