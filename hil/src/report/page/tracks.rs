//! A timeline picture: rows of bars over a time axis.
//!
//! Invariants: the picture is as wide as its place, whatever that is: what stands along the time axis is placed in percent,
//! what stands across it in pixels, so that text is never scaled. Times outside the axis are cut off at its ends.

use markup::{Element, classed, el};

/// Pixels of a row's caption, of a lane, and from one lane to the next.
const CAPTION: u32 = 17;
const LANE: u32 = 13;
const PITCH: u32 = 16;
/// Pixels below a row, and of the axis.
const GAP: u32 = 7;
const AXIS: u32 = 22;
/// The narrowest bar, in hundredths of a percent: two pixels on a phone.
const NARROWEST: u64 = 60;
/// Marks on the time axis at most: on a phone there is no place for more.
const TICKS_MAX: u64 = 6;
/// Between two marks, milliseconds.
const TICK_STEPS: [u64; 16] = [
    50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000,
    1_800_000, 3_600_000,
];
/// Widths that a label must fit into to be shown, pixels: on a phone, and on a desktop.
const PHONE: u64 = 320;
const DESKTOP: u64 = 960;

/// The time that a picture is about, milliseconds since the run's start.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "units are part of names")]
pub(super) struct Axis {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    /// What counts as zero on the axis.
    pub(super) zero_ms: u64,
}

/// One thing on a row.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    /// How it looks: a class of the style sheet.
    pub(super) class: &'static str,
    /// What it is, for whoever points at it.
    pub(super) title: String,
    /// What is written on it where it fits; empty: nothing.
    pub(super) label: String,
}

/// A row of the picture.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) caption: String,
    pub(super) lanes: Vec<Vec<Bar>>,
}

impl Row {
    /// A row whose bars don't touch: as few lanes as that takes. Bars are taken in their order of time.
    pub(super) fn packed(caption: impl Into<String>, mut bars: Vec<Bar>) -> Self {
        bars.sort_by_key(|bar| (bar.from_ms, bar.to_ms));
        let mut lanes: Vec<Vec<Bar>> = Vec::new();
        for bar in bars {
            let free = |lane: &&mut Vec<Bar>| lane.last().is_none_or(|last| last.to_ms <= bar.from_ms);
            match lanes.iter_mut().find(free) {
                Some(lane) => lane.push(bar),
                None => lanes.push(vec![bar]),
            }
        }
        Self { caption: caption.into(), lanes }
    }
}

impl Axis {
    /// Where a time is, in hundredths of a percent.
    fn place(self, ms: u64) -> u64 {
        let span = (self.to_ms - self.from_ms).max(1);
        ms.clamp(self.from_ms, self.to_ms).saturating_sub(self.from_ms) * 10_000 / span
    }

    /// The marks: their times, and how far apart they are.
    fn ticks(self) -> (Vec<u64>, u64) {
        let span = self.to_ms.saturating_sub(self.from_ms);
        let longest = TICK_STEPS[TICK_STEPS.len() - 1];
        // A run of days has steps of as many hours as it takes.
        let step = TICK_STEPS.into_iter().find(|step| span / step < TICKS_MAX);
        let step = step.unwrap_or_else(|| (span / TICKS_MAX).div_ceil(longest) * longest);
        let first = self.zero_ms + self.from_ms.saturating_sub(self.zero_ms).div_ceil(step) * step;
        let ticks = (0..=TICKS_MAX).map(|number| first + number * step);
        (ticks.take_while(|at| *at <= self.to_ms).collect(), step)
    }
}

/// Draws the rows. `title` and `description` are for those who can't see the picture.
pub(super) fn draw(axis: Axis, rows: &[Row], title: &str, description: &str) -> Element {
    let mut y = 2;
    let mut drawn = Vec::new();
    for row in rows.iter().filter(|row| !row.lanes.is_empty()) {
        drawn.push(classed("text", "caption").with("x", 0).with("y", y + 11).text(&row.caption));
        y += CAPTION;
        for lane in &row.lanes {
            drawn.push(
                classed("rect", "lane").with("x", 0).with("y", y).with("width", "100%").with("height", LANE),
            );
            drawn.extend(lane.iter().map(|bar| draw_bar(axis, bar, y)));
            y += PITCH;
        }
        y += GAP;
    }
    let (grid, labels) = draw_axis(axis, y);
    classed("svg", "timeline")
        .with("width", "100%")
        .with("height", y + AXIS)
        .with("role", "img")
        .child(el("title").text(title))
        .child(el("desc").text(description))
        .child(el("g").all(grid))
        .child(el("g").all(drawn))
        .child(el("g").all(labels))
}

fn draw_bar(axis: Axis, bar: &Bar, y: u32) -> Element {
    let from = axis.place(bar.from_ms).min(10_000 - NARROWEST);
    let width = axis.place(bar.to_ms).saturating_sub(from).max(NARROWEST);
    let shape = el("rect")
        .with("x", percent(from))
        .with("y", y)
        .with("width", percent(width))
        .with("height", LANE)
        .with("rx", 2);
    let group = classed("g", bar.class).child(el("title").text(&bar.title)).child(shape);
    let fits = |pixels: u64| width * pixels / 10_000 >= bar.label.chars().count() as u64 * 7 + 4;
    if bar.label.is_empty() || !fits(DESKTOP) {
        return group;
    }
    let class = if fits(PHONE) { "label" } else { "label wide" };
    // What stands over the whole width is a lane's name.
    let place = if width == 10_000 { (0, 6) } else { (from + width / 2, 0) };
    let text = classed("text", if width == 10_000 { "label first" } else { class });
    let text = text.with("x", percent(place.0)).with("dx", place.1).with("y", y + LANE - 3);
    group.child(text.text(&bar.label))
}

/// The lines behind the bars, and the times below them.
fn draw_axis(axis: Axis, height: u32) -> (Vec<Element>, Vec<Element>) {
    let (ticks, step) = axis.ticks();
    let mut lines = Vec::new();
    let mut labels = Vec::new();
    for at in ticks {
        let x = axis.place(at);
        let (place, anchor) = match x {
            0..300 => (x, "start"),
            9500.. => (x, "end"),
            _ => (x, "middle"),
        };
        lines.push(
            classed("line", "grid")
                .with("x1", percent(x))
                .with("x2", percent(x))
                .with("y1", 0)
                .with("y2", height + 3),
        );
        let text = classed("text", "tick").with("x", percent(place)).with("y", height + 16);
        labels.push(text.with("text-anchor", anchor).text(seconds(at - axis.zero_ms, step)));
    }
    (lines, labels)
}

/// A time on the axis, as exact as the marks are apart.
fn seconds(ms: u64, step: u64) -> String {
    match step {
        0..100 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        100..1000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} s", ms / 1000),
    }
}

/// Hundredths of a percent as SVG wants them.
fn percent(hundredths: u64) -> String {
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bar(from_ms: u64, to_ms: u64) -> Bar {
        Bar { from_ms, to_ms, class: "fault", title: String::new(), label: "off".into() }
    }

    #[test]
    fn bars_that_overlap_have_lanes_of_their_own() {
        let row = Row::packed("faults", vec![bar(5, 9), bar(0, 4), bar(1, 3), bar(4, 5)]);
        let lanes: Vec<Vec<u64>> =
            row.lanes.iter().map(|lane| lane.iter().map(|bar| bar.from_ms).collect()).collect();
        assert_eq!(lanes, [vec![0, 4, 5], vec![1]]);
    }

    #[test]
    fn marks_count_from_zero_and_not_from_the_edge() {
        let axis = Axis { from_ms: 21_203, to_ms: 46_000, zero_ms: 0 };
        assert_eq!(axis.ticks(), (vec![25_000, 30_000, 35_000, 40_000, 45_000], 5000));
        let axis = Axis { from_ms: 1000, to_ms: 1900, zero_ms: 1000 };
        assert_eq!(axis.ticks(), (vec![1000, 1200, 1400, 1600, 1800], 200));
    }

    #[test]
    fn a_label_is_written_where_it_fits() {
        let axis = Axis { from_ms: 0, to_ms: 100, zero_ms: 0 };
        let label = |to_ms| draw_bar(axis, &bar(0, to_ms), 0).to_string();
        assert!(label(50).contains("\"label\""));
        assert!(label(4).contains("\"label wide\""));
        assert!(!label(1).contains("label"));
    }

    proptest! {
        #[test]
        fn nothing_leaves_the_picture(
            from_ms in 0u64..1 << 40, span in 0u64..1 << 40, bar_from in 0u64..1 << 41, bar_span in 0u64..1 << 41,
        ) {
            let axis = Axis { from_ms, to_ms: from_ms + span, zero_ms: from_ms };
            let (ticks, _) = axis.ticks();
            prop_assert!(ticks.len() as u64 <= TICKS_MAX + 1);
            for at in ticks {
                prop_assert!((axis.from_ms..=axis.to_ms).contains(&at));
            }
            let text = draw_bar(axis, &bar(bar_from, bar_from + bar_span), 0).to_string();
            let number = |name: &str| -> f64 {
                let rest = text.split(&format!(" {name}=\"")).nth(1).unwrap();
                rest.split('%').next().unwrap().parse().unwrap()
            };
            prop_assert!(number("x") + number("width") <= 100.01);
        }
    }
}
