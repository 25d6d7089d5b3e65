"""Of runs to figures: groups, medians with their spread, ratios within a round."""

import statistics


def groups(runs, *keys):
    """{values of the keys: runs}, in the order in which they first came."""
    found = {}
    for run in runs:
        found.setdefault(tuple(run.get(key) for key in keys), []).append(run)
    return found


def values(runs, key):
    return [run[key] for run in runs if run.get(key) is not None]


def ratios(ours, theirs, key):
    """ours / theirs for each round that has both: what changed on the machine hit both. A run
    without a single message has no ratio."""
    other = {run.get('round'): run.get(key) for run in theirs}
    return [run[key] / other[run.get('round')] for run in ours
            if run.get(key) and other.get(run.get('round'))]


def short(value):
    """A number in three or four figures."""
    for unit, factor in (('M', 1e6), ('k', 1e3)):
        if value >= 10 * factor:
            return f'{value / factor:.1f}{unit}'
        if value >= factor and unit == 'M':
            return f'{value / factor:.2f}{unit}'
    if value >= 100:
        return f'{value:.0f}'
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def spread(found, form=short):
    """'median (min..max)', or '-' of nothing."""
    if not found:
        return '-'
    median = form(statistics.median(found))
    return median if len(found) == 1 else f'{median} ({form(min(found))}..{form(max(found))})'


def median(found):
    return statistics.median(found) if found else None
