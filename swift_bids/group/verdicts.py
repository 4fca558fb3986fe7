"""Results of the group level -> sentences that explain them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from swift_bids.group.compare import title_of
from swift_bids.group.figures import METRIC_NAMES
from swift_bids.group.mask_effects import VOLUME
from swift_bids.group.outliers import OUTLIER_P
from swift_bids.group.probes.scores import (
    ACQUISITION,
    COMPARED,
    CONNECTIVITY,
    EMBEDDING,
    MOTION,
    NOT_HARMONISED,
    POSITIONS,
    TOKENS,
    main_metric,
)
from swift_bids.group.reliability import GOOD, rating
from swift_bids.group.tables import GroupResults

#: Results with a larger p are called no better than chance.
_MAX_P = 0.05
#: Forms of the embedding besides the mean over all tokens.
_FORMS = (POSITIONS, TOKENS)


def sentences_of(results: GroupResults) -> list[tuple[bool, str]]:
    """Explain the results: (good, sentence); good is False if the user should check something."""
    sentences = []
    if results.n_kinds > 1:
        sentences.append(
            (False, f"The tables mix {results.n_kinds} kinds of embeddings; do not compare them.")
        )
    if results.missing:
        sentences.append(
            (False, f"{len(results.missing)} participants of the input lack embeddings.")
        )
    if len(results.duplicates):
        sentences.append(
            (
                False,
                f"{len(results.duplicates)} pair(s) of runs from two participants are nearly "
                "identical; check whether files were mixed up.",
            )
        )
    n_outliers = int(results.runs.table["outlier"].sum())
    if results.n_components:
        expected = OUTLIER_P * len(results.runs.table)
        advice = " Look at their participants' pages." if n_outliers else ""
        sentences.append(
            (
                n_outliers <= 3 * max(1.0, expected),
                f"{_runs(n_outliers)} far from the others (outliers); {expected:.1f} would be "
                f"expected by chance.{advice}",
            )
        )
    sentences += [(False, f"{note}.") for note in results.notes]
    sentences += _comparison_sentences(results)
    sentences += _condition_sentences(results)
    sentences += _identification_sentences(results.identification)
    sentences += _reliability_sentences(results.reliability)
    sentences += _probe_sentences(results.probes)
    sentences += _site_sentences(results)
    sentences += _mask_sentences(results)
    return sentences


def _runs(n: int) -> str:
    return "1 run lies" if n == 1 else f"{n} runs lie"


def _condition_sentences(results: GroupResults) -> list[tuple[bool, str]]:
    """Name the conditions that the embeddings contain, with a correction for their number."""
    table = results.conditions
    sentences = []
    for row in table.itertuples() if len(table) else ():
        is_column = row.condition in results.participants.table
        advice = "use it as --covariate or --group-by" if is_column else "choose runs that share it"
        if row.p * len(table) <= _MAX_P:
            sentences.append(
                (
                    False,
                    f"Embeddings contain {row.condition}: for {row.value:.0%} of the runs, the "
                    f"most similar run of another participant has the same {row.condition} (chance "
                    f"{row.chance:.0%}, p = {row.p:.3f}). To compare participants who differ in "
                    f"it, {advice}.",
                )
            )
    return sentences


def _comparison_sentences(results: GroupResults) -> list[tuple[bool, str]]:
    """What `--compare` compares, and how far the two embeddings agree."""
    compared = results.compared
    if compared is None:
        return []
    sentences = [
        f"The compared embedding is that of {compared.title} in {compared.folder}; the embedding "
        f"is that of {title_of(results.runs)}. Both exist for {len(compared.rows)} runs."
    ]
    if not np.isnan(compared.agreement):
        sentences.append(
            f"Pairs of runs that are alike in one are alike in the other with a correlation of "
            f"{compared.agreement:.2f}."
        )
    medians = [
        t["icc"].median() for t in (results.reliability, results.compared_reliability) if len(t)
    ]
    if len(medians) == 2:
        sentences.append(
            f"The median intraclass correlation of the features is {medians[0]:.2f} for the "
            f"embedding and {medians[1]:.2f} for the compared embedding."
        )
    return [(True, sentence) for sentence in sentences]


def _identification_sentences(table: pd.DataFrame) -> list[tuple[bool, str]]:
    if table.empty:
        return []
    rank1 = table[table["metric"] == "rank1"].set_index("features")
    own = rank1.loc["embedding"]
    others = ", ".join(
        f"{name} {rank1.loc[name, 'value']:.0%}" for name in rank1.index if name != "embedding"
    )
    within = own["conditions"]
    chance = f"chance {own['chance']:.0%}, p = {own['p']:.3f}"
    if within:
        chance += f", from permutations within {within}"
    if not own["n_permutations"]:
        chance = "p is unknown, because there are too few runs"
        chance += f" of different participants with the same {within}" * bool(within)
    sentence = (
        f"{own['value']:.0%} of the runs are most similar to a run of the same participant "
        f"({chance}{others and '; ' + others})"
    )
    motion = rank1.loc["motion", "value"] if "motion" in rank1.index else 0.0
    good = own["p"] <= _MAX_P and own["value"] > motion
    if not own["n_permutations"]:
        return [(False, sentence + ".")]
    if 1 / (1 + own["n_permutations"]) > _MAX_P:
        sentence += "; there are too few permutations to rule out chance"
    elif own["p"] > _MAX_P:
        sentence += "; the embeddings do not identify participants better than chance"
    elif own["value"] <= motion:
        sentence += "; head motion alone identifies participants equally well or better"
    return [(good, sentence + ".")]


def _reliability_sentences(table: pd.DataFrame) -> list[tuple[bool, str]]:
    if table.empty or table["icc"].isna().all():
        return []
    first, middle = table.iloc[0], table["icc"].median()
    word = rating(middle)
    share = (table["icc"].dropna() >= GOOD).mean()
    return [
        (
            word != "poor",
            f"Test-retest reliability between {first['repeated']}s is {word}: the median "
            f"intraclass correlation of the features is {middle:.2f}, and {share:.0%} of them "
            f"reach {GOOD}.",
        )
    ]


def _site_sentences(results: GroupResults) -> list[tuple[bool, str]]:
    """How predictable the column of `--harmonise` was before and after."""
    name = results.settings.get("harmonise")
    if not name or not len(results.probes):
        return []
    rows = results.probes[
        (results.probes["target"] == name) & (results.probes["metric"] == "auroc")
    ]
    if rows.empty:
        return []
    rows = rows.set_index("features")
    after, p = rows.loc[EMBEDDING, ["value", "p"]]
    values = f"AUROC {after:.2f}, p = {p:.3f}; before: {rows.loc[NOT_HARMONISED, 'value']:.2f}"
    how = "still predict it" if p <= _MAX_P else "predict it no better than chance"
    sentence = f"After the effects of {name} were removed, the embeddings {how} ({values})."
    return [(not p <= _MAX_P, sentence)]


def _mask_sentences(results: GroupResults) -> list[tuple[bool, str]]:
    sentences = []
    probes = results.probes
    if len(probes):
        rows = probes[(probes["target"] == VOLUME) & (probes["metric"] == "r2")]
        rows = rows[rows["features"] == EMBEDDING]
        if len(rows):
            own = rows.iloc[0]
            sentence = (
                f"The embeddings predict the volume of the brain mask with R² {own['value']:.2f} "
                f"(p = {own['p']:.3f})"
            )
            if _too_few_permutations(own):
                sentence += "; there are too few permutations to rule out chance"
            elif own["p"] > _MAX_P:
                sentence += ", no better than chance"
            sentences.append((True, sentence + "."))
    for name, how in results.mask_related.items():
        sentences.append(
            (
                False,
                f"{name} is associated with the volume of the brain mask ({how}), which the "
                f"network sees. Correct for it with --covariate {VOLUME}, or embed all runs with "
                f"--mask template.",
            )
        )
    return sentences


def _against_compared(row: pd.Series) -> str:
    """How the compared embedding does; `gain` is that of the embedding over it."""
    if row["gain_low"] > 0:
        difference = "clearly worse"
    elif row["gain_high"] < 0:
        difference = "clearly better"
    else:
        difference = "no clear difference"
    return f"from the {COMPARED} {row['value']:.2f}, {difference}"


def _too_few_permutations(row: pd.Series) -> bool:
    return bool(np.isnan(row["p"]) or 1 / (1 + row["n_permutations"]) > _MAX_P)


def _probe_sentences(probes: pd.DataFrame) -> list[tuple[bool, str]]:
    sentences = []
    for target, rows in probes.groupby("target", sort=False) if len(probes) else ():
        if target == VOLUME or NOT_HARMONISED in set(rows["features"]):
            continue
        metric = main_metric(rows)
        rows = rows[rows["metric"] == metric].set_index("features")
        own = rows.loc[EMBEDDING]
        no_better = [
            f"{other} ({rows.loc[other, 'value']:.2f})"
            for other in (CONNECTIVITY, MOTION, ACQUISITION)
            if other in rows.index and not rows.loc[other, "gain_low"] > 0
        ]
        found = f"{METRIC_NAMES[metric]} {own['value']:.2f}, p = {own['p']:.3f}"
        finer = [f"{name} {rows.loc[name, 'value']:.2f}" for name in _FORMS if name in rows.index]
        if finer:
            found += f"; from {', from '.join(finer)}"
        if COMPARED in rows.index:
            found += f"; {_against_compared(rows.loc[COMPARED])}"
        if _too_few_permutations(own):
            sentence = f"{target}: there are too few permutations to rule out chance ({found})"
        elif own["p"] > _MAX_P:
            sentence = (
                f"{target} cannot be predicted from the mean embedding better than by chance "
                f"({found})"
            )
        elif no_better:
            sentence = (
                f"{target} can be predicted from the mean embedding ({found}), but not clearly "
                f"better than from {' and '.join(no_better)}"
            )
        else:
            sentence = (
                f"{target} can be predicted from the mean embedding, better than from every "
                f"baseline ({found})"
            )
        sentences.append((own["p"] <= _MAX_P and not no_better, sentence + "."))
    return sentences
