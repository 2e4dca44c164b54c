"""Where the length of a text decides how its positions are turned: longrope and dynamic NTK.

Both leave RoPE (Su et al. 2021) as it was trained up to a number of tokens. Beyond it longrope (Ding et al. 2024) takes
other frequencies, and dynamic NTK frequencies of the text's own length. Transformers takes the longest row of a batch
for the text; so a shorter row beside one that is longer than that number would be read otherwise than alone. Generation
and scoring keep such rows apart; whatever else fills rows up (`padded`) refuses them.
"""

from math import inf

from factscope.model.bridge import Bridge


def switch(model: Bridge) -> float:
    """Tokens beyond which a text is turned by its length, by the model's configuration; inf where none is."""
    config = model.original_model.config.get_text_config()
    told = getattr(config, "rope_parameters", None) or {}
    kinds = [told, *(one for one in told.values() if isinstance(one, dict))]  # one for all layers, or one for each kind
    places = [
        place
        for one in kinds
        if one.get("rope_type") == "longrope" or "dynamic" in str(one.get("rope_type"))
        for place in (one.get("original_max_position_embeddings"), config.max_position_embeddings)
        if place is not None
    ]
    return min(places, default=inf)
