"""The release in plain words: its promise, what it comes to, and its warnings; and how numbers are written."""

from stillhouse.calibration import Calibration
from stillhouse.confidence import FeatureName, Score
from stillhouse.cost import Costs
from stillhouse.metrics import Against, Estimate
from stillhouse.report.side_by_side import SideBySide

_FEATURES: dict[FeatureName, str] = {
    "sum_logprob": "the probability it gives to the whole answer",
    "mean_logprob": "the geometric mean of its tokens’ probabilities",
    "min_logprob": "the probability of its least probable token",
    "quantile_10": "the lowest decile of its tokens’ probabilities",
    "quantile_25": "the lowest quartile of its tokens’ probabilities",
    "quantile_50": "the median of its tokens’ probabilities",
    "margin": "the smallest distance between the likeliest token’s probability and the next one’s",
    "entropy": "how little the probability is spread over the choices: exp(−entropy)",
    "length": "its shortness: one over its number of tokens",
}
_WRONG = {"teacher": "differ from the teacher’s", "gold": "are wrong"}


def percent(share: float) -> str:
    """A share as a percentage with at most one decimal: 0.0123 → 1.2%, 0.5 → 50%."""
    value = round(100 * share, 1)
    return f"{value:.0f}%" if value == round(value) else f"{value:.1f}%"


def measured(share: float) -> str:
    """A measured share with exactly one decimal, so that columns line up: 0.5 → 50.0%."""
    return f"{100 * share:.1f}%"


def short_money(amount: float) -> str:
    """An amount for an axis: 1250 → 1,250, 2.5 → 2.5."""
    return f"{amount:,.0f}" if amount >= 100 or amount == round(amount) else f"{amount:.3g}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, always with its sign: 0.012 → +1.2."""
    value = round(100 * difference, 1) + 0.0  # no minus zero
    return f"{value:+.1f}".replace("-", "−") if value else "0.0"


def seconds(span: float) -> str:
    """A latency: 0.0123 → 12 ms, 1.234 → 1.23 s."""
    return f"{1000 * span:.0f} ms" if span < 0.9995 else f"{span:.2f} s"


def interval(estimate: Estimate) -> str:
    """An estimate with its interval: 76.0% (69.6% to 81.4%)."""
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def promise(calibration: Calibration, against: Against) -> str:
    """The promise behind the threshold; without one, what comes nearest."""
    alpha, sure = percent(calibration.alpha), percent(1 - calibration.delta)
    if calibration.threshold is not None:
        return (
            f"Among the answers the student gives alone, at most {alpha} {_WRONG[against]}; "
            f"the chance that this promise holds is at least {sure}."
        )
    text = (
        f"No threshold can promise, with {sure} confidence, that at most {alpha} of the answers given alone "
        f"{_WRONG[against]}"
    )
    if calibration.n < calibration.n_min:
        text += f": that takes {calibration.n_min} calibration records or more, and there are {calibration.n}"
    nearest = calibration.nearest
    if nearest is None:
        return f"{text}. These records allow no promise at all."
    return (
        f"{text}. The nearest that these records would have allowed is {percent(nearest.alpha)}, "
        f"for about {percent(nearest.coverage.value)} of the requests."
    )


def confidence(score: Score) -> str:
    """What the student's confidence is."""
    if score.kind == "logistic":
        return (
            f"the probability that it is right, by a logistic regression on {len(score.used)} features of its logprobs"
        )
    if score.kind == "isotonic":
        return f"the probability that it is right, by an isotonic regression on its {score.feature}"
    return _FEATURES[score.feature]


def summary(calibration: Calibration, found: SideBySide, costs: Costs, fallback_rate: Estimate) -> str:
    """What the release comes to, in one to three sentences."""
    if calibration.threshold is None:
        return "The student is not ready to answer alone, so every request goes to the teacher."
    alone = 1 - fallback_rate.value
    parts = [f"The student can answer {percent(alone)} of the requests alone, and the teacher answers the rest."]
    cascade, teacher = (found.row(who).get(found.right_by, found.reference) for who in ("cascade", "teacher"))
    if cascade and teacher:
        parts.append(
            f"Together they are right on {percent(cascade.value)}, the teacher on its own on {percent(teacher.value)}."
        )
    elif cascade:
        same = "say the same as the teacher" if found.right_by == "alike" else "give the teacher’s answer"
        parts.append(f"Together they {same} on {percent(cascade.value)}.")
    if costs.teacher > 0:
        change = costs.cascade / costs.teacher - 1
        less = "less" if change < 0 else "more"
        parts.append(f"That costs {percent(abs(change))} {less} than the teacher alone.")
    return " ".join(parts)


def warnings(calibration: Calibration, costs: Costs, alone_error: Estimate | None, test_n: int) -> list[str]:
    """What a reader must know of the release before trusting the numbers; one sentence each."""
    found = []
    if alone_error and alone_error.low > calibration.alpha:
        found.append(
            f"On the test records the answers given alone err in {interval(alone_error)}, above the promised "
            f"{percent(calibration.alpha)}: test and calibration records may not be alike."
        )
    if calibration.threshold is not None and costs.teacher > 0 and costs.cascade >= costs.teacher:
        found.append("At these prices the cascade costs no less than the teacher alone.")
    if costs.teacher == 0:
        found.append("The recipe gives no teacher prices, so the costs say nothing.")
    if test_n < 100:
        found.append(f"There are only {test_n} test records, so every interval is wide.")
    return found
