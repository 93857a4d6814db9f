//! `report.html`: one page that shows a run.
//!
//! Purpose: [`page`] draws a run from its event log, with its summary for what the log doesn't hold (titles, environment,
//! notes). In ten seconds one should see what was broken, when it was named, and that all was well again; the rest is
//! below, unfolded where something did not hold.
//!
//! Invariants: pure; one file without script or outside reference; everything that a run says is escaped
//! (the crate `markup`); colours are told apart by the colour-blind (those of Okabe and Ito) and never say anything alone; nothing is
//! shown as measured that the log doesn't hold.

mod measured;
mod overview;
mod suites;
mod topology;
mod tracks;
pub(crate) mod words;

use super::Summary;
use super::story::Story;
use crate::events::{Topology, Verdict};
use markup::{Element, classed, el};
use suites::table;
use topology::Width;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(story: &Story, summary: Option<&Summary>) -> String {
    let main = el("main")
        .child(overview::header(story, summary))
        .child(overview::tiles(story))
        .all(overview::failures(story, summary))
        .child(overview::broken(story))
        .child(overview::whole_run(story))
        .child(cabling(story.topology.as_ref()))
        .all(suites::sections(story, summary))
        .child(measured::round_trips(&story.round_trips))
        .child(measured::counters(story.counters.as_ref()))
        .child(overview::environment(story, summary));
    markup::document(&format!("twinrack run {}", story.run), STYLE, &main)
}

/// A mark, a class and a word for a verdict.
fn verdict_mark(verdict: Option<Verdict>) -> (&'static str, &'static str, &'static str) {
    match verdict {
        Some(Verdict::Passed) => ("✓", "passed", "passed"),
        Some(Verdict::Failed) => ("✗", "failed", "failed"),
        Some(Verdict::NotApplicable) => ("–", "na", "not applicable"),
        None => ("?", "na", "not ended"),
    }
}

/// Where a scenario is on the page: the suite's and the scenario's number.
fn anchor((suite, scenario): (usize, usize)) -> String {
    format!("s{}-{}", suite + 1, scenario + 1)
}

fn cabling(topology: Option<&Topology>) -> Element {
    let section = el("section").child(el("h2").text("Cabling, as discovered"));
    let Some(topology) = topology else {
        return section.child(classed("p", "quiet").text("The log of this run holds no cabling."));
    };
    let rows = topology.nodes.iter().flat_map(|node| {
        node.nics.iter().map(|nic| {
            let (switch, port) = match &nic.port {
                Some(port) => {
                    let name = port.name.as_deref().map(|name| format!("{name} ")).unwrap_or_default();
                    (format!("{name}({})", port.chassis), port.port.clone())
                }
                None => ("no neighbour".to_owned(), String::new()),
            };
            let cells = [node.node.clone(), nic.adapter.clone(), switch, port];
            el("tr").all(cells.map(|cell| classed("td", "words").text(cell)))
        })
    });
    section
        .child(classed("p", "lead").text(format!("{}.", topology.wiring)))
        .child(topology::draw(topology, Width::Phone))
        .child(topology::draw(topology, Width::Desktop))
        .child(classed("p", "legend").text(
            "Solid: heard from the switch by LLDP. Broken: inferred from which NICs share a network; no NIC hears it.",
        ))
        .child(
            el("details")
                .child(el("summary").text("Every cable in words"))
                .child(table(["machine", "NIC", "switch", "port"], rows).with("class", "plain")),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, Record};
    use crate::report::story::{Unread, tests::example};

    fn story(records: &[Record]) -> Story {
        Story::of(records, Unread::default()).unwrap()
    }

    #[test]
    fn a_small_run() {
        let summary = crate::report::tests::example();
        let text = page(&story(&example()), Some(&summary));
        insta::assert_snapshot!(text.replace(STYLE, ""));
    }

    #[test]
    fn a_run_that_was_killed_has_a_page() {
        let records = example();
        for length in 1..records.len() {
            let text = page(&story(&records[..length]), None);
            assert!(text.ends_with("</html>\n"), "{length}");
        }
    }

    #[test]
    fn what_a_run_says_stays_text() {
        let hostile = "<script>alert(1)</script>\"'>\u{0}\u{1b}";
        let rename = |record: Record| {
            let text = serde_json::to_string(&record).unwrap();
            let words = [
                "sw-a1",
                "off, room 1",
                "after 197 ms",
                "tor-loss",
                "storage1",
                "rack-a",
                "20260101T000000-7",
            ];
            let quoted = serde_json::to_string(hostile).unwrap();
            let text = words.iter().fold(text, |text, word| text.replace(word, quoted.trim_matches('"')));
            serde_json::from_str(&text).unwrap()
        };
        let records: Vec<Record> = example().into_iter().map(rename).collect();
        let text = page(&story(&records), None);
        assert!(text.contains("&lt;script&gt;"));
        assert!(!text.contains("<script") && !text.contains('\u{1b}') && !text.contains('\0'));
    }

    #[test]
    fn a_hundred_scenarios_stay_below_a_megabyte() {
        let mut records = Vec::new();
        for round in 0..34 {
            for mut record in example() {
                let once = matches!(record.event, Event::RunStarted { .. } | Event::RunEnded { .. });
                if !once || round == 0 {
                    record.at_ms += round * 16_000;
                    records.push(record);
                }
            }
        }
        let text = page(&story(&records), None);
        assert!(text.len() < 1_000_000, "{} bytes", text.len());
    }

    #[test]
    fn the_page_asks_nobody_for_anything() {
        let text = page(&story(&example()), None);
        for word in ["http", "src=", "@import", "url("] {
            assert!(!text.contains(word), "{word}");
        }
    }
}
