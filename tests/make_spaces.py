"""Spaces with conditions, constraints and forbidden combinations, for property tests."""

from hypothesis import strategies as st

from pytest_autotune.space import Choice, Constraint, Forbidden, Integer, Space

FIXED = {"gpu": "H100", "limit": 3}
NAMES = "abcde"
CONDITIONS = (
    "{0} > 1",
    "{0} != {1}",
    "{0} == 2 or {1} == 3",
    "{0} < limit and {1} >= 2",
    "gpu == 'H100' => {0} in [1, 3]",
    "gpu == 'A100'",
)


@st.composite
def spaces(draw):
    """Spaces of whole numbers; a condition names parameters before or after, as long as there is no circle."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=5))
    parameters = []
    for rank, name in enumerate(names):
        when = None
        if rank and draw(st.booleans()):
            named = st.sampled_from(names[:rank])
            when = Constraint(draw(st.sampled_from(CONDITIONS)).format(draw(named), draw(named)))
        values = draw(st.lists(st.integers(1, 4), unique=True, min_size=1, max_size=3))
        wide = st.just(Integer(name, 1, draw(st.integers(1, 4)), when=when))
        parameters.append(draw(st.just(Choice(name, tuple(values), when=when)) | wide))
    pairs = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES))
    constraints = draw(st.lists(pairs.map(lambda pair: Constraint("{} <= {} + 1".format(*pair))), max_size=1))
    some = st.lists(st.integers(1, 4), unique=True, min_size=1, max_size=2).map(tuple)
    forbidden = draw(
        st.lists(st.dictionaries(st.sampled_from(NAMES), some, min_size=1, max_size=2).map(Forbidden), max_size=2)
    )
    return Space(tuple(draw(st.permutations(parameters))), tuple(constraints), tuple(forbidden))
