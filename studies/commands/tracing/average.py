"""What `trace --facts` and `trace flow --facts` share: many facts, journalled, and their average with its page."""

from collections.abc import Callable
from typing import Any

from factscope.runs.folders import settled_folder
from studies.commands.app import JOURNAL, going_on, load, tell_result, tell_shard
from studies.commands.asked import source_name
from studies.commands.command import run_folder
from studies.commands.options import key


def average_facts(
    command: str, options: Any, config: Any, *, seed: int, average: Callable[..., Any], each: Callable[..., Any]
) -> None:
    """The facts that the options name, by `average`; of a shard only its journal, by `each`.

    The same command finds the same folder, and so takes up where it was stopped. `seed` draws the facts of --limit.
    """
    from factscope.data.load import load_facts
    from studies.saved import save_with_page
    from tracing.sweep import Sweep

    source, limit, known, crew = str(options.facts), options.limit, options.known, options.crew()
    chosen = load_facts(
        source,
        relation=options.relation,
        limit=None if known else limit,  # with --known, the limit counts facts that are known, so all are candidates
        seed=seed if limit else None,
        extra=options.extra,
    )
    name = source_name(source)
    shard, own = options.part(settled_folder(command.split()[-1], name, key(options)))
    with run_folder(command, options, own) as folder:
        model = load(options)
        sweep = Sweep(known, limit if known else None, options.start, name, crew, shard)
        with going_on(folder, "the facts done so far are"):
            if shard is not None:
                each(model, chosen, config, sweep, journal=folder / JOURNAL)
                tell_shard(shard, folder)
                return
            result = average(model, chosen, config, sweep, journal=folder / JOURNAL)
        page = save_with_page(result, folder, options.light)
    tell_result(result, page, options, folder=str(folder))
