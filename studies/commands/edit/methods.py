"""`edit methods`: which editing methods there are, what each is good for, and its settings; no model is needed."""

import json
from dataclasses import dataclass
from typing import Annotated

from studies.commands.app import tell
from studies.commands.command import command
from studies.commands.options import AsJson, OneOf, Options, argument
from studies.commands.options.flags import methods as names
from studies.commands.options.flags import starting


@dataclass(frozen=True, kw_only=True)
class MethodsOptions(Options):
    """Which of them."""

    method: Annotated[
        str | None,
        argument(
            "Only this one, with its settings.",
            metavar="METHOD",
            parser=OneOf("method", names),
            autocompletion=starting(names),
        ),
    ] = None
    as_json: AsJson = False


@command("edit methods", MethodsOptions, "edit methods", "edit methods rls", "edit methods memoe --json", bare=True)
def methods(options: MethodsOptions) -> None:
    """List the editing methods; of one, say what it is good for, what it needs, and every setting."""
    from editing.method import method
    from editing.pages.methods import described, in_json, listing
    from factscope.results.papers import PAPERS
    from studies.cite import METHODS

    specs = [method(name) for name in ((options.method,) if options.method else names())]
    if options.as_json:
        found = [in_json(one) for one in specs]
        tell(json.dumps(found[0] if options.method else found, ensure_ascii=False))
    elif options.method:
        tell(*described(specs[0], [PAPERS[key].said for key in METHODS.get(options.method, ())]))
    else:
        tell(*listing(specs), "edit methods METHOD says more of one: what it is good for, what it needs, its settings.")
