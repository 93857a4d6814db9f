//! What one sees first: whether all held, what was broken, when it was named; and at the very end where it ran.

use super::tracks::{self, Axis, Bar, Row};
use super::words::{several, time};
use super::{anchor, suites, verdict_mark};
use crate::events::Verdict;
use crate::report::Summary;
use crate::report::story::{ScenarioStory, Story};
use markup::{Element, classed, el};

/// Shown where there is nothing to show.
const NOTHING: &str = "–";

/// The verdict and what was run.
pub(super) fn header(story: &Story, summary: Option<&Summary>) -> Element {
    let failed = story.count(Verdict::Failed);
    let (mark, class, words) = match story.good {
        Some(true) => ("✓", "passed", "Good: everything held".to_owned()),
        Some(false) if failed > 0 => {
            ("✗", "failed", format!("Not good: {} failed", several(failed, "scenario")))
        }
        Some(false) => ("✗", "failed", "Not good: the run did not come to its end".to_owned()),
        None => ("?", "na", "Unknown: the log ends before the run".to_owned()),
    };
    let mut facts = vec![format!("shape {}", story.shape), format!("seed {}", story.seed)];
    if let Some(summary) = summary {
        facts.insert(0, format!("cluster {}", summary.cluster));
        facts.push(summary.started.replace('T', " ").replace('Z', " UTC"));
    }
    facts.push(format!("{} in all", time(story.end_ms)));
    el("header")
        .child(classed("p", "run").text(format!("twinrack run {}", story.run)))
        .child(
            el("h1")
                .child(classed("span", format!("mark {class}")).with("aria-hidden", "true").text(mark))
                .text(words),
        )
        .child(classed("p", "facts").text(facts.join(" · ")))
}

/// The few numbers that matter.
pub(super) fn tiles(story: &Story) -> Element {
    let broken: Vec<&ScenarioStory> = with_faults(story).map(|(_, scenario)| scenario).collect();
    let faults: usize = broken.iter().map(|scenario| scenario.faults.len()).sum();
    // What was named where a step did not hold may be something else than what was broken.
    let held = || broken.iter().filter(|scenario| scenario.verdict == Some(Verdict::Passed));
    let slowest = |read: fn(&ScenarioStory) -> Option<u64>| {
        held().filter_map(|scenario| read(scenario)).max().map_or(NOTHING.to_owned(), time)
    };
    let named = held().filter(|scenario| scenario.named_after_ms().is_some()).count();
    let well = broken.iter().filter(|scenario| scenario.well_after_ms().is_some()).count();
    let (passed, not_applicable) = (story.count(Verdict::Passed), story.count(Verdict::NotApplicable));
    let ran = story.scenarios().count() - not_applicable;
    let besides = match (ran, not_applicable) {
        (0, 0) => "none was run".to_owned(),
        (_, 0) => "all applicable".to_owned(),
        (_, others) => format!("{others} not applicable"),
    };
    let tile = |number: String, what: &str, small: String| {
        classed("li", "tile")
            .child(classed("span", "big").text(number))
            .child(classed("span", "what").text(what))
            .child(classed("span", "small").text(small))
    };
    classed("ul", "tiles").all([
        tile(format!("{passed} of {ran}"), "scenarios passed", besides),
        tile(faults.to_string(), "faults made", format!("in {}", several(broken.len(), "scenario"))),
        tile(
            slowest(ScenarioStory::named_after_ms),
            "slowest to be named",
            format!("named in {named} of {}", several(broken.len(), "scenario")),
        ),
        tile(
            slowest(ScenarioStory::well_after_ms),
            "slowest to be well again",
            format!("well again in {well} of {}", several(broken.len(), "scenario")),
        ),
    ])
}

/// What did not hold, if anything.
pub(super) fn failures(story: &Story, summary: Option<&Summary>) -> Option<Element> {
    let mut items: Vec<Element> = Vec::new();
    if let Some(why) = summary.and_then(|summary| summary.aborted.as_ref()) {
        items.push(el("li").child(el("strong").text("The run was aborted: ")).text(why));
    }
    for (suite, scenario, place) in placed(story) {
        if let Some(step) = scenario.failure() {
            let link = el("a").with("href", format!("#{}", anchor(place)));
            items.push(
                el("li")
                    .child(link.text(format!("{}: {}", suite, scenario.name)))
                    .child(classed("div", "step").text(format!("did not hold: {}", step.step)))
                    .child(classed("div", "seen").text(&step.seen)),
            );
        }
    }
    let unread = story.unread;
    if unread.unknown > 0 {
        let lines = several(unread.unknown, "line");
        items.push(
            el("li").text(format!("{lines} of the log are of a kind that this version does not know.")),
        );
    }
    if unread.cut_off {
        items.push(el("li").text("The log's last line is cut off."));
    }
    (!items.is_empty()).then(|| {
        classed("section", "failures").child(el("h2").text("What did not hold")).child(el("ul").all(items))
    })
}

/// What was broken, when it was named, when all was well again.
pub(super) fn broken(story: &Story) -> Element {
    let section = el("section").child(el("h2").text("What was broken"));
    let rows: Vec<Element> = placed(story)
        .filter(|(_, scenario, _)| !scenario.faults.is_empty())
        .map(|(_, scenario, place)| broken_row(scenario, place))
        .collect();
    if rows.is_empty() {
        return section.child(classed("p", "quiet").text("Nothing was broken in this run."));
    }
    let head = classed("li", "head").with("aria-hidden", "true").all(
        ["", "fault", "answer of the diagnosis", "named after", "well after"]
            .map(|word| el("span").text(word)),
    );
    section.child(classed("ol", "broken").child(head).all(rows))
}

fn broken_row(scenario: &ScenarioStory, place: (usize, usize)) -> Element {
    let (mark, class, words) = verdict_mark(scenario.verdict);
    let faults: Vec<&str> = scenario.faults.iter().map(|fault| fault.what.as_str()).collect();
    let cell = |class: &str, caption: &str, value: String| {
        classed("span", class).child(classed("span", "caption").text(caption)).text(value)
    };
    let or_nothing = |ms: Option<u64>| match ms {
        None => NOTHING.to_owned(),
        Some(0) => "at once".to_owned(),
        Some(ms) => time(ms),
    };
    el("li")
        .child(classed("span", format!("mark {class}")).with("aria-label", words).text(mark))
        .child(
            classed("a", "fault-words").with("href", format!("#{}", anchor(place))).text(faults.join("\n")),
        )
        .child(classed("span", "answer").text(answer(scenario)))
        .child(cell("number", "named after: ", or_nothing(scenario.named_after_ms())))
        .child(cell("number", "well after: ", or_nothing(scenario.well_after_ms())))
}

/// What the cluster said to a scenario's faults: the losses that stayed named; without any, what the next step saw.
fn answer(scenario: &ScenarioStory) -> String {
    let lasting: Vec<&str> =
        scenario.named.iter().filter(|named| named.lasting).map(|named| named.span.what.as_str()).collect();
    if !lasting.is_empty() {
        let failed = scenario.failure().map(|step| format!("\n(did not hold: {})", step.step));
        return lasting.join("\n") + &failed.unwrap_or_default();
    }
    let last = scenario.faults.iter().map(|fault| fault.from_ms).max().unwrap_or(0);
    let is_fault = |seen: &str| scenario.faults.iter().any(|fault| seen.contains(&fault.what));
    let next = scenario.steps.iter().find(|step| step.at_ms >= last && !is_fault(&step.seen));
    match next {
        Some(step) if step.good => format!("{}, after {}", step.step, time(step.took_ms)),
        Some(step) => format!("did not hold: {}", step.step),
        None => NOTHING.to_owned(),
    }
}

/// The whole run in one picture.
pub(super) fn whole_run(story: &Story) -> Element {
    let end = story.end_ms;
    let phases = story.phases.iter().map(|phase| Bar {
        from_ms: phase.from_ms,
        to_ms: phase.to_ms.unwrap_or(end),
        class: "phase",
        title: format!("{}, {}", phase.what, time(phase.to_ms.unwrap_or(end).saturating_sub(phase.from_ms))),
        label: phase.what.clone(),
    });
    let ran = story.suites.iter().filter_map(|suite| {
        let (from_ms, to_ms) = suite.span(end);
        let failed = suite.scenarios.iter().any(|scenario| scenario.verdict == Some(Verdict::Failed));
        let class = if failed { "failed" } else { "passed" };
        let bar = Bar { from_ms, to_ms, class, title: suite.name.clone(), label: suite.name.clone() };
        (to_ms > from_ms).then_some(bar)
    });
    let faults = with_faults(story).flat_map(|(_, scenario)| suites::fault_bars(story, scenario));
    let named = story.scenarios().flat_map(|(_, scenario)| &scenario.named).chain(&story.elsewhere);
    let named = named.map(|named| {
        let mut bar = suites::named_bar(story, named, "");
        bar.label.clear();
        bar
    });
    // In the whole run's picture what is named stands in one lane: that it is, not what.
    let named = Row { caption: "named by the diagnosis".to_owned(), lanes: vec![named.collect()] };
    let mut rows = vec![
        Row::packed("phases", phases.collect()),
        Row::packed("suites", ran.collect()),
        Row::packed("faults in force", faults.collect()),
    ];
    rows.extend((!named.lanes[0].is_empty()).then_some(named));
    rows.extend(suites::path_rows(story, 0, end));
    let phases: Vec<String> = story
        .phases
        .iter()
        .map(|phase| {
            format!("{} {}", phase.what, time(phase.to_ms.unwrap_or(end).saturating_sub(phase.from_ms)))
        })
        .collect();
    let axis = Axis { from_ms: 0, to_ms: end, zero_ms: 0 };
    el("section")
        .child(el("h2").text("The whole run"))
        .child(classed("p", "lead").text(phases.join(" · ")))
        .child(tracks::draw(axis, &rows, "Timeline of the whole run", &phases.join(", ")))
        .child(legend())
}

fn legend() -> Element {
    let entries = [
        ("fault", "a fault is in force"),
        ("named", "named, and still so when it was mended"),
        ("passing", "named on the way"),
        ("carries", "all ways carry"),
        ("partly", "some ways are silent"),
        ("silent", "all ways are silent"),
    ];
    classed("p", "legend").all(entries.map(|(class, words)| {
        classed("span", "entry").child(classed("span", format!("key {class}"))).text(words)
    }))
}

/// Where it ran, what to know, and how to do it again.
pub(super) fn environment(story: &Story, summary: Option<&Summary>) -> Element {
    let mut section = el("section").child(el("h2").text("Where it ran, and how to do it again"));
    section = section.child(classed("pre", "replay").text(&story.replay));
    let ready: Vec<String> =
        story.ready.iter().map(|ready| format!("{} {}", ready.node, time(ready.took_ms))).collect();
    let mut facts = vec![("answered after power-on", ready.join(" · "))];
    if let Some(summary) = summary {
        let environment = &summary.environment;
        facts.push(("processors", environment.accelerator.clone()));
        facts.push(("kernel of the nodes", environment.kernel.clone()));
        facts.push(("node image", environment.image.clone()));
    }
    let list = facts.into_iter().filter(|(_, value)| !value.is_empty());
    section = section.child(
        classed("dl", "facts-list")
            .all(list.flat_map(|(name, value)| [el("dt").text(name), el("dd").text(value)])),
    );
    match summary {
        Some(summary) if !summary.notes.is_empty() => section
            .child(el("h3").text("Notes"))
            .child(classed("ul", "notes").all(summary.notes.iter().map(|note| el("li").text(note)))),
        Some(_) => section,
        None => {
            section.child(classed("p", "quiet").text("This run left no summary: it did not come to its end."))
        }
    }
}

/// All scenarios with their suite's name and their place.
fn placed(story: &Story) -> impl Iterator<Item = (&str, &ScenarioStory, (usize, usize))> {
    story.suites.iter().enumerate().flat_map(|(number, suite)| {
        let scenarios = suite.scenarios.iter().enumerate();
        scenarios.map(move |(at, scenario)| (suite.name.as_str(), scenario, (number, at)))
    })
}

fn with_faults(story: &Story) -> impl Iterator<Item = (&str, &ScenarioStory)> {
    let broken = placed(story).filter(|(_, scenario, _)| !scenario.faults.is_empty());
    broken.map(|(suite, scenario, _)| (suite, scenario))
}
