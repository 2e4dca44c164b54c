"""How the tests hold the code to its annotations: beartype, with an int where a float is asked, as PEP 484 has it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
