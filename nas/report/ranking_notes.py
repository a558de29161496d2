"""The notes under a ranking: how it was measured, how far it can be trusted, and what to do next."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from nas.bank.maturity import maturity_words
from nas.bank.store import IDLE
from nas.data.assigned import assigned_words
from nas.ranking.combinations import cross_validate, find_outliers
from nas.ranking.grouped_scores import observations_of
from nas.ranking.race import contenders, find_winner, rules_of
from nas.ranking.rank import RankRow, ranking_of
from nas.ranking.replicates import pool_replicates
from nas.ranking.verdict import LEAST_SEEDS, LEVEL
from nas.ranking.yardstick import NEAR
from nas.report.bank_table import idle_words
from nas.space.bases import shown_task
from nas.space.choice import KEEP, NONE
from nas.space.space_file import shipped_spaces
from nas.space.variant import describe_swaps
from nas.study.budget import Rung
from nas.study.settings import PER_SEED, SHARED, Settings
from nas.study.study import Study
from nas.study.trial import Trial
from nas.task.task import DETECT
from nas.training.scores import SCORES, signed


def ranking_notes(study: Study, fidelity: str = "", rows: Sequence[RankRow] | None = None) -> list[str]:
    """Return the notes under the ranking of a study, or of a lower rung; `rows` is that ranking, if it is known."""
    s = study.settings.at(fidelity)
    trials = study.runs()
    rows = ranking_of(study, fidelity) if rows is None else rows
    notes = [
        (
            f"Proxy: {_proxy_words(study, fidelity)}; {s.images[0]} training and {s.images[1]} validation images of "
            f"{s.data or 'the demo data'}."
        ),
        *_metric(s),
        *_rungs(study, fidelity),
        *_seeds(study, rows),
        *(f"Seed {seed} is excluded for all variants: {why}" for seed, why in sorted(study.excluded_seeds.items())),
        *_trust(study, rows, fidelity),
        "GFLOPs: Ultralytics' convention at 640 px and the YAML's classes, with the work that its counter misses.",
        (
            f"Floor: variants that lose more than {s.floor:g} mAP50-95 against the baseline (with their whole "
            "interval, if they have one)"
            + (f", or have less than {s.goal.min_map:g}," if s.goal.min_map else "")
            + " rank below the others. * on the Pareto front of mAP and "
            + ("latency." if s.goal.needs_latency else "GFLOPs.")
        ),
        *_goal_words(s, rows),
        *_parts(study, fidelity),
        *_bank_words(study),
    ]
    wrong = [r.trial for r in rows if r.trial.gflops - r.trial.stock_gflops > 0.005 * r.trial.gflops]
    if wrong:
        worst = max(wrong, key=lambda t: t.gflops - t.stock_gflops)
        notes.append(
            f"Ultralytics' own counter reports less for {len(wrong)} of {len(rows)} variants, "
            f"such as {worst.stock_gflops:.2f} instead of {worst.gflops:.2f} for {worst.variant.id}."
        )
    for status, words in (("failed", "failed"), ("rejected", "over a limit"), ("running", "running or interrupted")):
        notes += [f"{words}: {t.variant.id} ({_named(t, study)}) {t.failure}" for t in trials if t.status == status]
    return [shown_task(s.space.base).said(line) for line in notes]


def yardstick_words(yardsticks: Sequence[RankRow]) -> list[str]:
    """Return what the yardsticks are; nothing without any."""
    if not yardsticks:
        return []
    return [
        (
            "Yardsticks: the baseline pruned uniformly to a smaller width, with the same seeds, weights, distillation "
            f"and epochs. Each variant is compared with the nearest within {NEAR:.0%} of its GFLOPs, paired by seed "
            "(Holm's correction over all that are compared)."
        )
    ]


def _metric(s: Settings) -> list[str]:
    """Return what mAP50-95 is in a study of another task than detection."""
    task = shown_task(s.space.base)
    if not task.has_objects:
        return ["Metric: top-1 accuracy on the validation images."]
    return [] if task is DETECT else [f"Metric: mAP50 and mAP50-95 are those of {task.words}: {task.metric}."]


def _rungs(study: Study, fidelity: str) -> list[str]:
    """Return how many variants each rung has trained; nothing without rungs."""
    s = study.settings
    if not s.rungs:
        return []
    counts = []
    for k, key in enumerate(s.fidelities, 1):
        done = sum(t.status == "done" and not t.variant.is_baseline for t in pool_replicates(study.trials(key)))
        rung = s.rung_of(key)
        what = rung.words if rung else "the full recipe"
        counts.append(f"{k}: {done} variant{'s' * (done != 1)} with {what}")
    shown = "This is a lower rung" if fidelity else "Only the last rung is ranked here"
    how = f"Successive halving, keep 1 of {s.eta}; every rung retrains from the start with its own full schedule."
    return [f"{how} Rungs: {'; '.join(counts)}. {shown}; `nas rank {_named_study(study)} --rung K` shows each."]


def _goal_words(s: Settings, rows: Sequence[RankRow]) -> list[str]:
    """Return the objective, if it is not mAP per GFLOP, and how latencies were measured."""
    lines = []
    fronts = ": front by front, the highest mAP first" if s.goal.has_front else ""
    if s.budgets:
        turns = ", budgets by turns" if len(s.budgets) > 1 else ""
        within = "; ".join(map(str, s.budgets))
        lines.append(
            f"Order: first what is within the budget ({within}), the highest mAP first{turns}; then all others by "
            f"{s.goal.words}{fronts}."
        )
    elif s.objective != "map_per_gflop":
        lines.append(f"Order: by {s.goal.words}{fronts}.")
    if s.latency_on:
        precision = "" if s.engine else "float32, "  # an engine's is part of the machine
        lines.append(
            f"ms: median latency of one image of {s.deployed_imgsz} px, fused, {precision}on {s.latency_on}; "
            "other machines may differ."
        )
    if rows and all(r.trial.map < s.goal.min_map for r in rows):
        lines.append(f"No variant reaches the required mAP50-95 of {s.goal.min_map:g}.")
    if s.table:
        lines.insert(0, "Replay: nothing was trained; the scores are from a table of an earlier study.")
    return lines


def _named(trial: Trial, study: Study) -> str:
    """Return a trial's swaps, with the seed unless it is the study's first, and with the rung if it is a lower one."""
    rung = study.settings.rung_of(trial.fidelity)
    seed = "" if trial.seed == study.settings.seed else f", seed {trial.seed}"
    return trial.describe() + seed + (f", {rung.words}" if rung else "")


def _seeds(study: Study, rows: Sequence[RankRow]) -> list[str]:
    """Return what the means, intervals and verdicts over seeds are of."""
    compared = [r for r in rows if r.delta_map is not None and not r.trial.variant.is_baseline]
    several = [r for r in compared if r.seeds >= LEAST_SEEDS]
    if not compared or (not several and not any(r.interval for r in compared)):
        return []
    bank = ", the bank" if study.settings.recipe.init == "bank" else ""
    bank = f", the trained baseline{bank}" if study.settings.baselines == PER_SEED else bank
    shared = (
        " The intervals do not cover the trained weights that all variants share." if _shares_weights(study) else ""
    )
    lines = [
        (
            f"Seeds: Δ is the mean difference to the baseline with the same n seeds (initial values{bank}, order, "
            f"augmentation), ± its 95 % interval; {len(several)} of {len(compared)} have several.{shared}"
        )
    ]
    if several:
        lines.append(
            f"Verdicts: on Δ, with a family-wise error rate of at most {LEVEL:.0%} (Holm's correction over the "
            f"{len(compared)} variants compared; the intervals are not corrected)."
        )
    if any(r.shrunk is not None for r in rows):
        lines.append("shrunk: empirical Bayes estimate of Δ, without the selection bias of the extremes.")
    return lines


def _proxy_words(study: Study, fidelity: str) -> str:
    """Return how proxies start, how long they train and which score they are ranked by."""
    s = study.settings
    trained = (s.rung_of(fidelity) or Rung.of(s.recipe)).words
    words = f"{trained}, batch {s.recipe.batch}, seed {s.seed}, {_init_words(study)}"
    return words if s.score == "map" else f"{words}; scored by {SCORES[s.score].words}"


def _init_words(study: Study) -> str:
    recipe = study.settings.recipe
    if recipe.init == "scratch":
        return "from scratch"
    if recipe.init not in ("bank", "baseline"):
        return f"inheriting from {recipe.init}"
    curve = study.baseline_training
    seen = curve[-1].validation if curve else None
    known = [f"mAP50-95 {seen.map:.3f}"] if seen else []
    known += [mature] if (mature := maturity_words(recipe, curve)) else []
    epochs = len(curve) if recipe.base_until and curve else recipe.base_epochs
    baseline = f"a baseline of {epochs} epochs" + (f" ({'; '.join(known)})" if known else "")
    if study.settings.baselines == PER_SEED:
        baseline += ", one per seed"
    if recipe.init == "baseline":
        return f"inheriting from {baseline}"
    return f"swaps distilled for {recipe.bank_epochs} epochs from {baseline}"


def _space_argument(s: Settings) -> str:
    """Return what names a study's space in a command: a shipped space's name, or its file's."""
    return s.space.name if s.space.name in shipped_spaces() else f"{s.space.name}.yaml"


def _trust(study: Study, rows: Sequence[RankRow], fidelity: str) -> list[str]:
    """Return which differences the ranking resolves, and whether it can distinguish its variants."""
    s = study.settings
    found = s.calibrated
    if fidelity:
        return ["The resolution of this rung is not known: it only selects variants for the next rung."]
    if not found:
        if any(r.seeds >= LEAST_SEEDS for r in rows if not r.trial.variant.is_baseline):
            return []
        unknown = "Screening: one seed per variant, and the resolution of this proxy is not known here."
        further = f"`nas search {_where(study)} --confirm 3:3` trains the top variants with further seeds"
        return [f"{unknown} `nas calibrate {_space_argument(s)}` measures it; {further}."]
    low, high = found["spearman_interval"] or (None, None)
    interval = f" [{low:.2f}, {high:.2f}]" if low is not None else ""
    elsewhere = "" if found["fingerprint"] == s.fingerprint else " It was calibrated on other data and may differ here."
    if found["base"] != s.space.base + s.space.scale:
        elsewhere += f" It was calibrated with {found['base']}."
    if found.get("departures"):
        elsewhere += f" Proxies have other settings here ({'; '.join(found['departures'])}): it may not hold."
    lines = [
        (
            f"Resolution: {found['resolution']:.4f} mAP50-95, the smallest difference whose sign is right in 9 of 10 "
            f"comparisons of one run each; Spearman {found['spearman']:.2f}{interval} with full training (calibrated "
            f"with {found['on']}).{elsewhere}"
        )
    ]
    maps = [r.trial.map for r in rows if not r.trial.variant.is_baseline]
    if len(maps) > 1:
        spread = statistics.stdev(maps)
        if found["resolution"] > spread:
            lines.append(
                f"These variants cannot be distinguished: their standard deviation of {spread:.4f} is below the "
                "resolution. The order may be chance; more seeds, or swaps with larger effects, would help."
            )
        else:
            top = max(maps)
            close = sum(top - m < found["resolution"] for m in maps) - 1
            if close:
                others = "1 other variant is" if close == 1 else f"{close} other variants are"
                lines.append(f"{others} within the resolution of the highest mAP50-95.")
    return lines


def _parts(study: Study, fidelity: str) -> list[str]:
    """Return how well single swaps predict combinations, and which combinations differ from the prediction."""
    s = study.settings.at(fidelity)
    seen = observations_of(pool_replicates(study.trials(fidelity)))
    tested = cross_validate(seen, s.space.active, s.error) if seen else None
    if tested is None:
        return []
    baseline = f", from the baseline's score {tested.rms_baseline:.4f}" if tested.rms_baseline is not None else ""
    how = (
        f"Additive model: {tested.combinations} combinations predicted from the other variants, root mean square error "
    )
    bound = f" Of {tested.pairs[1]} pairs it can learn the {tested.pairs[0]} most frequent." if tested.bounded else ""
    lines = [f"{how}{tested.rms_error:.4f} (from their mean {tested.rms_mean:.4f}{baseline}).{bound}"]
    for outlier in find_outliers(seen, s.space.active, s.error)[:3]:
        swaps = describe_swaps((k, v) for k, v in sorted(outlier.assignment.items()) if v not in (KEEP, NONE))
        lines.append(f"{swaps}: {outlier.text}")
    return lines


def _bank_words(study: Study) -> list[str]:
    """Return the idle slots of the bank, its failed candidates, and what the column distil is."""
    bank = study.bank
    idle = [slot for slot, drop in bank.get("drops", {}).items() if drop < IDLE]
    lines = []
    if study.settings.levels:
        lines += idle_words(idle, study.settings)
    elif idle:
        lines.append(
            f"No swap can matter on these data in {', '.join(idle)}: the baseline loses less than {IDLE:g} mAP50-95 "
            "when the layer's output is replaced by its channel means."
        )
    if levels := bank.get("levels"):
        lines.append(f"Levels of the trained baseline: {assigned_words(levels)}.")
    lines += [f"kept out of the search: {swap}: {why}" for swap, why in bank.get("failures", {}).items()]
    if bank:
        lines.append(
            f"distil: the largest distillation error among the swaps; `nas bank {study.location.name}` lists all."
        )
    return lines


def _where(study: Study) -> str:
    """Return the options that name a study."""
    return f"--study {_named_study(study)}"


def _named_study(study: Study) -> str:
    """Return a study's name, and its storage unless that is the default; without the password, for it gets logged."""
    location = study.location
    return location.name + (
        "" if location.is_default else f" --storage {location.shown if location.server else location.url}"
    )


def _shares_weights(study: Study) -> bool:
    """Return whether all variants inherit the same trained weights, so that verdicts are conditional on them."""
    return study.settings.recipe.init != "scratch" and study.settings.baselines == SHARED


def _verdict_words(row: RankRow, study: Study) -> str:
    """Return the verdict on a variant's mAP in words; empty with too few seeds."""
    if row.seeds < LEAST_SEEDS or row.interval is None:
        return ""
    how = {"better": "is better than the baseline's", "worse": "is worse than the baseline's"}
    verdict = how.get(row.verdict, "is not clearly different from the baseline's")
    low, high = (signed(bound, 4) for bound in row.interval)
    text = f" Over {row.seeds} seeds its mAP50-95 {verdict} ({low} to {high})"
    if row.verdict not in how and not row.interval[0] <= 0 <= row.interval[1]:
        text += ", whose interval leaves zero out: with this many comparisons that may be chance"
    if row.verdict not in how or not _shares_weights(study):
        return f"{text}."
    recipe = study.settings.recipe
    trains = recipe.init in ("bank", "baseline") and recipe.base_epochs and not study.settings.table
    others = "a study with another --seed, which trains its own," if trains else "a study with other weights"
    return f"{text}, given the trained weights that all variants share; {others} may differ."


def _reaching(study: Study, rows: Sequence[RankRow]) -> int:
    """Return how many of the top variants of the screening have to be confirmed to include these."""
    rules = rules_of(study)
    order = contenders(study.trials(), replace(rules, confirm=replace(rules.confirm, top=len(study.trials()))))
    wanted = {row.trial.variant for row in rows}
    return max((place for place, variant in enumerate(order, 1) if variant in wanted), default=rules.confirm.top)


def _unconfirmed(study: Study, rows: Sequence[RankRow]) -> list[RankRow]:
    """Return the rows without a failed run under a further seed."""
    again = {t.variant for t in study.trials() if t.status == "failed" and t.seed != study.settings.seed}
    return [row for row in rows if row.trial.variant not in again]


def _tally(rows: Sequence[RankRow]) -> str:
    """Return the number of each verdict among the variants with several seeds."""
    verdicts = [r.verdict for r in rows if r.seeds >= LEAST_SEEDS and not r.trial.variant.is_baseline]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("better", "worse", "cannot tell") if v in verdicts)
    return f" mAP50-95 against the baseline, of {len(verdicts)} with several seeds: {counts}." if verdicts else ""


def conclusion(study: Study) -> list[str]:
    """Return what was compared, the winner and its gain, and the next commands."""
    rows = ranking_of(study)
    base = next((r.trial for r in rows if r.trial.variant.is_baseline), None)
    if not rows and any(t.status == "done" for t in study.runs()):
        where = f"`nas rank {_named_study(study)} --rung 1` shows the lowest rung"
        return [f"No variant has reached the full recipe yet; {where}."]
    if not rows:
        return ["No variant has finished yet."]
    if base is None:
        return ["The baseline has not finished: there is nothing to compare these variants with yet."]
    best = find_winner(study, rows)
    above = rows.index(best)
    text = f"Compared {len(rows)} variants of {best.trial.variant.stock}."
    if len(rows) == 1:
        text = "Only the baseline has finished yet."
    elif best.trial.variant.is_baseline:
        text += f" No {'confirmed ' if above else ''}swap beats the baseline in {study.settings.goal.words}."
    else:
        gain = best.trial.map_per_gflop / base.map_per_gflop - 1 if base.map_per_gflop else 0.0
        text += (
            f" First: {best.trial.describe()}, with {gain:+.1%} mAP50-95 per GFLOP over the baseline"
            f" ({signed(best.delta_map or 0.0, 3)} mAP50-95, {signed(100 * (best.delta_gflops or 0), 1)} % GFLOPs)."
        )
        text += _verdict_words(best, study)
    unconfirmed = _unconfirmed(study, rows[:above])
    if unconfirmed:
        text += f" Above it with one seed: {len(unconfirmed)} variant{'s' * (len(unconfirmed) > 1)}, not confirmed."
    if failed := above - len(unconfirmed):
        text += f" Above it with one seed, but failed with another: {failed} variant{'s' * (failed > 1)}."
    if len(rows) > 1:
        text += _tally(rows)
    text = shown_task(base.variant.base).said(text)
    if base.map < 0.02:
        text += " The baseline has hardly learnt anything: train for more epochs before you trust the order."
    where = _where(study)
    if study.settings.table:
        return [text, f"Next:  nas search --study {study.location.name} --replay TABLE --trials 10   (10 more)"]
    unsure = len(rows) > 1 and all(r.seeds < LEAST_SEEDS for r in rows)
    further = "--confirm 3:3" if unsure else "--trials 10"
    if unconfirmed:
        further = f"--confirm {max(_reaching(study, unconfirmed), study.confirm.top)}:{study.confirm.seeds}"
    return [text, f"Next:  nas emit-yaml {where} --best -o out/", f"       nas search {where} {further}"]
