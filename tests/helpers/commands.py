"""The commands, by name."""

COMMANDS = {
    "factscope": "studies.commands.main",
    "trace": "studies.commands.trace",
    "circuit": "studies.commands.circuit.command",
    "edit": "studies.commands.edit.command",
}
