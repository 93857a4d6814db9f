//! What was measured: histograms of round trips, and what went over the cables.

use super::suites::table;
use super::words::{bytes, count, micros, several};
use crate::events::{Cables, Counters, RoundTrips};
use markup::{Element, classed, el};

/// Pixels of the highest column, and of what is below it.
const HEIGHT: u64 = 72;
const FOOT: u64 = 20;

/// A histogram for every network, inside the rooms and between them.
pub(super) fn round_trips(all: &[RoundTrips]) -> Element {
    let section = el("section").child(el("h2").text("Round trips"));
    if all.is_empty() {
        return section.child(classed("p", "quiet").text("The log of this run holds no round trips."));
    }
    section
        .child(classed("p", "lead").text(
            "Probes by how long they took, on a logarithmic scale. Times are taken on the nodes: of emulated processors they \
             say how busy the host was, too.",
        ))
        .child(classed("div", "histograms").all(all.iter().map(one)))
}

fn one(trips: &RoundTrips) -> Element {
    let place = if trips.inside_a_room { "inside a room" } else { "between the rooms" };
    let name = format!("{}, {place}", trips.over);
    let or_none = |us: Option<u64>| us.map_or("–".to_owned(), micros);
    let numbers = [
        ("shortest", or_none(trips.min_us)),
        ("worst median", or_none(trips.worst_median_us)),
        ("worst 99th percentile", or_none(trips.worst_p99_us)),
        ("longest", or_none(trips.max_us)),
    ];
    let lost = if trips.lost == 0 { "none lost".to_owned() } else { format!("{} lost", count(trips.lost)) };
    let of = format!(
        "{} on {}, {lost}",
        several_counted(trips.answered, "answer"),
        several(trips.ways as usize, "way")
    );
    let mut figure =
        classed("div", "histogram").child(el("h3").text(&name)).child(classed("p", "quiet").text(of));
    if !trips.buckets.is_empty() {
        figure = figure.child(columns(trips, &name));
    }
    let facts = numbers.into_iter().flat_map(|(name, value)| [el("dt").text(name), el("dd").text(value)]);
    figure.child(classed("dl", "facts-list").all(facts))
}

/// `1 234 answers`.
fn several_counted(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {one}s", count(number)) }
}

/// Columns side by side: the buckets' bounds are evenly apart on a logarithmic scale.
fn columns(trips: &RoundTrips, name: &str) -> Element {
    let highest = trips.buckets.iter().map(|bucket| bucket.probes).max().unwrap_or(1).max(1);
    let number = trips.buckets.len() as u64;
    let place = |at: u64| format!("{}.{:02}%", at * 100 / number, at * 10_000 / number % 100);
    // Few enough that they don't touch on a phone.
    let every = number.div_ceil(6).max(1);
    let column = |(at, bucket): (u64, &crate::events::Bucket)| {
        // What is there is seen, be it one among thousands.
        let height = if bucket.probes == 0 { 0 } else { (bucket.probes * HEIGHT / highest).max(2) };
        let bound = bucket.up_to_us.map_or("longer".to_owned(), |us| format!("up to {}", micros(us)));
        let shape = el("rect")
            .with("x", place(at))
            .with("width", place(1))
            .with("y", HEIGHT - height)
            .with("height", height);
        let title = el("title").text(format!("{bound}: {}", several_counted(bucket.probes, "probe")));
        let mut group = classed("g", "column").child(title).child(shape);
        if at % every == every - 1 || number == 1 {
            let bound = bucket.up_to_us.map_or("more".to_owned(), micros);
            let text = classed("text", "tick").with("x", place(at + 1)).with("y", HEIGHT + 15);
            group = group.child(text.with("text-anchor", "end").text(bound));
        }
        group
    };
    let bounds = (trips.buckets.first(), trips.buckets.last());
    let bound = |bucket: Option<&crate::events::Bucket>| {
        bucket.and_then(|bucket| bucket.up_to_us).map_or("more".to_owned(), micros)
    };
    classed("svg", "columns")
        .with("width", "100%")
        .with("height", HEIGHT + FOOT)
        .with("role", "img")
        .child(el("title").text(format!("Histogram of round trips, {name}")))
        .child(el("desc").text(format!("Buckets from {} to {}.", bound(bounds.0), bound(bounds.1))))
        .all((0..).zip(&trips.buckets).map(column))
        .child(classed("line", "axis").with("x1", 0).with("x2", "100%").with("y1", HEIGHT).with("y2", HEIGHT))
}

/// What went over the cables, by their kind.
pub(super) fn counters(counters: Option<&Counters>) -> Element {
    let section = el("section").child(el("h2").text("Frames on the cables"));
    let Some(counters) = counters else {
        return section.child(classed("p", "quiet").text("The log of this run holds no counters."));
    };
    let most = counters.carried.iter().map(|class| class.frames).max().unwrap_or(1).max(1);
    let rows = counters.carried.iter().map(|class| {
        let share = class.frames.saturating_mul(1000) / most;
        let bar = classed("span", "share").with("style", format!("width:{}.{}%", share / 10, share % 10));
        el("tr")
            .child(classed("td", "words").text(words(class.cables)))
            .child(classed("td", "number").text(class.vlan))
            .child(classed("td", "number").text(class.pcp))
            .child(classed("td", "number bar").text(count(class.frames)).child(bar))
            .child(classed("td", "number").text(bytes(class.bytes)))
    });
    let section = section
        .child(classed("p", "lead").text(
            "Frames that arrived since the lab's switches were started, by VLAN and priority; each is counted on every cable.",
        ))
        .child(table(["cables", "VLAN", "priority", "frames", "bytes"], rows).with("class", "numbers"));
    if counters.dropped.is_empty() {
        return section.child(classed("p", "quiet").text("No frame was dropped."));
    }
    let dropped = counters.dropped.iter().map(|drop| {
        el("tr")
            .child(classed("td", "words").text(words(drop.cables)))
            .child(classed("td", "words").text(drop.reason.replace('-', " ")))
            .child(classed("td", "number").text(count(drop.frames)))
    });
    section.child(el("h3").text("Dropped")).child(table(["cables", "why", "frames"], dropped))
}

fn words(cables: Cables) -> &'static str {
    match cables {
        Cables::Node => "machine to switch",
        Cables::Switch => "switch to switch",
        Cables::Spine => "spine",
    }
}
