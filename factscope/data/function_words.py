"""Words that only join others: a statement that ends in one of them is not whole, and none of them is an answer.

The closed classes of English (articles, prepositions, conjunctions, pronouns, auxiliaries), and the commonest adverbs
and verbs that say as little; lower case.
"""

_WORDS = (
    "a about above after again against all also although always am among an and another any are around as at be "
    "because been before being below between both but by came can could did do does doing down during each either else "
    "ever every few for from further get give goes had has have having he her here hers herself him himself his how "
    "however i if in into is it its itself just less made make many may me might more most much must my neither no "
    "nor not now of off on once one only onto or other others our ours out over own per same several shall she should "
    "since so some still such than that the their theirs them then there these they this those though through thus to "
    "too toward towards under until up upon us use used using very was we were what when where whether which while who "
    "whom whose why will with within without would yet you your yours"
)
FUNCTION_WORDS = frozenset(_WORDS.split())
