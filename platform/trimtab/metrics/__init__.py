"""The four measures of moral indifference, as folds over the rows of one layer.

Categorical (`categorical`), gradient (`gradient`), structural (`structural`) and dimensional
(`dimensional`; `released` for the paper's own optimiser), each with a result and a `metrics`
function that gives the result its names; `peaks` picks the best layer. Arrays in, arrays out.
"""
