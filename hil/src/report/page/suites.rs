//! The suites: a timeline picture of each, and its scenarios with their steps.

use super::tracks::{self, Axis, Bar, Row};
use super::words::{soon, time};
use super::{anchor, verdict_mark};
use crate::events::{NetworkPaths, Verdict, Wrote};
use crate::report::Summary;
use crate::report::story::{Named, Ready, ScenarioStory, Span, Story, SuiteStory};
use markup::{Element, classed, el};

/// The words for a moment that never came.
const STILL: &str = "still so at the end";

/// A section for every suite.
pub(super) fn sections(story: &Story, summary: Option<&Summary>) -> Vec<Element> {
    let section = |(number, suite): (usize, &SuiteStory)| {
        let told = summary.and_then(|summary| summary.suites.iter().find(|told| told.name == suite.name));
        let scenarios = suite.scenarios.iter().enumerate().map(|(at, scenario)| {
            let why = told.and_then(|told| told.scenarios.iter().find(|told| told.name == scenario.name));
            let why = why.and_then(|told| told.why.as_deref());
            details(story, scenario, (number, at), why)
        });
        let mut section = el("section").child(el("h2").text(&suite.name));
        if let Some(told) = told {
            section = section.child(classed("p", "lead").text(&told.title));
        }
        if suite.scenarios.iter().any(|scenario| scenario.verdict != Some(Verdict::NotApplicable)) {
            section = section.child(picture(story, suite));
        }
        section.child(classed("div", "scenarios").all(scenarios))
    };
    story.suites.iter().enumerate().map(section).collect()
}

/// The timeline of a suite.
fn picture(story: &Story, suite: &SuiteStory) -> Element {
    let (from_ms, to_ms) = suite.span(story.end_ms);
    let applicable = suite.scenarios.iter().enumerate();
    let applicable = applicable.filter(|(_, scenario)| scenario.verdict != Some(Verdict::NotApplicable));
    let blocks = applicable.map(|(at, scenario)| {
        let (mark, class, words) = verdict_mark(scenario.verdict);
        Bar {
            from_ms: scenario.from_ms,
            to_ms: scenario.to_ms.unwrap_or(story.end_ms),
            class,
            title: format!("{}: {words}", scenario.name),
            label: format!("{} {mark}", at + 1),
        }
    });
    let mut rows = vec![Row::packed("scenarios", blocks.collect())];
    let faults = suite.scenarios.iter().flat_map(|scenario| fault_bars(story, scenario));
    rows.push(Row::packed("faults in force", faults.collect()));
    let named = suite.scenarios.iter().flat_map(|scenario| &scenario.named);
    rows.push(Row::packed(
        "named by the diagnosis",
        named.map(|named| named_bar(story, named, "")).collect(),
    ));
    rows.extend(write_row(story, from_ms, to_ms));
    rows.extend(path_rows(story, from_ms, to_ms));
    rows.extend(node_row(story, from_ms, to_ms));
    let faults = suite.scenarios.iter().map(|scenario| scenario.faults.len()).sum::<usize>();
    tracks::draw(
        Axis { from_ms, to_ms, zero_ms: 0 },
        &rows,
        &format!("Timeline of suite {}", suite.name),
        &format!(
            "{} scenarios and {faults} faults over {}; the list below says the same in words.",
            suite.scenarios.len(),
            time(to_ms.saturating_sub(from_ms))
        ),
    )
}

pub(super) fn fault_bars(story: &Story, scenario: &ScenarioStory) -> Vec<Bar> {
    let bar = |fault: &Span| Bar {
        from_ms: fault.from_ms,
        to_ms: fault.to_ms.unwrap_or(story.end_ms),
        class: "fault",
        title: fault.what.clone(),
        label: String::new(),
    };
    scenario.faults.iter().map(bar).collect()
}

pub(super) fn named_bar(story: &Story, named: &Named, label: &str) -> Bar {
    Bar {
        from_ms: named.span.from_ms,
        to_ms: named.span.to_ms.unwrap_or(story.end_ms),
        class: if named.lasting { "named" } else { "passing" },
        title: named.span.what.clone(),
        label: label.to_owned(),
    }
}

/// A row for every storage network: when all its ways carried, and when some or all were silent.
pub(super) fn path_rows(story: &Story, from_ms: u64, to_ms: u64) -> Vec<Row> {
    let mut networks: Vec<u8> =
        story.paths.iter().flat_map(|(_, paths)| paths.networks.iter().map(|paths| paths.network)).collect();
    networks.sort_unstable();
    networks.dedup();
    let row = |network: u8| {
        let ends = story.paths.iter().skip(1).map(|(at, _)| *at).chain([story.end_ms]);
        let mut bars: Vec<Bar> = Vec::new();
        for ((from, paths), to) in story.paths.iter().zip(ends) {
            let counted = paths.networks.iter().find(|counted| counted.network == network);
            let Some(bar) = counted.map(|counted| path_bar(counted, *from, to)) else { continue };
            match bars.last_mut().filter(|last| last.title == bar.title && last.to_ms == bar.from_ms) {
                Some(same) => same.to_ms = to,
                None => bars.push(bar),
            }
        }
        bars.retain(|bar| bar.to_ms > from_ms && bar.from_ms < to_ms);
        Row { caption: format!("storage network {network}, ways that carry"), lanes: vec![bars] }
    };
    networks.into_iter().map(row).collect()
}

/// When workloads' writes were acknowledged, and when they waited; nothing, if nothing was written then.
pub(super) fn write_row(story: &Story, from_ms: u64, to_ms: u64) -> Option<Row> {
    let bars = story.wrote.iter().flat_map(write_bars);
    let bars: Vec<Bar> = bars.filter(|bar| bar.to_ms > from_ms && bar.from_ms < to_ms).collect();
    (!bars.is_empty()).then(|| Row::packed("writes that are acknowledged", bars))
}

/// A run of the workload: what it wrote, parted by what it waited.
fn write_bars(wrote: &Wrote) -> Vec<Bar> {
    let Wrote { node, run, acknowledged, .. } = wrote;
    let wrote_bar = |from_ms, to_ms, label: &str| Bar {
        from_ms,
        to_ms,
        class: "carries",
        title: format!("run {run} on {node}, {acknowledged} writes in all"),
        label: label.to_owned(),
    };
    let mut bars = Vec::new();
    let mut from_ms = wrote.from_ms;
    for stall in &wrote.stalls {
        let waited = time(stall.to_ms.saturating_sub(stall.from_ms));
        bars.push(wrote_bar(from_ms, stall.from_ms, node));
        bars.push(Bar {
            from_ms: stall.from_ms,
            to_ms: stall.to_ms,
            class: "silent",
            title: format!("run {run} on {node}: nothing is acknowledged for {waited}"),
            label: waited,
        });
        from_ms = stall.to_ms;
    }
    bars.push(wrote_bar(from_ms, wrote.to_ms, node));
    bars.retain(|bar| bar.to_ms > bar.from_ms);
    bars
}

fn path_bar(counted: &NetworkPaths, from_ms: u64, to_ms: u64) -> Bar {
    let ways = counted.carrying + counted.silent;
    let (class, title) = match (counted.silent, counted.carrying) {
        (0, _) => ("carries", format!("all {ways} ways carry")),
        (_, 0) => ("silent", format!("all {ways} ways are silent")),
        (silent, _) => ("partly", format!("{silent} of {ways} ways are silent")),
    };
    let label = if counted.silent > 0 { format!("{} silent", counted.silent) } else { String::new() };
    Bar { from_ms, to_ms, class, title, label }
}

/// A lane for every machine: since when its agent answers, and when it did not report.
fn node_row(story: &Story, from_ms: u64, to_ms: u64) -> Option<Row> {
    let lane = |ready: &Ready| {
        let mut bars = vec![Bar {
            from_ms: ready.at_ms,
            to_ms: story.end_ms,
            class: "up",
            title: format!("{} answers", ready.node),
            label: ready.node.clone(),
        }];
        let ends = story.paths.iter().skip(1).map(|(at, _)| *at).chain([story.end_ms]);
        for ((from, paths), to) in story.paths.iter().zip(ends) {
            if paths.not_reporting.contains(&ready.node) && to > from_ms && *from < to_ms {
                bars.push(Bar {
                    from_ms: *from,
                    to_ms: to,
                    class: "silent",
                    title: format!("{} does not report", ready.node),
                    label: String::new(),
                });
            }
        }
        bars
    };
    let mut nodes: Vec<&Ready> = story.ready.iter().collect();
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    (!nodes.is_empty()).then(|| Row {
        // Without a word on who reports, the log holds only when they first answered.
        caption: if story.paths.is_empty() {
            "machines, since they answered"
        } else {
            "machines that report"
        }
        .to_owned(),
        lanes: nodes.into_iter().map(lane).collect(),
    })
}

/// One scenario, to be unfolded: open where something did not hold.
fn details(story: &Story, scenario: &ScenarioStory, place: (usize, usize), why: Option<&str>) -> Element {
    let (mark, class, words) = verdict_mark(scenario.verdict);
    let mut times = vec![time(scenario.took_ms(story.end_ms))];
    times.extend(scenario.named_after_ms().map(|ms| format!("named after {}", time(ms))));
    times.extend(scenario.well_after_ms().map(|ms| format!("well {}", soon(ms))));
    if scenario.verdict == Some(Verdict::NotApplicable) {
        times = why.map(ToOwned::to_owned).into_iter().collect();
    }
    let head = el("summary")
        .child(classed("span", format!("mark {class}")).with("aria-label", words).text(mark))
        .child(classed("span", "name").text(format!("{}  {}", place.1 + 1, scenario.name)))
        .child(classed("span", "times").text(times.join(" · ")));
    let mut details = el("details").with("id", anchor(place)).child(head);
    if scenario.failure().is_some() {
        details = details.with("open", "");
    }
    if scenario.steps.is_empty() && scenario.faults.is_empty() {
        return details.child(classed("p", "quiet").text(why.unwrap_or("no step was taken")));
    }
    if !scenario.faults.is_empty() {
        details = details.child(zoom(story, scenario)).child(named_list(scenario));
    }
    details.child(steps(scenario))
}

/// The timeline of one scenario, counted from its first fault.
fn zoom(story: &Story, scenario: &ScenarioStory) -> Element {
    let from_ms = scenario.from_ms;
    let gone = scenario.named.iter().filter_map(|named| named.span.to_ms).max().unwrap_or(0);
    let to_ms = scenario.to_ms.unwrap_or(story.end_ms).max(gone);
    let zero_ms = scenario.faults.iter().map(|fault| fault.from_ms).min().unwrap_or(from_ms);
    let ended = scenario.steps.iter().map(|step| Bar {
        from_ms: step.at_ms.saturating_sub(step.took_ms),
        to_ms: step.at_ms,
        class: if step.good { "held" } else { "failed" },
        title: step.step.clone(),
        label: String::new(),
    });
    let letters = (1..).zip(&scenario.named);
    let named = letters.map(|(number, named)| named_bar(story, named, &letter(number)));
    let mut rows = vec![
        Row::packed("faults in force", fault_bars(story, scenario)),
        Row::packed("named", named.collect()),
    ];
    rows.extend(write_row(story, from_ms, to_ms));
    rows.extend(path_rows(story, from_ms, to_ms));
    rows.push(Row::packed("steps", ended.collect()));
    tracks::draw(
        Axis { from_ms, to_ms, zero_ms },
        &rows,
        &format!("Timeline of scenario {}", scenario.name),
        "Seconds since the first fault. The lists below say the same in words.",
    )
}

/// a, b, …, z, and numbers beyond.
fn letter(number: u32) -> String {
    let letter = number.checked_sub(1).and_then(|at| char::from_u32('a' as u32 + at));
    letter.filter(|_| number <= 26).map_or_else(|| number.to_string(), |letter| letter.to_string())
}

/// What was broken and what was named, with times since the first fault.
fn named_list(scenario: &ScenarioStory) -> Element {
    let zero = scenario.faults.iter().map(|fault| fault.from_ms).min().unwrap_or(scenario.from_ms);
    let since = |ms: u64| time(ms.saturating_sub(zero));
    let row = |label: String, class: &str, what: &str, from: u64, to: Option<u64>| {
        el("tr")
            .child(classed("td", "sign").child(classed("span", format!("key {class}")).text(label)))
            .child(classed("td", "words").text(what))
            .child(classed("td", "number").text(format!("+{}", since(from))))
            .child(classed("td", "number").text(to.map_or(STILL.to_owned(), |to| format!("+{}", since(to)))))
    };
    let faults = scenario.faults.iter();
    let faults = faults.map(|fault| row("✕".to_owned(), "fault", &fault.what, fault.from_ms, fault.to_ms));
    let named = (1..).zip(&scenario.named).map(|(number, named)| {
        let class = if named.lasting { "named" } else { "passing" };
        row(letter(number), class, &named.span.what, named.span.from_ms, named.span.to_ms)
    });
    let heads = ["", "broken ✕, then named", "from", "until"];
    table(heads, faults.chain(named))
}

fn steps(scenario: &ScenarioStory) -> Element {
    let rows = scenario.steps.iter().map(|step| {
        let verdict = if step.good { Verdict::Passed } else { Verdict::Failed };
        let (mark, class, words) = verdict_mark(Some(verdict));
        let mark = classed("span", format!("mark {class}")).with("aria-label", words).text(mark);
        let what = classed("td", "words").child(classed("div", "step").text(&step.step));
        el("tr")
            .child(classed("td", "sign").child(mark))
            .child(what.child(classed("div", "seen").text(&step.seen)))
            .child(classed("td", "number").text(time(step.took_ms)))
    });
    table(["", "step, and what was seen", "took"], rows)
}

/// A table that fills its place.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = Element>) -> Element {
    let heads = heads.map(|head| el("th").with("scope", "col").text(head));
    el("table").child(el("thead").child(el("tr").all(heads))).child(el("tbody").all(rows))
}
