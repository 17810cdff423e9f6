"""The result of the ranking question: do ELBOs of noisy data rank models as their metrics do?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elbos.comparison.curves import Known
from elbos.records import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Spearman's rank correlation of each of some quantities with a metric.

    Attributes:
        rho: The estimates.
        low, high: Their 95 % intervals, each by itself.
        p_value: Of the largest of all, by permutation; None if not known.
    """

    rho: tuple[Known, ...]
    low: tuple[Known, ...]
    high: tuple[Known, ...]
    p_value: Known = None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Whether ELBOs of noisy data rank monotone weightings as main metrics do.

    Attributes:
        objectives: The monotone ones; those of one weighting count as one, by their mean.
        weightings: Theirs.
        num_seeds: Over how many seeds scores are averaged.
        logsnr: Noise levels.
        by_level: By metric, the correlation of the ELBO at each noise level.
        by_weighting: By metric, the correlation of the loss under each weighting.
    """

    objectives: tuple[str, ...]
    weightings: tuple[str, ...]
    num_seeds: int
    logsnr: tuple[float, ...]
    by_level: Mapping[str, RankCorrelation]
    by_weighting: Mapping[str, RankCorrelation]

    def to_dict(self) -> dict[str, Any]:
        """As in report.json: levels by metric, and a list of weightings with all metrics."""
        rows = [
            {
                "name": name,
                **{
                    key: {end: getattr(one, end)[i] for end in ("rho", "low", "high")}
                    for key, one in self.by_weighting.items()
                },
            }
            for i, name in enumerate(self.weightings)
        ]
        return {
            "rows": list(self.objectives),
            "num_rows": len(self.objectives),
            "num_weightings": len(self.weightings),
            "num_seeds": self.num_seeds,
            "logsnr": list(self.logsnr),
            **{key: to_json(one) for key, one in self.by_level.items()},
            "weightings": rows,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Ranking":
        """What `to_dict` was made from."""
        rows = value["weightings"]
        by_level = {k: from_json(RankCorrelation, v) for k, v in value.items() if type(v) is dict}
        ends = ("rho", "low", "high")
        return cls(
            objectives=tuple(value["rows"]),
            weightings=tuple(row["name"] for row in rows),
            num_seeds=value["num_seeds"],
            logsnr=tuple(value["logsnr"]),
            by_level=by_level,
            by_weighting={
                key: from_json(RankCorrelation, {e: [row[key][e] for row in rows] for e in ends})
                for key in by_level
            },
        )
