"""What `palma check`, `palma download` and `palma list` print."""

from __future__ import annotations

from palma.core.config import Settings
from palma.core.errors import InvalidRequest, SettingsError
from palma.models.memory_need import MemoryNeed
from palma.serving.instance import LoadPlan


def show_checkups(plans: list[LoadPlan]) -> bool:
    """Print what would run each model; return whether the weights of all fit into memory.

    Raises:
        PalmaError: A model cannot be loaded.
    """
    needs = []
    for plan in plans:
        if plan.settings.engine == "mock":
            print(f"{plan.model_id}\n  engine    mock: it was asked for, and needs no model")
        else:
            needs.append(_show_checkup(plan))
    total = MemoryNeed(
        sum(need.needed_bytes for need in needs), min((n.free_bytes for n in needs), default=0)
    )
    if len(needs) > 1:
        print(f"all together\n  memory    {_memory(total)}")
    return total.fits


def _show_checkup(plan: LoadPlan) -> MemoryNeed:
    from palma.serving.checkup import check_up

    found = check_up(plan)
    where = "on this machine" if found.is_here else "on the Hub; it would be downloaded"
    print(found.model_id)
    print(f"  files     {where}")
    print(f"  device    {found.device}, {found.dtype}: {found.device_reason}")
    print(f"  engine    {found.engine}: {found.engine_reason}")
    print(f"  weights   {found.num_parameters / 1e6:,.0f}M parameters")
    print(f"  memory    {_memory(found.memory)}")
    return found.memory


def _memory(need: MemoryNeed) -> str:
    fits = "they fit" if need.fits else "THEY DO NOT FIT"
    return (
        f"{need.needed_bytes / 1e9:.2f} GB for the weights, {need.free_bytes / 1e9:.2f} GB are "
        f"free: {fits}"
    )


def show_download(name: str, settings: Settings) -> None:
    """Download a model and print where it is.

    Raises:
        SettingsError: Nothing can have such a name, or it asks for bits.
        ModelLoadError: It cannot be had.
    """
    from pathlib import Path

    from palma.models.catalogue import make_catalogue, read_catalogue
    from palma.models.download import fetch_snapshot
    from palma.serving.model_options import find_spec

    make_catalogue()
    try:
        spec = find_spec(name, settings, read_catalogue())
    except InvalidRequest as error:
        raise SettingsError(error.message) from None
    here = spec.source if isinstance(spec.source, Path) else fetch_snapshot(spec, settings)
    print(f"{spec.model_id} is at {here}")


def show_models() -> None:
    """Print the catalogue, and what else the cache of this machine has."""
    from palma.models.catalogue import make_catalogue, read_catalogue
    from palma.models.preview import cached_names
    from palma.models.spec import is_local

    make_catalogue()
    catalogue = read_catalogue()
    cached = cached_names()
    sources = {name: str(entry["model_id"]) for name, entry in catalogue.items()}
    known = set(sources.values())
    sources |= {name: name for name in sorted(cached) if name not in known}
    width = max(map(len, sources), default=0)
    for name, source in sources.items():
        is_here = source in cached or is_local(source)
        print(f"{name:{width}}  {'here' if is_here else '-':4}  {source}")
