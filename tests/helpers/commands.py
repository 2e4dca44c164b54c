"""The commands, by name."""

COMMANDS = {
    "trace": "studies.commands.trace",
    "circuit": "studies.commands.circuit.command",
    "edit": "studies.commands.edit.command",
}
